"""Generated from protos/ by scripts/generate."""
