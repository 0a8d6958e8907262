"""Filters: say which candidates may serve a request."""
