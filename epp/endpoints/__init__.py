"""All that is known about endpoints, and its one owner: the pool. No I/O, no clock of its own."""
