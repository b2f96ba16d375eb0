"""What was loaded on demand stays within its bound, and what is worth most stays longest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidegate.serving.budget import ModelBudget, Resident


class Asked:
    def __init__(self) -> None:
        self.n = 0

    def __call__(self) -> int:
        return self.n


def add(budget: ModelBudget, name: str, size: int = 10, load_s: float = 1.0) -> Asked:
    asked = Asked()
    budget.add(Resident(name, size_bytes=size, load_s=load_s, asked=asked))
    return asked


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 60)), max_size=60), st.integers(1, 200))
def test_the_bound_holds_after_every_eviction_and_bytes_add_up(steps, limit) -> None:
    budget = ModelBudget(limit)
    present: dict[str, int] = {}

    for number, size in steps:
        add(budget, str(number), size)
        present[str(number)] = size
        for gone in budget.evict():
            del present[gone]
        assert budget.used_bytes == sum(present.values())
        assert budget.used_bytes <= limit
        assert all(name in budget for name in present)


def test_what_is_asked_for_stays_and_what_is_not_goes() -> None:
    budget = ModelBudget(30)
    hot, _cold, _cool = add(budget, "hot"), add(budget, "cold"), add(budget, "cool")
    hot.n = 5

    add(budget, "new").n = 1

    assert list(budget.evict()) == ["cold"]
    assert "hot" in budget


def test_of_two_asked_for_alike_the_one_that_is_cheap_to_load_again_goes_and_the_large_one() -> None:
    budget = ModelBudget(25)
    add(budget, "costly", load_s=10.0)
    add(budget, "cheap", load_s=0.1)
    add(budget, "large", size=20, load_s=0.1)

    assert list(budget.evict()) == ["large"]
    assert list(budget.evict(down_to_bytes=10)) == ["cheap"]


def test_what_was_once_popular_does_not_stay_for_ever() -> None:
    budget = ModelBudget(20)
    add(budget, "once").n = 50

    gone: list[str] = []
    for number in range(200):
        add(budget, f"m{number}").n = 3
        gone += budget.evict()

    assert "once" in gone


def test_what_has_to_stay_is_passed_over() -> None:
    budget = ModelBudget(10)
    add(budget, "busy")
    add(budget, "idle")

    assert list(budget.evict(down_to_bytes=0, keep=lambda name: name == "busy")) == ["idle"]
    assert budget.used_bytes == 10
