"""Built-in profiles."""
