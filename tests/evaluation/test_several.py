"""Classes, rankings and forecasts get a whole report, too."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tidegate.evaluation.assessment import Subject
from tidegate.evaluation.metric import NotMeasurable
from tidegate.evaluation.recalibration import recalibration_gain
from tidegate.evaluation.report import Report, Span, render, render_html
from tidegate.evaluation.several import assess_forecast, assess_multiclass, assess_ranking

CLASSES = ("bike", "car", "walk")
DAY_US = 86_400_000_000


def scores(columns):
    """Probabilities that are right but for rows of the city `west`."""
    logits = np.stack([columns["far"] * weight for weight in (0.0, 2.0, -2.0)], axis=1)
    odds = np.exp(logits)
    return odds / odds.sum(axis=1, keepdims=True)


def decide(columns):
    return np.array(CLASSES, dtype=object)[scores(columns).argmax(axis=1)]


@pytest.fixture(scope="module")
def trips():
    rng = np.random.default_rng(0)
    n = 2400
    columns = {
        "far": rng.normal(size=n),
        "city": rng.choice(np.array(["east", "west"], dtype=object), n, p=[0.8, 0.2]),
        "noise": rng.normal(size=n),
    }
    chance = scores(columns)
    drawn = np.array([rng.choice(3, p=row) for row in chance])
    strange = (columns["city"] == "west") & (rng.random(n) < 0.7)
    truth = np.array(CLASSES, dtype=object)[np.where(strange, rng.integers(0, 3, n), drawn)]
    return Subject(
        outcomes=truth,
        predictions=chance,
        columns=columns,
        predict=decide,
        protected={"sex": rng.choice(["f", "m"], n)},
        span=Span(from_us=0, until_us=10 * DAY_US, evaluated_at_us=40 * DAY_US),
    )


@pytest.fixture(scope="module")
def report(trips):
    return assess_multiclass(trips, CLASSES, rng=np.random.default_rng(1))


def test_several_classes_have_figures_slices_groups_and_importance(trips, report):
    right = (trips.outcomes == decide(trips.columns)).mean()
    accuracy = report.figure("accuracy")
    assert accuracy.value == pytest.approx(right)
    assert accuracy.low < right < accuracy.high
    assert report.slices[0].confirmed
    assert "city = west" in str(report.slices[0])
    assert report.importance[0].column == "far"
    assert {each.attribute for each in report.fairness} == {f"sex, {name}" for name in CLASSES}
    assert report.calibration.p_value < 0.01  # sure of what is random in the west
    assert report.span.age_days == 30
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


def test_classes_without_probabilities_say_what_is_not_measured(trips):
    labels = msgspec.structs.replace(trips, predictions=decide(trips.columns), predict=None, columns={})

    report = assess_multiclass(labels, CLASSES, rng=np.random.default_rng(1))

    assert report.calibration is None
    assert "log_loss" not in {each.name for each in report.figures}
    assert any("without probabilities" in note for note in report.notes)
    with pytest.raises(NotMeasurable, match="none of the declared classes"):
        assess_multiclass(labels, ("bike", "car"), rng=np.random.default_rng(1))


def test_rankings_have_intervals_over_queries():
    rng = np.random.default_rng(0)
    grades = rng.integers(0, 3, 600).astype(float)
    subject = Subject(outcomes=grades, predictions=grades + rng.normal(size=600))

    report = assess_ranking(subject, np.repeat(np.arange(60), 10), rng=rng)
    ndcg = report.figure("ndcg@10")

    assert (report.task, report.n_rows, ndcg.n_rows) == ("ranking", 600, 60)
    assert 0.7 < ndcg.low < ndcg.value < ndcg.high < 1
    assert "Not measured" in render(report)


def test_forecasts_are_held_against_the_naive_one_of_their_season():
    rng = np.random.default_rng(0)
    steps = np.arange(400)
    series = 10 + 3 * np.sin(steps * 2 * np.pi / 7) + 0.3 * rng.normal(size=400)
    truth, past = series[300:], series[:300]

    report = assess_forecast(
        Subject(outcomes=truth, predictions=10 + 3 * np.sin(steps[300:] * 2 * np.pi / 7)),
        past,
        rng=rng,
        season=7,
        quantiles={0.9: truth + 0.1},
    )

    assert report.task == "forecast"
    assert report.figure("mase").high < 1
    assert report.figure("coverage[0.9]").value == 1


def test_recalibration_pays_where_probabilities_are_too_sure_and_not_elsewhere():
    rng = np.random.default_rng(0)
    chance = rng.uniform(0.05, 0.95, 3000)
    happened = (rng.random(3000) < chance).astype(float)
    odds = 3 * np.log(chance / (1 - chance))

    sure = recalibration_gain(happened, 1 / (1 + np.exp(-odds)), rng=rng)
    fine = recalibration_gain(happened, chance, rng=rng)

    assert sure.gain.low > 0
    assert sure.method == "platt"
    assert fine.gain.low <= 0
    assert recalibration_gain(happened[:100], chance[:100], rng=rng) is None


def test_the_page_holds_what_the_text_holds_and_escapes_it(report):
    page = render_html(report, title="a<b")

    assert "<h1>a&lt;b</h1>" in page
    for line in render(report).splitlines():
        assert line.strip().replace("<", "&lt;").replace(">", "&gt;") in page
    assert "<script" not in page
