"""Ask why a service's model errs, before or after it is registered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tidegate.core.error import InvalidSetting
from tidegate.data.mislabel import Learner
from tidegate.operation.train import measure_by
from tidegate.service.declare import Service
from tidegate.training.diagnosis import Diagnosis, diagnose
from tidegate.training.run import seeded


def diagnose_service(
    service: Service,
    *,
    reference: Learner | None = None,
    data: Any = None,
    params: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Diagnosis:
    """Call a service's trainer and look into the trial that it returns. Nothing is stored.

    Args:
        service: The declaration, with its trainer.
        reference: Fits a reference model of more freedom.
        data: Rows for the trainer; None: it loads its own.
        params: Passed to the trainer.
        seed: For the global generators, halves and bootstraps.

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
        event_time = "" if service.evaluation is None else service.evaluation.event_time
        return diagnose(
            trained.trial,
            service.contract.input,
            measure=measure_by(service),
            reference=reference,
            event_time=event_time,
            seed=seed,
        )
