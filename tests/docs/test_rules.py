"""The example rules name only metrics and labels that there are."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from tests.serving.plane import Harness, Told
from tidegate.control.metric import PageCollector, WatchCollector

RULES = (Path(__file__).parents[2] / "docs" / "monitoring" / "rules.yml").read_text()
_AGGREGATED = re.compile(r"by \(([a-z_, ]+)\) \((?:rate\()?(tidegate_\w+)(?:\{(\w+))?")


def exported(folder: Path) -> dict[str, set[str]]:
    """Return sample names and labels as a server gives them that was asked once and refused once."""

    async def ask() -> None:
        harness = Harness(folder)
        harness.serve(Told(lambda x: x))
        await harness.ask([1.0])
        harness.plane.count_refusal("svc", "contract_violation", "x")
        harness.plane.journal_refusals()
        harness.journal.close()

    asyncio.run(ask())
    found: dict[str, set[str]] = {}
    signals = WatchCollector(1, 0, {("svc", "risk", "critical"): 1})
    for family in (*PageCollector(folder).collect(), *signals.collect()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_rules_name_metrics_and_labels_that_are_given(tmp_path: Path) -> None:
    given = exported(tmp_path)

    named = set(re.findall(r"\btidegate_\w+", RULES))
    uses = _AGGREGATED.findall(RULES)

    assert named <= set(given)
    assert len(uses) >= 7
    for labels, name, matched in uses:
        wanted = {each.strip() for each in labels.split(",")} | ({matched} if matched else set())
        assert wanted <= given[name], name


def test_every_recorded_name_is_one_prometheus_takes() -> None:
    for name in re.findall(r"- record: (\S+)", RULES):
        assert re.fullmatch(r"tidegate:[a-z0-9_]+:[a-z0-9_]+", name)
