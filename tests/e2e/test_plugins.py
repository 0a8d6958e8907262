"""A user's own plugins: the README's scorer as it is printed there, a class of a module, and an installed entry point."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from epp.simulator.options import SimulatorOptions
from tests.e2e.configs import configuration, endpoints_file, using
from tests.e2e.stack import free_port, stack

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"^```(python|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

SCORER = '''
"""A plugin as an operator would install it."""
from epp.api import Candidates, Parameters, Request, Scores


class PortParameters(Parameters):
    """Which port is liked."""

    liked_port: int


class PortScorer:
    """Likes one port."""

    def __init__(self, parameters: PortParameters) -> None:
        """Take it."""
        self.key = f"127.0.0.1:{parameters.liked_port}"

    def score(self, request: Request, pool: Candidates) -> Scores:
        """Rate it 1."""
        scores = pool.full(0.0)
        scores[[endpoint.key == self.key for endpoint in pool.endpoints]] = 1.0
        return scores


class Broken:
    """A scorer with a mistake."""

    def score(self, request: Request, pool: Candidates) -> Scores:
        """Fail as people's code does."""
        return pool.no_such_signal
'''


def printed_in_the_readme() -> tuple[str, str]:
    """Give the first Python block of the README that has a scorer, and the configuration after it."""
    blocks = BLOCK.findall(README.read_text(encoding="utf-8"))
    at = next(number for number, (kind, text) in enumerate(blocks) if kind == "python" and "def score" in text)
    config = next(text for kind, text in blocks[at + 1 :] if kind == "yaml" and "my_scorer.py:" in text)
    return blocks[at][1], config


async def test_the_scorer_printed_in_the_readme_decides(tmp_path: Path) -> None:
    """Copied from the README, it sends every request to the server it rates best, and is named among the reasons."""
    scorer, config = printed_in_the_readme()
    ports = [free_port() for _ in range(3)]
    (tmp_path / "my_scorer.py").write_text(scorer)
    (tmp_path / "endpoints.yaml").write_text(endpoints_file(ports, {"tier": "spot"}, {"tier": "gold"}, {}))
    options = [SimulatorOptions(port=port, speed=50) for port in ports]
    async with stack(options, config=config, endpoints=False, directory=tmp_path) as running:
        answers = [await running.chat(f"question {number}") for number in range(8)]
        assert [(answer.status, answer.served) for answer in answers] == [(200, running.key(1))] * 8
        (decision,) = (await running.state(f"/api/decisions?request_id={answers[0].request_id}"))["decisions"]
        best, *_ = decision["candidates"]
        assert (best["endpoint"], best["total"]) == (running.key(1), 1.0)
        assert all(list(row["scores"]) == ["gold"] for row in decision["candidates"])


@pytest.mark.parametrize("style", ["module", "entry point"])
async def test_a_plugin_from_an_installed_package_decides(style: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named as `package.module:Class`, or by the entry point its distribution registers; its parameters are typed."""
    (tmp_path / "acme_plugins.py").write_text(SCORER)
    described = tmp_path / "acme_plugins-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-plugins\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text("[epp.plugins]\nacme-port-scorer = acme_plugins:PortScorer\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    kind = "acme_plugins:PortScorer" if style == "module" else "acme-port-scorer"
    ports = [free_port() for _ in range(3)]
    config = configuration(
        [{"name": "port", "type": kind, "parameters": {"likedPort": ports[2]}}], [{"pluginRef": "port", "weight": 2}]
    )
    async with stack([SimulatorOptions(port=port, speed=50) for port in ports], config=config) as running:
        answers = [await running.chat(f"question {number}") for number in range(8)]
        assert [(answer.status, answer.served) for answer in answers] == [(200, running.key(2))] * 8


async def test_a_scorer_that_raises_is_passed_over_counted_and_says_where(tmp_path: Path) -> None:
    """The other scorers decide as if it were not there; no request fails, and no prompt is in the log."""
    (tmp_path / "mine.py").write_text(SCORER)
    config = using("queue-scorer", {"name": "mine", "type": "./mine.py:Broken"})
    async with stack([SimulatorOptions(speed=50)] * 2, config=config, directory=tmp_path) as running:
        running.servers[0].fixed.waiting, running.servers[1].fixed.waiting = 3.0, 0.0
        await running.scraped()
        answers = [await running.chat("a secret question") for _ in range(5)]
        assert [(answer.status, answer.served) for answer in answers] == [(200, running.key(1))] * 5
        assert await running.metric("llm_d_epp_plugin_failures_total", plugin_name="mine") == 5
        logged = json.dumps(list(running.picker.entries))
        assert "mine.py" in logged
        assert "secret" not in logged
