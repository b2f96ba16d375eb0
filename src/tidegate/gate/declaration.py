"""What a service asks of a version before it may have traffic: kept with each version."""

from __future__ import annotations

from typing import Any

import msgspec

from tidegate.core.declared import Declared
from tidegate.core.error import InvalidSetting

NAMES = (
    "contract",
    "leaks",
    "units",
    "rehearsal",
    "baselines",
    "champion",
    "slices",
    "groups",
    "calibration",
    "parity",
    "check-inputs",
    "latency",
    "memory",
    "size",
    "data-age",
    "card",
)
"""Every gate, in the order in which they are shown: what makes the later ones meaningless comes first."""


class Gates(Declared, frozen=True, omit_defaults=True, kw_only=True):
    """How much worse a version may be, and how sure of it one has to be. docs/gate.md has the reasons.

    Attributes:
        quality_margin: Largest rise of the mean loss on the same rows, as a share of the champion's.
        slice_margin: The same on a part of the rows that is confirmed to be worse, and on a
            protected group.
        group_margin: Largest rise of the gap between a protected group and the rest, in share of
            decisions (true positive, false positive and selection rate); without a champion the largest
            gap of the first two itself.
        calibration_margin: Largest rise of the calibration error (mean distance of predicted and
            observed rates); without a champion the largest error itself is `calibration_limit`.
        calibration_limit: See above.
        unit_ratio: From which factor on a column whose every quantile is that much larger or smaller
            than it was counts as a change of unit.
        leak_auc: Above it a single feature that orders the outcomes knows them.
        known_leaks: Features that may order the outcomes as well as they like, by name: a person has
            looked at them.
        latency_ratio: Largest p99 of answers, and of the model's own time, over the champion's,
            measured beside it.
        memory_ratio: Largest memory of the serving processes over the champion's.
        size_ratio: Largest size of the files over the champion's.
        size_limit_bytes: Largest size of the files; None: only the ratio counts.
        max_data_age_s: Largest age of the newest row, seconds; None: no limit.
        data_behind_s: By how much the newest row may be older than the champion's newest, seconds.
        level: Confidence of each interval, in (0, 1).
        keep_sensitive: Whether the rows of trials are kept although they hold sensitive fields: without
            them nobody can compare two versions of such a service.
        left_out: Gates that this service does without, by name, each with the reason.
    """

    quality_margin: float = 0.02
    slice_margin: float = 0.05
    group_margin: float = 0.05
    calibration_margin: float = 0.02
    calibration_limit: float = 0.1
    unit_ratio: float = 1.2
    leak_auc: float = 0.85
    known_leaks: tuple[str, ...] = ()
    latency_ratio: float = 1.5
    memory_ratio: float = 1.5
    size_ratio: float = 3.0
    size_limit_bytes: int | None = None
    max_data_age_s: float | None = None
    data_behind_s: float = 31 * 86_400.0
    level: float = 0.95
    keep_sensitive: bool = False
    left_out: dict[str, str] = msgspec.field(default_factory=dict)

    def checked(self) -> Gates:
        """Return the declaration if it can be used.

        Raises:
            InvalidSetting: A margin, ratio or level lies outside its range, or a gate is not known.
        """
        for name in ("quality_margin", "slice_margin", "group_margin", "calibration_margin"):
            _require(name, getattr(self, name), 0 < getattr(self, name) <= 1, "in (0, 1]")
        for name in ("unit_ratio", "latency_ratio", "memory_ratio", "size_ratio"):
            _require(name, getattr(self, name), getattr(self, name) > 1, "above 1")
        _require("calibration_limit", self.calibration_limit, 0 < self.calibration_limit <= 1, "in (0, 1]")
        _require("leak_auc", self.leak_auc, 0.5 < self.leak_auc <= 1, "in (0.5, 1]")
        _require("level", self.level, 0.5 < self.level < 1, "in (0.5, 1)")
        for name in ("size_limit_bytes", "max_data_age_s"):
            value = getattr(self, name)
            _require(name, value, value is None or value > 0, "above 0")
        _require("data_behind_s", self.data_behind_s, self.data_behind_s >= 0, "at least 0")
        for gate, reason in self.left_out.items():
            check_gate(gate)
            if not reason.strip():
                raise InvalidSetting(
                    f"The gate {gate!r} is left out without a reason.",
                    hint="tg.Gates(left_out={'latency': 'runs in batches at night'})",
                )
        return self


def check_gate(name: str) -> str:
    """Return the name of a gate.

    Raises:
        InvalidSetting: There is none of that name.
    """
    if name not in NAMES:
        raise InvalidSetting(f"There is no gate {name!r}.", hint=f"Gates: {', '.join(NAMES)}.", gate=name)
    return name


def _require(name: str, value: Any, holds: bool, expected: str) -> None:
    if not holds:
        raise InvalidSetting(f"tg.Gates({name}=...) must lie {expected}. Got {value!r}.")
