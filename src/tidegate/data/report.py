"""What validating a data set found."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

SAMPLE_ROWS = 5
"""Offending rows that a finding shows: enough to see a pattern, few enough to read."""


class Policy(StrEnum):
    """What follows from a broken rule."""

    REJECT = "reject"  # the data set is not taken
    QUARANTINE = "quarantine"  # the offending rows go to a side table, the others are taken
    WARN = "warn"  # all rows are taken, and the report says so


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """A broken rule.

    Attributes:
        rule: Its name.
        column: Whose values broke it; several are joined by `, `; empty for the table as a whole.
        policy: What follows.
        count: Offending rows; all rows where the fault is the column's or the table's.
        message: What was wrong and what was expected.
        row_numbers: Some of the offending rows, counted from 0.
        rows: The same rows; values of sensitive fields are hidden.
    """

    rule: str
    column: str
    policy: Policy
    count: int
    message: str
    row_numbers: tuple[int, ...] = ()
    rows: tuple[dict[str, Any], ...] = ()


class Report(msgspec.Struct, frozen=True):
    """Everything that was found.

    Attributes:
        n_rows: Rows that were looked at.
        n_checks: Checks that were made.
        n_quarantined: Rows that broke a rule whose policy is to quarantine.
        findings: Broken rules, in the order of the checks.
    """

    n_rows: int
    n_checks: int
    n_quarantined: int
    findings: tuple[Finding, ...]

    @property
    def accepted(self) -> bool:
        """Whether the data set may be taken, less the quarantined rows."""
        return not any(finding.policy == Policy.REJECT for finding in self.findings)
