"""Everything that is wrong with a file, gathered before it is raised, so that one attempt shows all of it.

Decides how several errors are shown together, and which known name is near an unknown one.
"""

from __future__ import annotations

import difflib
from collections.abc import Container, Iterable, Sequence

from epp.config.document import Document, Path, dotted
from epp.errors import ConfigError


class ConfigErrors(ConfigError):  # noqa: N818 - several of them
    """Several errors of one configuration. `errors` holds each with its own place; the message lists them all."""

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        """Take at least one error; file, line and key are those of the first."""
        self.errors = tuple(errors)
        first = self.errors[0]
        super().__init__(first.message, file=first.file, line=first.line, key=first.key)
        listing = "\n".join(f"  {error}" for error in self.errors)
        self.args = (f"{len(self.errors)} errors:\n{listing}",)


class Problems:
    """Takes note of errors and warnings about one document."""

    def __init__(self, document: Document) -> None:
        """Start with nothing noted about `document`."""
        self.document = document
        self.errors: list[ConfigError] = []
        self.warnings: list[str] = []

    def error(self, path: Path, message: str) -> None:
        """Note an error at `path`, at most once."""
        error = self.document.error(path, message)
        if str(error) not in map(str, self.errors):
            self.errors.append(error)

    def adopt(self, path: Path, error: ConfigError) -> None:
        """Note an error that somebody else raised, at `path` unless it knows a place of its own."""
        if isinstance(error, ConfigErrors):
            for one in error.errors:
                self.adopt(path, one)
        elif error.file is None:
            self.error(path, ": ".join(part for part in (error.key, error.message) if part))
        else:
            self.error(path, str(error))

    def warn(self, path: Path, message: str) -> None:
        """Note a warning at `path`, with its line."""
        line = self.document.line(path)
        place = f"{self.document.file}:{line}" if line else self.document.file
        text = ": ".join(part for part in (place, dotted(path), message) if part)
        if text not in self.warnings:
            self.warnings.append(text)

    def missing(self, path: Path, name: str, known: Iterable[str], inert: Container[str]) -> None:
        """Note that no plugin is called `name`; `inert` are the names of flow control's, which nothing else can use."""
        if name in inert:
            self.error(path, f"{name!r} belongs to flow control, which this build does not have yet")
        else:
            self.error(path, f"no plugin is called {name!r}{nearest(name, known)}")

    def check(self) -> None:
        """Raise what was noted, in the order of the lines, if there are errors."""
        raise_together(self.errors)


def raise_together(errors: Sequence[ConfigError]) -> None:
    """Raise nothing, the one error, or all of them in one, in the order of their lines."""
    if not errors:
        return
    if len(errors) == 1:
        raise errors[0]
    raise ConfigErrors(sorted(errors, key=lambda error: error.line or 0))


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest the known name nearest to `name`, as the end of a sentence; else list the known names if they are few."""
    names = sorted(set(known))
    lowered = {one.lower(): one for one in names}
    found = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    if found:
        return f"; did you mean {lowered[found[0]]!r}?"
    if 0 < len(names) <= 12:
        return f"; known: {', '.join(names)}"
    return ""
