"""Tidegate takes a trained model to production and keeps it trustworthy there.

The public names load on first use (PEP 562), so that a data-plane worker, which imports parts of
this package, pays only for what it serves with.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it; importing `typing` takes a rollback longer than all else
if TYPE_CHECKING:
    from typing import Any

    from tidegate.bootstrap.publish import register as register
    from tidegate.contract.compare import compare as compare
    from tidegate.contract.declare import (
        Input as Input,
        Output as Output,
        category as category,
        duration as duration,
        field as field,
        timestamp as timestamp,
        vector as vector,
    )
    from tidegate.contract.objective import Limits as Limits
    from tidegate.contract.placement import Placement as Placement
    from tidegate.contract.schema import Contract as Contract
    from tidegate.evaluation.declaration import (
        CostMatrix as CostMatrix,
        Evaluation as Evaluation,
        Invariant as Invariant,
        Monotone as Monotone,
    )
    from tidegate.gate.declaration import Gates as Gates
    from tidegate.registry.card import Card as Card
    from tidegate.monitoring.declaration import Kpi as Kpi
    from tidegate.monitoring.declaration import Monitoring as Monitoring
    from tidegate.release.declaration import Experiment as Experiment
    from tidegate.release.plan import Guardrail as Guardrail, ShadowStep as ShadowStep
    from tidegate.service.declare import (
        Cache as Cache,
        Cheaper as Cheaper,
        Constant as Constant,
        Lookup as Lookup,
        Objectives as Objectives,
        Remote as Remote,
        Rule as Rule,
        Service as Service,
        Trained as Trained,
    )
    from tidegate.service.plan import Plan as Plan
    from tidegate.training.trial import Trial as Trial

_HOMES = {
    "Input": "contract.declare",
    "Output": "contract.declare",
    "category": "contract.declare",
    "duration": "contract.declare",
    "field": "contract.declare",
    "timestamp": "contract.declare",
    "vector": "contract.declare",
    "Card": "registry.card",
    "Contract": "contract.schema",
    "Gates": "gate.declaration",
    "Limits": "contract.objective",
    "Placement": "contract.placement",
    "compare": "contract.compare",
    "CostMatrix": "evaluation.declaration",
    "Evaluation": "evaluation.declaration",
    "Invariant": "evaluation.declaration",
    "Monotone": "evaluation.declaration",
    "Kpi": "monitoring.declaration",
    "Monitoring": "monitoring.declaration",
    "Experiment": "release.declaration",
    "Guardrail": "release.plan",
    "ShadowStep": "release.plan",
    "Plan": "service.plan",
    "Cache": "service.declare",
    "Cheaper": "service.declare",
    "Constant": "service.declare",
    "Lookup": "service.declare",
    "Objectives": "service.declare",
    "Remote": "service.declare",
    "Rule": "service.declare",
    "Service": "service.declare",
    "Trained": "service.declare",
    "Trial": "training.trial",
    "register": "bootstrap.publish",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605 - a list of str, sorted


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tidegate' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"tidegate.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
