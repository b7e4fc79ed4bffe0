"""Expressions over axes compute as ints do, are one object when they are equal, and note every comparison."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomph.recipe import Recipe, Sums
from oomph.tape.sizes import Expression, Sheet, ceil_to, number, product, yes
from oomph.tape.sym import broadcast

AXES = 4
ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "//": operator.floordiv, "%": operator.mod,
}  # fmt: skip
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
Tree = Any  # ("axis", index), an int, or (operator, tree, tree)

numbers = st.lists(st.integers(1, 5000), min_size=AXES, max_size=AXES)
leaves = st.one_of(st.tuples(st.just("axis"), st.integers(0, AXES - 1)), st.integers(-9, 600))
trees = st.recursive(leaves, lambda below: st.tuples(st.sampled_from(sorted(ARITHMETIC)), below, below), max_leaves=12)


def value(tree: Tree, axes: Sequence[Any]) -> Any:
    """A tree's value over ints or expressions; a divisor of 0 is left out on both sides."""
    if isinstance(tree, int):
        return tree
    if tree[0] == "axis":
        return axes[tree[1]]
    how, left, right = tree[0], value(tree[1], axes), value(tree[2], axes)
    return left if how in ("//", "%") and not number(right) else ARITHMETIC[how](left, right)


def recipe(sheet: Sheet, *sizes: Any) -> Recipe:
    """A recipe of nothing but a sheet and sizes, which are its layers and its classes' bytes."""
    from oomph.fold import Classes, written

    classes = Classes("model.layers")
    for at, size in enumerate(sizes):
        classes.numbers[size, str(at), (), "bf16", "", "", 1] = at
    return written(sheet, classes, (), 0, 0, 0)


@given(trees, numbers)
def test_expressions_compute_as_ints_do(tree: Tree, sizes: list[int]) -> None:
    """Any tree of sums, differences, products, quotients and remainders has the number ints give."""
    sheet = Sheet()
    assert number(value(tree, [sheet.axis(size) for size in sizes])) == value(tree, sizes)


@given(trees, numbers, numbers)
def test_a_recipe_computes_as_ints_do_for_other_numbers(tree: Tree, sizes: list[int], others: list[int]) -> None:
    """The same tree, played on some numbers, gives what ints give for others, alone or a column of them."""
    import numpy as np

    sheet = Sheet()
    made = value(tree, [sheet.axis(size) for size in sizes])
    kept = recipe(sheet, made)
    try:
        expected = _without_rescue(tree, others)
    except ZeroDivisionError:
        return  # ints cannot say either
    if _without_rescue_fails(tree, sizes):
        return
    term = kept.classes[0].n_bytes
    assert Sums(kept, others).number(term) == expected
    if abs(expected) < 2**62 and _small(tree, others):
        column = Sums(kept, [np.asarray([one, one], np.int64) for one in others]).number(term)
        assert np.all(column == expected)


def _without_rescue(tree: Tree, axes: list[int]) -> int:
    if isinstance(tree, int):
        return tree
    if tree[0] == "axis":
        return axes[tree[1]]
    result: int = ARITHMETIC[tree[0]](_without_rescue(tree[1], axes), _without_rescue(tree[2], axes))
    return result


def _without_rescue_fails(tree: Tree, axes: list[int]) -> bool:
    try:
        _without_rescue(tree, axes)
    except ZeroDivisionError:
        return True
    return False


def _small(tree: Tree, axes: list[int]) -> bool:
    """Whether every step of a tree fits an int64 with room."""
    if isinstance(tree, int) or tree[0] == "axis":
        return True
    return abs(_without_rescue(tree, axes)) < 2**40 and _small(tree[1], axes) and _small(tree[2], axes)


@given(st.permutations(range(AXES)), st.lists(st.integers(1, 9), min_size=AXES, max_size=AXES), numbers)
def test_products_are_one_object_in_any_order(order: list[int], factors: list[int], sizes: list[int]) -> None:
    """However factors and axes are multiplied, equal products are the same object."""
    sheet = Sheet()
    axes = [sheet.axis(size) for size in sizes]
    scaled = [factor * axis for factor, axis in zip(factors, axes, strict=True)]
    constant = product(factors)
    assert product(scaled[at] for at in order) is product(axes[at] for at in reversed(order)) * constant


@given(st.integers(2, 9), st.integers(1, 5000))
def test_a_divided_product_is_the_object_it_was_made_of(factor: int, size: int) -> None:
    """An axis times a number, divided by it again, is that axis; so is a sum."""
    sheet = Sheet()
    axis = sheet.axis(size)
    total = axis + 1
    assert (factor * axis) // factor is axis
    assert (factor * total) // factor is total
    assert (axis * axis * factor) // factor is axis * axis


def test_sums_of_equal_operands_are_one_object() -> None:
    """The same sum, difference, quotient or remainder is made once."""
    sheet = Sheet()
    a, b = sheet.axis(6), sheet.axis(4)
    for how in ("+", "-", "//", "%"):
        assert ARITHMETIC[how](a, b) is ARITHMETIC[how](a, b)
    assert a + 0 is a - 0 is a * 1 is a
    assert (a * 0, 0 * a) == (0, 0)
    assert len(sheet.atoms) == 2 + 4


@given(trees, trees, st.sampled_from(sorted(COMPARISONS)), numbers)
def test_comparisons_answer_as_ints_do_and_are_noted(left: Tree, right: Tree, how: str, sizes: list[int]) -> None:
    """The answer is that of ints; the recipe's guards hold for the numbers they were made with."""
    sheet = Sheet()
    axes = [sheet.axis(size) for size in sizes]
    a, b = value(left, axes), value(right, axes)
    assert not sheet.guards, "computing compares nothing"
    assert yes(COMPARISONS[how](a, b)) == COMPARISONS[how](number(a), number(b))
    known = (a is b and how in ("==", "!=")) or not {type(a), type(b)} & {Expression}
    assert bool(sheet.guards) != known
    if not _without_rescue_fails(left, sizes) and not _without_rescue_fails(right, sizes):
        assert Sums(recipe(sheet, a, b), sizes).hold()


@given(trees, trees, st.sampled_from(sorted(COMPARISONS)), numbers, numbers)
def test_guards_refuse_numbers_that_branch_differently(
    left: Tree, right: Tree, how: str, sizes: list[int], others: list[int]
) -> None:
    """A recipe holds for exactly the numbers whose comparison comes out as it did."""
    if any(_without_rescue_fails(tree, axes) for tree in (left, right) for axes in (sizes, others)):
        return
    sheet = Sheet()
    axes = [sheet.axis(size) for size in sizes]
    played = yes(COMPARISONS[how](value(left, axes), value(right, axes)))
    same = played == COMPARISONS[how](_without_rescue(left, others), _without_rescue(right, others))
    assert bool(Sums(recipe(sheet), others).hold()) == same


def test_guards_of_many_jobs_at_once() -> None:
    """Columns of numbers get one answer each."""
    import numpy as np

    sheet = Sheet()
    heads, groups = sheet.axis(32), sheet.axis(8)
    assert heads % groups == 0
    assert heads > groups
    kept = recipe(sheet)
    columns = [np.asarray([64, 8, 30, 32]), np.asarray([8, 8, 8, 1])]
    assert Sums(kept, columns).hold().tolist() == [True, False, False, True]


def test_a_division_by_nothing_is_refused_not_raised() -> None:
    """Numbers that make a divisor 0 cannot have taken this branch."""
    sheet = Sheet()
    a, b = sheet.axis(12), sheet.axis(4)
    size = a // (b - 1)
    kept = recipe(sheet, size)
    assert Sums(kept, (12, 4)).hold()
    assert not Sums(kept, (12, 1)).hold()


@given(st.integers(0, 10**6), st.integers(1, 1024))
def test_rounding_up(size: int, multiple: int) -> None:
    """The next multiple, for ints and expressions."""
    sheet = Sheet()
    expected = next(n for n in range(size, size + multiple) if n % multiple == 0)
    assert ceil_to(size, multiple) == number(ceil_to(sheet.axis(size), multiple)) == expected


def test_truth_and_hash() -> None:
    """An expression is true unless it is 0, which is a guard; it can be a key and is no number for others."""
    sheet = Sheet()
    zero, one = sheet.axis(0), sheet.axis(1)
    assert (bool(zero), bool(one)) == (False, True)
    assert len(sheet.guards) == 2
    assert {one: 1}[one] == 1
    assert one != "1"
    with pytest.raises(TypeError):
        one < "1"  # noqa: B015


def test_a_size_of_one_place_gives_way_to_a_larger_one() -> None:
    """A gate of one channel times a vector is a vector, also where 1 is an axis of the model."""
    sheet = Sheet()
    tokens, one, hidden = sheet.axis(100), sheet.axis(1), sheet.axis(64)
    assert broadcast((tokens, one), (tokens, hidden)) == (tokens, hidden)
    assert broadcast((tokens, hidden), (tokens, one)) == (tokens, hidden)


def test_an_axis_of_one_place_stays_that_axis() -> None:
    """A batch of one sequence is still the batch: what was played holds for others."""
    batch, hidden = Sheet().axis(1), 64
    assert broadcast((batch, hidden), (1, hidden))[0] is batch
    assert broadcast((1, hidden), (batch, hidden))[0] is batch
