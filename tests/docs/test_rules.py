"""The example rules name only metrics and labels that there are."""

from __future__ import annotations

import re
from pathlib import Path

from tidegate.control.metric import WatchCollector

RULES = (Path(__file__).parents[2] / "docs" / "monitoring" / "rules.yml").read_text()


def test_rules_name_metrics_that_are_given():
    given = {
        family.name: family for family in WatchCollector(1, {("loans", "risk", "critical"): 1}).collect()
    }
    named = set(re.findall(r"\btidegate_\w+", RULES))

    assert named == {*given, "tidegate_requests_total"}
    (sample,) = given["tidegate_signals_open"].samples
    assert set(sample.labels) == {"service", "monitor", "severity"}
