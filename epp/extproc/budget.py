"""How many bytes of request bodies all streams together may hold. Counts; who is refused, and how, is the machine's.

Each stream's body has a limit of its own, but many unfinished ones would fill the memory all the same.
"""

from __future__ import annotations

import math


class Budget:
    """Bytes held by all streams, against a limit. Whatever was taken is given back."""

    def __init__(self, limit: float = math.inf) -> None:
        """Allow `limit` bytes in all; without it, any number."""
        self.limit = limit
        self.used = 0

    def take(self, size: int) -> bool:
        """Take `size` bytes; False, and nothing taken, when that many are not left."""
        if self.used + size > self.limit:
            return False
        self.used += size
        return True

    def give(self, size: int) -> None:
        """Give `size` bytes back."""
        self.used -= size
