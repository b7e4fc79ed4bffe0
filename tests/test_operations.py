"""Every memory rule is written down with its source and a worked number, and finds its way into the documentation."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from oomph import ops
from oomph.operations import Rule, rules

RULES = rules()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_has_prose_a_source_and_a_worked_number(rule: Rule) -> None:
    """What it does, where torch does it, and bytes that doctest checks (test_doctests.py runs them)."""
    examples = doctest.DocTestParser().get_examples(rule.doc)
    assert any("cost(" in one.source and re.search(r"\d", one.want) for one in examples), "no bytes are worked out"
    assert "Source:" in rule.prose
    assert len(rule.summary) > len("Return x.")


def test_all_exported_operations_are_listed() -> None:
    """What programs call is what is documented."""
    assert set(ops.__all__) <= {rule.name for rule in rules()}


def test_saved_tensors_are_named_where_a_rule_saves() -> None:
    """A rule whose example keeps bytes says in words what it saves."""
    for rule in RULES:
        kept = [int(n) for n in re.findall(r"saved=(\d+)", rule.example)]
        if any(kept):
            assert re.search(r"Saves|saved tensor", rule.prose), rule.name


def test_the_page_is_up_to_date() -> None:
    """docs/operations.md is what the docstrings say."""
    script = Path(__file__).parents[1] / "scripts" / "make_operations.py"
    subprocess.run([sys.executable, str(script), "--check"], check=True)


def test_cost_counts_each_kept_storage_once() -> None:
    """x · x keeps one tensor, though both gradients need it."""
    testing = import_module("oomph.tape.testing")
    assert testing.cost(lambda x: x * x, (4, 256)) == (2048, 2048, 2 * 2048)
    assert testing.cost(lambda a, b: a * b, testing.frozen(4, 256), testing.frozen(4, 256)) == (2048, 0, 0)
