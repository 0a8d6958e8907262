"""A model server on a simulated engine."""
