"""Producers: attach to requests what scorers need, and learn from what became of them."""
