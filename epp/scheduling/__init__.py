"""Filters, weighted scorers, pickers: profiles and the scheduler. No I/O; time and randomness are handed in."""
