"""Requests that were turned away because of what is in them: which field, since when, how many."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tidegate.monitoring.signal import Finding, Severity

FEATURE_FAULTS = ("feature_missing", "feature_stale", "feature_unread")
"""Codes of answers without a prediction, for want of a feature that is there and fresh."""
CALLER_FAULTS = ("contract_violation", "invalid_tensor", "malformed_body", "too_many_rows", "body_too_large")
"""Codes of refusals that the request itself is the cause of; load and deadlines are others' to watch."""
WINDOW_MINUTES = 60
BEFORE_MINUTES = 24 * 60
FEWEST = 20
LEAST_SHARE = 0.01
TIMES = 3.0
"""How many times the share of the day before it must be: some callers are always wrong."""

WATCHED = frozenset((*CALLER_FAULTS, *FEATURE_FAULTS))
_REMEDIES = {
    "contract_violation": "Somebody sends what the contract does not allow. Tell the callers of {field}, or "
    "widen the contract if they are right: `tidegate journal show --kind refusal` has the times.",
    **dict.fromkeys(
        FEATURE_FAULTS, "Features are missing or too old: see what feeds them, and whether it still runs."
    ),
}
_OTHERWISE = "Somebody sends what is no request: tell the callers; `tidegate journal show --kind refusal`."


class Refused(msgspec.Struct, frozen=True):
    """One cause of refusals.

    Attributes:
        code: The error's code.
        field: The field that it concerns; "" where it is the whole request.
        n_refused, n_asked: Over the window: for this cause, and requests in all, refused ones included.
        share_before: Share of the requests of the day before.
    """

    code: str
    field: str
    n_refused: int
    n_asked: int
    share_before: float

    @property
    def share(self) -> float:
        """Share of the window's requests."""
        return self.n_refused / max(1, self.n_asked)


def refused(
    refusals: Mapping[tuple[int, str], int], answered: Mapping[int, int], now_minute: int
) -> list[Refused]:
    """Return the causes for which an unusual share of the last hour's requests was refused.

    Args:
        refusals: (minute, code or `code(field)`) -> how many.
        answered: Minute -> requests that became records.
        now_minute: Minutes since 1970 UTC; the window ends with it.
    """
    begins = now_minute - WINDOW_MINUTES + 1
    sums: dict[str, list[int]] = {}
    asked = [0, 0]
    for (minute, what), count in refusals.items():
        if begins - BEFORE_MINUTES <= minute <= now_minute:
            is_now = minute >= begins
            asked[is_now] += count
            sums.setdefault(what, [0, 0])[is_now] += count
    for minute, count in answered.items():
        if begins - BEFORE_MINUTES <= minute <= now_minute:
            asked[minute >= begins] += count
    found = []
    for what, (before, now) in sums.items():
        code, _, field = what.removesuffix(")").partition("(")
        each = Refused(code, field, now, asked[1], before / asked[0] if asked[0] else 0.0)
        unusual = each.share >= max(LEAST_SHARE, TIMES * each.share_before)
        if code in WATCHED and now >= FEWEST and unusual:
            found.append(each)
    return sorted(found, key=lambda each: -each.n_refused)


def finding_of(each: Refused) -> Finding:
    """Return a cause as a finding."""
    of = f" because of {each.field!r}" if each.field else ""
    field = f"{each.field!r}" if each.field else "the service"
    return Finding(
        kind="refusal",
        subjects=(f"{each.code} {each.field}".strip(),),
        title=f"{each.share:.1%} of the last hour's requests were refused{of} ({each.code}); "
        f"{each.share_before:.1%} the day before",
        severity=Severity.WARNING,
        evidence=msgspec.to_builtins(each),
        remedy=_REMEDIES.get(each.code, _OTHERWISE).format(field=field),
        cost=f"{each.n_refused:,} requests in an hour without an answer",
    )
