"""Block hashing and the index of who holds which prefix. Pure: no I/O, no clock, and nothing known of requests."""
