"""`tg.Plan`: how a service's versions are released, as a person writes it down."""

from __future__ import annotations

from collections.abc import Sequence

from tidegate.core.declared import typed
from tidegate.release import plan
from tidegate.release.plan import Guardrail, PlanStep, ShadowStep
from tidegate.service.declare import duration_s

_DEFAULT = plan.Plan()
_SHARES = tuple(step.share for step in _DEFAULT.steps)


@typed
def Plan(  # noqa: N802 - reads as the class it makes
    *,
    steps: Sequence[float] = _SHARES,
    least: str | float = "1m",
    shadow: ShadowStep | None = _DEFAULT.shadow,
    guardrails: Sequence[Guardrail] = _DEFAULT.guardrails,
    alpha: float = _DEFAULT.alpha,
    limit: str | float = "7d",
    idle: str | float = "1h",
    approve: Sequence[float] = (),
    waves: Sequence[Sequence[str]] = (),
    mature: str | float | None = None,
) -> plan.Plan:
    """Declare how versions of a service are released.

    Args:
        steps: Shares of the candidate, ascending, each in (0, 1); everything comes after the last.
        least: How long each step lasts at least: seconds, or text such as `10m`.
        shadow: What comes before any user is answered; None goes without.
        guardrails: What must not get worse, and how much worse does no harm.
        alpha: Probability that a healthy version is ever rolled back.
        limit: How long a release may take; one that is expected to take longer is refused.
        idle: How long it holds without traffic of the candidate.
        approve: Shares that a person must agree to before; 1.0 is the promotion.
        waves: Cells that go first, then those after; empty: all at once.
        mature: How long the old version shadows the new one after promotion; None: until outcomes are in.

    Raises:
        InvalidSetting: The plan contradicts itself; the message says where.
    """
    each_s = duration_s(least)
    return plan.Plan(
        shadow=shadow,
        steps=tuple(PlanStep(share, each_s) for share in steps),
        guardrails=tuple(guardrails),
        alpha=alpha,
        limit_s=duration_s(limit),
        idle_s=duration_s(idle),
        approve=tuple(approve),
        waves=tuple(tuple(wave) for wave in waves),
        mature_s=None if mature is None else duration_s(mature),
    ).checked()
