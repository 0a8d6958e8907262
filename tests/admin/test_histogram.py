from __future__ import annotations

import prometheus_client
from hypothesis import given
from hypothesis import strategies as st

from epp.admin.histogram import Family, Histogram, Reading, shown

BOUNDS = (0.5, 1.0, 2.0, 1000.0)


@given(st.lists(st.floats(-10, 1e6) | st.integers(0, 10**12) | st.sampled_from(BOUNDS)))
def test_it_counts_as_prometheus_client_does(values: list[float]) -> None:
    """Buckets, count and sum are those of the library's own histogram, on the bounds too."""
    ours, theirs = Histogram(BOUNDS), prometheus_client.Histogram("llm_d_epp_x", "x", buckets=BOUNDS, registry=None)
    for value in values:
        ours.observe(value)
        theirs.observe(value)
    reading = Reading(Family("x", "x", (), "histogram", BOUNDS))
    reading.add((), ours)
    expected = [sample for sample in next(iter(theirs.collect())).samples if not sample.name.endswith("_created")]
    found = shown(reading).samples
    assert {(s.name, tuple(s.labels.items()), s.value) for s in found} == {
        (s.name, tuple(s.labels.items()), s.value) for s in expected
    }


def test_a_reading_is_a_copy() -> None:
    """What is observed after the reading was taken does not change it."""
    histogram = Histogram(BOUNDS)
    histogram.observe(1)
    reading = Reading(Family("x", "x", (), "histogram", BOUNDS))
    reading.add((), histogram)
    histogram.observe(1)
    assert reading.samples == [((), ([0, 1, 0, 0, 0], 1.0))]
