"""The pool as others see it: gauges for the metrics page and rows for the state API. Reads the table, changes nothing.

On the metrics page what is not known is left out, or 0 where it is a mean over the pool; in the API it is null.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from epp.admin import families
from epp.admin.histogram import Family, Reading
from epp.admin.labels import clean

if TYPE_CHECKING:
    from epp.api import Floats, Pool

PRODUCER = "inflight-load-producer"


class PoolGauges:
    """The pool's gauges, computed when somebody asks."""

    def __init__(self, pool: Pool, name: str) -> None:
        """Show `pool` under `name`."""
        self._pool = pool
        self._name = clean(name)

    def read(self) -> list[Reading]:
        """Compute all gauges."""
        columns = self._pool.columns
        ready = columns["unreachable"] == 0.0
        readings = [_gauge(families.READY, self._name, float(ready.sum()))]
        for column, (average, deviation) in families.POOL.items():
            mean, spread = _spread(columns[column][ready])
            readings += [_gauge(average, self._name, mean), _gauge(deviation, self._name, spread)]
        return readings + self._by_endpoint()

    def _by_endpoint(self) -> list[Reading]:
        endpoints, columns = self._pool.endpoints, self._pool.columns
        queue, age = Reading(families.QUEUE_SIZE), Reading(families.SCRAPE_AGE)
        requests, tokens = Reading(families.INFLIGHT_REQUESTS), Reading(families.INFLIGHT_TOKENS)
        waiting, ages = columns["waiting"].tolist(), (self._pool.clock() - columns["scraped_at"]).tolist()
        for row, (endpoint, name) in enumerate(zip(endpoints, endpoint_names(self._pool), strict=True)):
            if waiting[row] == waiting[row]:  # not NaN
                queue.add((self._name, name), waiting[row])
            if ages[row] == ages[row]:
                age.add((self._name, name), max(0.0, ages[row]))
            labels = (name, clean(endpoint.spec.namespace), PRODUCER)
            requests.add(labels, endpoint.leases)
            tokens.add(labels, endpoint.tokens)
        return [queue, age, requests, tokens]


def endpoint_names(pool: Pool) -> list[str]:
    """Name each endpoint as an operator knows it: by its name if only it has that name, else `ip:port`."""
    names = [clean(endpoint.spec.name) for endpoint in pool.endpoints]
    times = Counter(names)
    keys = {endpoint.key for endpoint in pool.endpoints}
    return [
        name if name and times[name] == 1 and name not in keys else endpoint.key
        for name, endpoint in zip(names, pool.endpoints, strict=True)
    ]


def _gauge(family: Family, name: str, value: float) -> Reading:
    reading = Reading(family)
    reading.add((name,), value)
    return reading


def _spread(values: Floats) -> tuple[float, float]:
    """Give mean and sample deviation of the known values; 0 where there are too few."""
    known = values[np.isfinite(values)]
    if not len(known):
        return 0.0, 0.0
    return float(known.mean()), float(known.std(ddof=1)) if len(known) > 1 else 0.0


def pool_state(pool: Pool) -> dict[str, Any]:
    """Describe the pool and every endpoint with all columns; unknown is None."""
    names = list(pool.columns)
    values = [_known(pool.columns[name]) for name in names]
    ages = _known(pool.clock() - pool.columns["scraped_at"])
    rows = []
    for row, endpoint in enumerate(pool.endpoints):
        spec = endpoint.spec
        rows.append({
            "endpoint": endpoint.key,
            "name": clean(spec.name),
            "namespace": clean(spec.namespace),
            "labels": {clean(key, 512): clean(value, 512) for key, value in spec.labels.items()},
            "leases": endpoint.leases,
            "tokens": endpoint.tokens,
            "scrape_age_seconds": ages[row],
            "adapters": sorted(map(clean, endpoint.adapters)),
            "waiting_adapters": sorted(map(clean, endpoint.waiting_adapters)),
            "columns": {name: column[row] for name, column in zip(names, values, strict=True) if name != "scraped_at"},
        })  # fmt: skip
    return {"synced": pool.synced, "version": pool.version, "endpoints": rows}


def _known(column: Floats) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in column.tolist()]
