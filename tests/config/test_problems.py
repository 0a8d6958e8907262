from __future__ import annotations

import pytest

from epp.config.document import read_document
from epp.config.problems import ConfigErrors, Problems, nearest
from epp.errors import ConfigError


@pytest.fixture
def problems() -> Problems:
    """Nothing noted yet about a small document."""
    return Problems(read_document("a: 1\nb: 2\n", "c.yaml"))


def test_one_error_is_raised_as_itself(problems: Problems) -> None:
    """Without a list around it."""
    problems.check()
    problems.error(("b",), "wrong")
    with pytest.raises(ConfigError, match=r"^c.yaml:2: b: wrong$") as caught:
        problems.check()
    assert not isinstance(caught.value, ConfigErrors)


def test_several_are_listed_by_line_and_each_once(problems: Problems) -> None:
    """The first gives file, line and key to whoever wants one."""
    for path in (("b",), ("a",), ("b",)):
        problems.error(path, "wrong")
    with pytest.raises(ConfigErrors) as caught:
        problems.check()
    assert str(caught.value) == "2 errors:\n  c.yaml:1: a: wrong\n  c.yaml:2: b: wrong"
    assert (caught.value.file, caught.value.line, caught.value.key) == ("c.yaml", 1, "a")


def test_errors_of_others_get_a_place(problems: Problems) -> None:
    """Their own, if they know it."""
    problems.adopt(("a",), ConfigError("x", key="k"))
    problems.adopt(("b",), ConfigErrors([ConfigError("y"), ConfigError("z", file="other.py", line=5)]))
    assert [str(error) for error in problems.errors] == [
        "c.yaml:1: a: k: x", "c.yaml:2: b: y", "c.yaml:2: b: other.py:5: z",
    ]  # fmt: skip


def test_a_warning_has_its_line_and_stands_once(problems: Problems) -> None:
    """It is a line for the log."""
    problems.warn(("b", "c"), "odd")
    problems.warn(("b", "c"), "odd")
    assert problems.warnings == ["c.yaml:2: b.c: odd"]


def test_the_nearest_name_is_suggested() -> None:
    """In any case; few names are listed when none is near, many are not."""
    assert nearest("Weigth", ["weight", "name"]) == "; did you mean 'weight'?"
    assert nearest("xyz", ["weight", "name"]) == "; known: name, weight"
    assert nearest("xyz", [f"name{i}" for i in range(20)]) == ""
    assert nearest("xyz", []) == ""
