"""Entries that name no exchange and exchanges that wait for one."""

from __future__ import annotations

from dataclasses import dataclass

from epp.feedback.access_log import Entry
from epp.feedback.unnamed import MOST_ENTRIES, Unnamed


@dataclass(eq=False)
class Exchange:
    """What waits."""

    request_id: str
    started: float = 0.0


def test_either_half_may_come_first_and_each_is_paired_once() -> None:
    """An entry finds who waits; who comes to wait finds the entry; then both are gone."""
    unnamed: Unnamed[Exchange] = Unnamed()
    exchange, entry = Exchange("a"), Entry(request_id="a")
    assert unnamed.wait(exchange) is None
    assert unnamed.claim(entry, 1.0) is exchange
    unnamed.forget(exchange)
    assert unnamed.claim(entry, 1.0) is None
    assert unnamed.wait(Exchange("a")) is entry
    assert unnamed.wait(Exchange("a")) is None


def test_of_equal_ids_the_longest_waiting_is_first() -> None:
    """Clients may send the same id twice."""
    unnamed: Unnamed[Exchange] = Unnamed()
    first, second = Exchange("a"), Exchange("a")
    unnamed.wait(first)
    unnamed.wait(second)
    assert unnamed.claim(Entry(request_id="a"), 1.0) is first
    unnamed.forget(first)
    unnamed.forget(first)
    assert unnamed.claim(Entry(request_id="a"), 1.0) is second


def test_kept_entries_are_few_and_not_the_picker_s_own_refusals() -> None:
    """The oldest entry gives way; a refusal and an entry without an id are not kept."""
    unnamed: Unnamed[Exchange] = Unnamed()
    for number in range(MOST_ENTRIES + 1):
        unnamed.claim(Entry(request_id=str(number)), 1.0)
    unnamed.claim(Entry(request_id="refused", details="epp:rejected-no-endpoints"), 1.0)
    unnamed.claim(Entry(), 1.0)
    assert unnamed.wait(Exchange("0")) is None
    assert unnamed.wait(Exchange("1")) is not None
    assert unnamed.wait(Exchange("refused")) is None
    assert unnamed.wait(Exchange("")) is None


def test_an_entry_from_before_an_exchange_is_not_its_own() -> None:
    """A client that uses one id again cannot end its running request with the entry of an earlier one."""
    unnamed: Unnamed[Exchange] = Unnamed()
    unnamed.claim(Entry(request_id="a"), 5.0)
    later = Exchange("a", started=6.0)
    assert unnamed.wait(later) is None
    assert unnamed.claim(Entry(request_id="a"), 7.0) is later
