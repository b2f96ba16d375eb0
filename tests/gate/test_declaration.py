"""Margins and gates that make no sense are refused by name."""

from __future__ import annotations

import pytest

import tidegate as tg
from tidegate.core.error import InvalidSetting
from tidegate.gate.declaration import NAMES


@pytest.mark.parametrize(
    "options",
    [
        {"quality_margin": 0.0},
        {"latency_ratio": 1.0},
        {"level": 1.0},
        {"size_limit_bytes": 0},
        {"left_out": {"latency": " "}},
        {"left_out": {"speed": "it is fast"}},
    ],
)
def test_what_makes_no_sense_is_refused(options):
    name = next(iter(options))
    with pytest.raises(InvalidSetting, match=name if name != "left_out" else "latency|speed"):
        tg.Gates(**options).checked()


def test_the_defaults_are_in_order_and_every_gate_has_one_name():
    assert tg.Gates().checked() == tg.Gates()
    assert len(set(NAMES)) == len(NAMES) == 16
