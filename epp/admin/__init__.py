"""Health, metrics and the state of the picker over HTTP."""
