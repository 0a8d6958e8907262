"""Model servers' /metrics into columns of the pool."""
