"""Scorers: rate the candidates in [0, 1], higher is better; NaN where an endpoint's state is unknown."""
