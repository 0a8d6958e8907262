"""Filters, weighted scorers, pickers: profiles and the scheduler. No I/O, no clock."""
