"""Pickers: turn weighted totals into a choice and its fallbacks."""
