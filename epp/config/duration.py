"""Go's durations (`1m30s`, `50ms`), Kubernetes' quantities (`1Gi`, `500M`) and Go's booleans as text. Pure functions.

The reference's flags and configuration write them this way; here a duration is seconds as a float, a quantity an int.
Errors are `ValueError`s that say what to write instead.
"""

from __future__ import annotations

import re

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_QUANTITY = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:([KMGTPE]i|[numkMGTPE])|[eE]([+-]?[0-9]{1,2}))?")
_SUFFIXES = {
    "n": (10, -9), "u": (10, -6), "m": (10, -3),
    "k": (10, 3), "M": (10, 6), "G": (10, 9), "T": (10, 12), "P": (10, 15), "E": (10, 18),
    "Ki": (2, 10), "Mi": (2, 20), "Gi": (2, 30), "Ti": (2, 40), "Pi": (2, 50), "Ei": (2, 60),
}  # fmt: skip
MAX_QUANTITY = 2**63 - 1


def parse_duration(text: str) -> float:
    """Give the seconds of a Go duration: signed decimal numbers with units, such as `300ms`, `1.5h` or `1m30s`."""
    rest = text.strip()
    sign = -1.0 if rest.startswith("-") else 1.0
    rest = rest.removeprefix("-").removeprefix("+")
    if rest == "0":
        return 0.0
    total, at = 0.0, 0
    while part := _PART.match(rest, at):
        total += float(part[1]) * _UNITS[part[2]]
        at = part.end()
    if not rest or at != len(rest):
        message = f"{text!r} is not a duration: write a number with its unit (ns, us, ms, s, m, h), such as 50ms, 30s or 1m30s"
        raise ValueError(message)
    return sign * total


def format_duration(seconds: float) -> str:
    """Write `seconds` as a Go duration, in the largest unit that leaves a short number: `50ms`, `30s`, `1m30s`."""
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if seconds < 1.0:
        for unit, size in (("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)):
            if seconds >= size:
                return f"{round(seconds / size, 3):g}{unit}"
        return "0s"
    hours, rest = divmod(seconds, 3600.0)
    minutes, rest = divmod(rest, 60.0)
    parts = [f"{hours:g}h"] if hours else []
    if minutes:
        parts.append(f"{minutes:g}m")
    if rest or not parts:
        parts.append(f"{round(rest, 3):g}s")
    return "".join(parts)


def parse_quantity(value: str | float) -> int:
    """Give a Kubernetes quantity as a whole number, rounded up: `100`, `1k`, `500M`, `1Gi`; a plain number is itself."""
    if isinstance(value, bool):
        message = f"{value!r} is not a quantity: write a number, such as 500, 1k or 1Gi"
        raise ValueError(message)  # noqa: TRY004 - pydantic and the flags both turn a ValueError into a message
    text = value.strip() if isinstance(value, str) else f"{value}"
    found = _QUANTITY.fullmatch(text)
    if not found:
        message = f"{value!r} is not a quantity: write a number, optionally with a suffix, such as 500, 1k, 500M or 1Gi"
        raise ValueError(message)
    base, power = _SUFFIXES.get(found[2], (10, int(found[3] or 0)))
    number = _scaled(found[1], base, power)
    if abs(number) > MAX_QUANTITY:
        message = f"{value!r} is too large a quantity: at most {MAX_QUANTITY}"
        raise ValueError(message)
    return number


def _scaled(digits: str, base: int, power: int) -> int:
    """Multiply exactly, as quantities above 2**53 do not fit a float, and round away from zero."""
    whole, _, fraction = digits.partition(".")
    numerator = int(f"{whole}{fraction}" or "0")
    denominator = 10 ** len(fraction)
    if power >= 0:
        numerator *= pow(base, power)
    else:
        denominator *= pow(base, -power)
    rounded: int = -(-abs(numerator) // denominator)
    return rounded if numerator >= 0 else -rounded


def parse_size(text: str) -> int:
    """Give a size in bytes, as the reference's size flags read it: a quantity, whose last letter may be B (`10MiB`)."""
    trimmed = text.strip()
    size = parse_quantity(trimmed[:-1] if len(trimmed) > 1 and trimmed[-1] in "Bb" else trimmed)
    if size < 0:
        message = f"{text!r} is negative: a size is 0 or more"
        raise ValueError(message)
    return size


_TRUE, _FALSE = frozenset({"1", "t", "true"}), frozenset({"0", "f", "false"})


def parse_bool(text: str) -> bool:
    """Read a boolean as Go does (`1`, `t`, `true`, `0`, `f`, `false`, in any case)."""
    lowered = text.strip().lower()
    if lowered in _TRUE:
        return True
    if lowered in _FALSE:
        return False
    message = f"{text!r} is neither true nor false"
    raise ValueError(message)


def is_bool(text: str) -> bool:
    """Tell whether `parse_bool` would read it."""
    return text.strip().lower() in _TRUE | _FALSE
