"""Labels that cannot be learnt from are told apart from those that can."""

from __future__ import annotations

import polars as pl
import pytest

from tidegate.core.error import InvalidSetting
from tidegate.data.label import LabelFault, check_label
from tidegate.data.leak import find_leaks
from tidegate.data.mislabel import check_mislabelled
from tidegate.training.learner import fit_linear_classifier


@pytest.mark.parametrize(
    ("values", "faults"),
    [
        ([0, 1] * 500, []),
        ([True, False, None] * 400, [(LabelFault.MISSING, "", 400)]),
        ([1.0, float("nan")] * 100, [(LabelFault.MISSING, "", 100), (LabelFault.CONSTANT, "1.0", 100)]),
        (["a"] * 100, [(LabelFault.CONSTANT, "a", 100)]),
        ([0] * 9990 + [1] * 10, [(LabelFault.RARE, "1", 10)]),
        ([0] * 19900 + [1] * 100, [(LabelFault.SKEWED, "1", 100)]),
        ([number / 7 for number in range(300)], []),
        (list(range(300)), []),
        ([None] * 3, [(LabelFault.MISSING, "", 3)]),
        ([], [(LabelFault.MISSING, "", 0)]),
    ],
)
def test_faults_of_a_label_are_named_with_their_rows(values, faults):
    report = check_label(pl.Series("y", values))

    assert [(one.fault, one.value, one.count) for one in report.findings] == faults
    assert report.n_rows == len(values)


def test_classes_are_counted():
    report = check_label(pl.Series("y", ["b", "a", "a", None]), min_class_rows=1)

    assert report.classes == {"a": 2, "b": 1}
    assert report.n_missing == 1


def test_identifiers_are_no_label():
    with pytest.raises(InvalidSetting, match="300 values"):
        check_label(pl.Series("y", [f"id {number}" for number in range(300)]))


def test_lists_and_objects_are_no_label():
    for odd in (pl.Series("y", [[1], [2]]), pl.Series("y", [object()], dtype=pl.Object)):
        with pytest.raises(InvalidSetting, match="not a single value"):
            check_label(odd)
        with pytest.raises(InvalidSetting, match="not a single value"):
            find_leaks(pl.DataFrame([odd]), "y")
        with pytest.raises(InvalidSetting, match="not a single value"):
            check_mislabelled(pl.DataFrame([odd]), "y", fit_linear_classifier)
