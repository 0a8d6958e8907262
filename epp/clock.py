"""The one clock and the one random generator, handed in by whoever builds the picker. Nothing else reads the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

#: Seconds on a monotonic scale. Tests hand in a clock of their own.
Clock: TypeAlias = Callable[[], float]

system_clock: Clock = time.monotonic
