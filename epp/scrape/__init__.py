"""How busy the model servers say they are: their Prometheus pages, fetched and read into the pool's columns."""
