from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from epp.admin.histogram import Count
from epp.admin.labels import LONGEST, OTHER, Cells, Limit, clean


@given(st.text(st.characters()))
def test_clean_values_are_harmless(text: str) -> None:
    """Whatever came is short, printable and can be encoded; what was so already stays."""
    value = clean(text)
    value.encode()
    assert len(value) <= LONGEST
    assert value.isprintable()
    assert clean(value) == value


@given(st.lists(st.text("abc", max_size=2)), st.integers(0, 5))
def test_a_limit_lets_in_so_many_and_remembers_them(values: list[str], most: int) -> None:
    """At most `most` values are told apart, and one value always gives the same answer."""
    limit = Limit(most)
    answers: dict[str, str] = {}
    for value in values:
        answer = limit.bound(value)
        assert answer in (value, OTHER)
        assert answers.setdefault(value, answer) == answer
    assert len({answer for value, answer in answers.items() if answer == value and value}) <= most


def test_pinned_values_are_never_crowded_out() -> None:
    """A configured name is shown however many others came before, and takes nobody's place."""
    limit = Limit(2)
    limit.pin("configured")
    assert [limit.bound(value) for value in ("a", "configured", "b", "c")] == ["a", "configured", "b", OTHER]


def test_cells_are_found_again() -> None:
    """The same labels always give the same cell."""
    cells = Cells(Count)
    cells.at(("a", "b")).value += 1
    cells.at(("a", "b")).value += 1
    assert {labels: count.value for labels, count in cells.cells.items()} == {("a", "b"): 2}


def test_too_many_cells_share_one() -> None:
    """After `most` label values all further ones are counted together, and nothing is lost."""
    cells = Cells(Count, most=3)
    for number in range(10):
        cells.at((str(number), "x")).value += 1
    assert len(cells.cells) == 4
    assert cells.cells[OTHER, OTHER].value == 7
    assert len(cells._known) <= 3


def test_values_that_clean_to_the_same_share_a_cell() -> None:
    """Two series never have the same labels: a scraper would refuse the page."""
    cells = Cells(Count)
    cells.at(("a" * LONGEST + "1",)).value += 1
    cells.at(("a" * LONGEST + "2",)).value += 1
    assert [count.value for count in cells.cells.values()] == [2]
