"""Ask, before a model is registered, whether its data can carry one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tidegate.core.error import InvalidSetting
from tidegate.operation.train import lookup_keys, measure_by
from tidegate.service.declare import Service
from tidegate.training.feasibility import Feasibility, assess
from tidegate.training.run import seeded


def assess_feasibility(
    service: Service,
    *,
    n_shuffles: int,
    data: Any = None,
    params: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Feasibility:
    """Call a service's trainer and examine the trial that it returns. Nothing is stored.

    Args:
        service: The declaration, with its trainer.
        n_shuffles: Fits on shuffled outcomes.
        data: Rows for the trainer; None: it loads its own.
        params: Passed to the trainer.
        seed: For the global generators, shuffles and subsets.

    Raises:
        InvalidSetting: There is no trainer, or it returned no trial.
    """
    with seeded(seed):
        trained = service.train(data, params or {})
        if trained.trial is None:
            raise InvalidSetting(
                f"The trainer of service {service.name!r} returned no trial.",
                hint="Return tg.Trained(..., trial=tg.Trial(train=..., test=..., target=..., ...)).",
            )
        return assess(
            trained.trial,
            service.contract.input,
            measure=measure_by(service),
            by=lookup_keys(service),
            n_shuffles=n_shuffles,
            seed=seed,
        )
