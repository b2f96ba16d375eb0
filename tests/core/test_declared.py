"""A declaration of another type, or outside its range, is refused where it is written, by name."""

from __future__ import annotations

import numpy as np
import pytest

import tidegate as tg
from tidegate.core.error import InvalidSetting


class Asked(tg.Input):
    x: float


class Told(tg.Output):
    p: float = tg.field(ge=0, le=1)


def declare(**more: object) -> tg.Service:
    return tg.Service("toy", input=Asked, output=Told, **more)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: tg.Limits(deadline_ms="5"), "tg.Limits(deadline_ms=...) takes a number. Got str: '5'."),
        (lambda: tg.Limits(max_rows=True), "takes a whole number. Got bool: True."),
        (lambda: tg.Limits(pinning=1), "tg.Limits(pinning=...) takes True or False."),
        (lambda: tg.Objectives(latency_p99_ms="25"), "takes a number or None. Got str: '25'."),
        (lambda: tg.Objectives(availability=float("nan")), "takes a number or None. Got float: nan."),
        (lambda: tg.Objectives(tolerance={"p": "1"}), "takes a mapping of texts to numbers or None."),
        (lambda: tg.Cache(None), "tg.Cache(ttl=...) takes text or a number."),
        (lambda: tg.Remote(3, model="m"), "tg.Remote(url=...) takes text."),
        (
            lambda: tg.Evaluation(task="classification"),
            "takes 'binary', 'multiclass', 'regression', 'ranking'",
        ),
        (
            lambda: tg.Evaluation(costs={"gain": 1}),
            "tg.Evaluation(costs=...) takes CostMatrix or None. Got dict",
        ),
        (lambda: tg.Evaluation(protected="sex"), "tg.Evaluation(protected=...) takes a list of texts."),
        (lambda: tg.Evaluation(threshold=np.float64(0.5)), "Got float64"),
        (lambda: tg.Evaluation(rules=["rising"]), "takes a list of Monotone or Invariant."),
        (
            lambda: tg.Monotone("x", "up"),
            "tg.Monotone(direction=...) takes 'rising' or 'falling'. Got str: 'up'.",
        ),
        (lambda: tg.Invariant(3), "tg.Invariant(column=...) takes text."),
        (lambda: tg.CostMatrix("1", 1, 1, 1, "EUR"), "tg.CostMatrix(true_positive=...) takes a number."),
        (lambda: tg.Gates(left_out=["latency"]), "tg.Gates(left_out=...) takes a mapping of texts to texts."),
        (lambda: tg.Gates(max_data_age_s="90d"), "tg.Gates(max_data_age_s=...) takes a number or None."),
        (lambda: tg.Card(owner=3), "tg.Card(owner=...) takes text."),
        (lambda: tg.Kpi("revenue", better="up"), "takes 'higher' or 'lower'."),
        (lambda: tg.Monitoring(kpis=("revenue",)), "takes a list of Kpi. Got tuple: ('revenue',)."),
        (lambda: tg.Experiment(arms=["b"]), "tg.Experiment(arms=...) takes a mapping of texts to numbers."),
        (lambda: tg.Placement(cpus="2"), "tg.Placement(cpus=...) takes a whole number."),
        (lambda: tg.Guardrail("errors", allowance="1%"), "tg.Guardrail(allowance=...) takes a number."),
        (lambda: tg.ShadowStep(share="all"), "tg.ShadowStep(share=...) takes a number."),
        (lambda: tg.Plan(steps=0.5), "tg.Plan(steps=...) takes a list of numbers."),
        (lambda: tg.Lookup(by="x", table="t"), "tg.Lookup(by=...) takes a list of texts."),
        (lambda: tg.Constant(0.5), "tg.Constant(outputs=...) takes a mapping"),
        (lambda: declare(plan={}), "tg.Service(plan=...) takes Plan or None. Got dict: {}."),
        (lambda: declare(features=["weather"]), "takes a list of FeatureView. Got list: ['weather']."),
        (
            lambda: declare(fallback={"p": 0.5}),
            "tg.Service(fallback=...) takes Lookup, Constant, Rule, Cheaper",
        ),
        (lambda: tg.Service("toy", input=Told, output=Told), "tg.Service(input=...) takes a class of Input."),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(make, said):
    with pytest.raises(InvalidSetting) as refused:
        make()

    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value", "bound"),
    [
        ("deadline_ms", -1, "above 0"),
        ("deadline_ms", 0, "above 0"),
        ("max_rows", 0, "at least 1"),
        ("max_body_bytes", 0, "at least 1"),
        ("max_waiting_rows", 0, "at least 1"),
        ("caller_burst", 0, "at least 1"),
    ],
)
def test_limits_that_answer_nothing_are_refused(name, value, bound):
    with pytest.raises(InvalidSetting, match=rf"tg\.Limits\({name}=\.\.\.\) must be {bound}\. Got {value}\."):
        tg.Limits(**{name: value})


@pytest.mark.parametrize("arms", [{"b": 20}, {"b": 0.2, "c": -1}])
def test_a_share_that_is_none_is_told_with_its_arm(arms):
    name, share = list(arms.items())[-1]
    with pytest.raises(InvalidSetting, match=rf"arm '{name}'.*Got {share}"):
        declare(experiment=tg.Experiment(arms=arms))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"objectives": tg.Objectives(tolerance={"z": 0.1})},
            "'z', which is none of its numeric outputs. It has: p.",
        ),
        ({"gates": tg.Gates(known_leaks=("zz",))}, "names 'zz', which is none of its inputs. It has: x."),
        ({"evaluation": tg.Evaluation(classes=("a",))}, "two classes or more, each once. Got a."),
        ({"evaluation": tg.Evaluation(classes=("a", "a"))}, "two classes or more, each once. Got a, a."),
    ],
)
def test_a_name_that_means_nothing_is_refused(more, said):
    with pytest.raises(InvalidSetting) as refused:
        declare(**more)

    assert said in str(refused.value)


def test_a_long_value_is_cut():
    with pytest.raises(InvalidSetting) as refused:
        tg.Card(owner=["somebody"] * 1000)

    assert len(str(refused.value)) < 150


def test_what_python_says_of_a_call_stays():
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        declare(colour="blue")


def test_a_list_does_where_a_tuple_is_kept_and_an_integer_where_a_number_is():
    assert tg.Gates(known_leaks=["x"], latency_ratio=2).known_leaks == ["x"]
    assert declare(fallback=[tg.Constant({"p": 0.5})], monitoring=tg.Monitoring(slices=["x"])).fallback
