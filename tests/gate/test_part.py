"""A candidate that is worse for some is found out, although it is as good for all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.gate.world import answers
from tidegate.core.decision import Verdict
from tidegate.gate import part
from tidegate.gate.declaration import Gates
from tidegate.gate.verdict import applies


def rng():
    return np.random.default_rng(0)


def worse_at(airport):
    def worse(columns, own):
        return np.where(columns["origin"] == airport, own * 0.1 + own.mean() * 0.9, own)

    return worse


def test_healthy_candidates_are_rarely_called_worse_anywhere():
    verdicts = [part.slices(answers(seed=seed), Gates(), rng=rng()).verdict for seed in range(20)]

    assert verdicts.count(Verdict.SAFE) >= 19


def test_an_airport_where_the_candidate_is_worse_is_named():
    found = part.slices(answers(worse=worse_at("LGA")), Gates(), rng=rng())

    assert found.verdict is Verdict.REGRESSED
    assert "origin = LGA" in found.reason


def test_a_pair_of_conditions_is_found_on_one_half_and_judged_on_the_other():
    def worse(columns, own):
        there = (columns["origin"] == "JFK") & (columns["carrier"] == "UA")
        return np.where(there, 0.99 - 0.98 * own, own)

    found = part.slices(answers(worse=worse, n=12_000), Gates(), rng=rng())

    assert found.verdict is Verdict.REGRESSED
    assert "origin = JFK and carrier = UA" in str(found.observed["worst"])


def test_without_a_champion_slices_do_not_apply():
    assert not applies(part.slices(answers(champion=False), Gates(), rng=rng()))


def test_a_few_groups_confirm_nothing():
    assert part.slices(answers(n_days=5), Gates(), rng=rng()).verdict is Verdict.UNDECIDED


def grouped(given, **options):
    return part.groups(given, ["origin"], Gates(**options), rng=rng(), threshold=0.4)


def test_protected_groups_that_fare_alike_are_safe():
    assert grouped(answers()).verdict is Verdict.SAFE


def test_a_protected_group_that_fares_worse_regresses():
    found = grouped(answers(worse=worse_at("EWR"), n=20_000), slice_margin=0.03)

    assert found.verdict is Verdict.REGRESSED
    assert "origin = EWR" in found.reason


def test_decisions_that_move_against_one_group_regress_even_where_the_loss_hardly_does():
    def stricter(columns, own):
        close = (columns["origin"] == "LGA") & (own > 0.3)
        return np.where(close, np.minimum(own + 0.15, 0.99), own)

    found = grouped(answers(worse=stricter, n=20_000), slice_margin=0.9)

    assert found.verdict is Verdict.REGRESSED
    assert "rate" in found.reason


def test_without_a_champion_the_gap_itself_is_judged():
    def unfair(columns, own):
        return np.where(columns["origin"] == "LGA", 0.9, own)

    assert grouped(answers(champion=False)).verdict is Verdict.SAFE
    assert grouped(answers(champion=False, worse=unfair)).verdict is Verdict.REGRESSED


def test_a_group_whose_rows_are_all_accepted_and_no_others_is_not_excused_by_its_evenness():
    def all_or_nothing(columns, own):
        return np.where(columns["origin"] == "LGA", 0.9, 0.1)

    found = grouped(answers(champion=False, worse=all_or_nothing))

    assert found.verdict is Verdict.REGRESSED
    assert "100.0% from the others' (+100.0%, at least +100.0%)" in found.reason


def test_two_models_that_agree_are_safe_and_every_bound_is_a_number():
    given = answers()
    found = grouped(replace(given, champion=given.candidate))

    assert found.verdict is Verdict.SAFE
    assert "inf" not in found.reason
    assert "at least +0.0%" in found.reason


def test_protected_attributes_that_the_rows_lack_leave_it_undecided():
    found = part.groups(answers(), ["age"], Gates(), rng=rng(), threshold=0.5)

    assert found.verdict is Verdict.UNDECIDED
    assert "age" in found.reason


def test_nothing_protected_does_not_apply():
    assert not applies(part.groups(answers(), [], Gates(), rng=rng(), threshold=0.5))


@pytest.mark.parametrize("level", [0.9, 0.99])
def test_bounds_of_all_parts_hold_together(level):
    draws = np.random.default_rng(1).normal(0, 1, (4_000, 40)) * np.linspace(1, 3, 40)

    lows = part._lower_bounds(np.zeros((1, 40)), draws, level=level)
    all_hold = (draws + lows <= 0).all(axis=1).mean()

    assert all_hold == pytest.approx(level, abs=0.01)
