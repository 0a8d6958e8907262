"""Block hashing and the index of who holds which prefix. Pure."""
