"""Which classifier checks labels: boosted trees where scikit-learn is installed, else a linear one."""

from __future__ import annotations

from importlib.util import find_spec

from tidegate.data.mislabel import Learner


def find_learner(name: str = "auto") -> tuple[str, Learner]:
    """Return a learner by name: `boosted`, `linear`, or `auto` for the best that is installed.

    Raises:
        MissingExtra: A boosted one was asked for, and scikit-learn is not installed.
    """
    if name == "linear" or (name == "auto" and find_spec("sklearn") is None):
        from tidegate.training.learner import fit_linear_classifier

        return "linear", fit_linear_classifier
    from tidegate.adapter.runtime.learner import fit_boosted_classifier
    from tidegate.adapter.runtime.native import require

    require("A boosted check of labels", "sklearn", extra="sklearn")
    return "boosted", fit_boosted_classifier
