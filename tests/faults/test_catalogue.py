"""Every fault has a test that injects it, and every test that is named exists."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.faults.catalogue import FAULTS

TESTS = Path(__file__).parents[1]


@cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse((TESTS / path).read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in tree.body if isinstance(node, functions))


def test_rows_are_numbered_without_a_gap():
    assert [fault.number for fault in FAULTS] == list(range(1, 40))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: str(fault.number))
def test_a_fault_has_tests_or_says_why_not(fault):
    assert bool(fault.tests) != bool(fault.open)
    for test in fault.tests:
        path, _, name = test.partition("::")
        assert name in names_in(path), test
