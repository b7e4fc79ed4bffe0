"""Sizes that are ints, or expressions over the axes of a job, so that a step played once holds for other sizes.

A `Size` knows its number in the job at hand and how it came from the axes. Rules compute with sizes freely; whenever
one must decide, the comparison is answered by the numbers and noted as a guard. What was played is then true for every
job whose sizes answer all guards alike: a branch is executed, never assumed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, Union

SizeLike: TypeAlias = Union[int, "Expression"]
# In signatures: an int or an Expression. Any, because arithmetic on the union would need a cast at every step.
Size: TypeAlias = Any
Shapes: TypeAlias = dict[str, tuple[tuple[Size, ...], str]]  # of inputs: shape and dtype by name

COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq, "<": operator.lt, "<=": operator.le,
}  # fmt: skip
COMPUTE: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "//": operator.floordiv, "%": operator.mod,
}  # fmt: skip


class Sheet:
    """The axes of jobs of one structure, every expression over them (each once), and the comparisons made.

    An atom is an axis, a sum, a difference, a quotient or a remainder; an expression is a factor times a product of
    atoms, which makes products equal whatever the order they were multiplied in.
    """

    def __init__(self) -> None:
        self.axes = 0
        self.atoms: list[tuple[str, SizeLike, SizeLike]] = []  # (operator, left, right); ("axis", number, 0)
        self.numbers: list[int] = []  # of each atom in the job at hand
        self.guards: dict[tuple[str, SizeLike, SizeLike], bool] = {}
        self._atoms: dict[tuple[str, SizeLike, SizeLike], Expression] = {}
        self._products: dict[tuple[int, tuple[int, ...]], Expression] = {}

    def axis(self, number: int) -> Expression:
        """Return a new axis that has this number in the job at hand."""
        self.axes += 1
        return self._atom("axis", self.axes - 1, 0, number)

    def _atom(self, how: str, left: SizeLike, right: SizeLike, number: int) -> Expression:
        key = (how, left, right)
        found = self._atoms.get(key)
        if found is None:
            self.atoms.append(key)
            self.numbers.append(number)
            # An atom is also the product of itself alone: (2·x) // 2 is x.
            found = self._atoms[key] = self.product(1, (len(self.atoms) - 1,), number)
        return found

    def compute(self, how: str, left: SizeLike, right: SizeLike) -> Expression:
        """Return a sum, difference, quotient or remainder."""
        return self._atom(how, left, right, COMPUTE[how](number(left), number(right)))

    def product(self, factor: int, atoms: tuple[int, ...], value: int) -> Expression:
        """Return a factor times atoms, given in order."""
        key = (factor, atoms)
        found = self._products.get(key)
        if found is None:
            found = self._products[key] = Expression(self, factor, atoms, value)
        return found

    def compare(self, how: str, left: SizeLike, right: SizeLike) -> bool:
        """Answer a comparison for the job at hand and note it."""
        answer: bool = COMPARE[how](number(left), number(right))
        self.guards[how, left, right] = answer
        return answer


class Expression:
    """A size as a factor times atoms of its sheet; equal expressions are one object, so it is hashed by identity."""

    __slots__ = ("atoms", "factor", "sheet", "value")

    def __init__(self, sheet: Sheet, factor: int, atoms: tuple[int, ...], value: int) -> None:
        self.sheet, self.factor, self.atoms, self.value = sheet, factor, atoms, value

    def __mul__(self, other: SizeLike) -> SizeLike:
        if isinstance(other, Expression):
            atoms = tuple(sorted(self.atoms + other.atoms))
            return self.sheet.product(self.factor * other.factor, atoms, self.value * other.value)
        if other == 1:
            return self
        return self.sheet.product(self.factor * other, self.atoms, self.value * other) if other else 0

    __rmul__ = __mul__

    def __add__(self, other: SizeLike) -> SizeLike:
        return self if _is_zero(other) else self.sheet.compute("+", self, other)

    __radd__ = __add__

    def __sub__(self, other: SizeLike) -> SizeLike:
        return self if _is_zero(other) else self.sheet.compute("-", self, other)

    def __rsub__(self, other: int) -> SizeLike:
        return self.sheet.compute("-", other, self)

    def __floordiv__(self, other: SizeLike) -> SizeLike:
        if not isinstance(other, Expression) and not self.factor % other:
            return self.sheet.product(self.factor // other, self.atoms, self.value // other)
        return self.sheet.compute("//", self, other)

    def __rfloordiv__(self, other: int) -> SizeLike:
        return self.sheet.compute("//", other, self)

    def __mod__(self, other: SizeLike) -> SizeLike:
        return self.sheet.compute("%", self, other)

    def __rmod__(self, other: int) -> SizeLike:
        return self.sheet.compute("%", other, self)

    def __pow__(self, times: int) -> SizeLike:
        power: SizeLike = product((self,) * times)
        return power

    def __index__(self) -> int:
        """Return the number, for what counts with it; what is played is then of this number alone."""
        return settled(self)

    def __neg__(self) -> SizeLike:
        return self * -1

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, (int, Expression)):
            return NotImplemented
        return self is other or self.sheet.compare("==", self, other)

    def __ne__(self, other: Any) -> bool:
        return not self == other

    def __lt__(self, other: SizeLike) -> bool:
        return self.sheet.compare("<", self, other)

    def __le__(self, other: SizeLike) -> bool:
        return self.sheet.compare("<=", self, other)

    def __gt__(self, other: SizeLike) -> bool:
        return not self <= other

    def __ge__(self, other: SizeLike) -> bool:
        return not self < other

    def __bool__(self) -> bool:
        return self != 0

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"Expression({self.value})"


def _is_zero(size: SizeLike) -> bool:
    return not isinstance(size, Expression) and size == 0


def number(size: SizeLike) -> int:
    """Return a size in the job at hand.

    >>> sheet = Sheet()
    >>> batch, length = sheet.axis(2), sheet.axis(100)
    >>> tokens = batch * length
    >>> number(tokens), number(7), tokens is length * batch, tokens > 100, len(sheet.guards)
    (200, 7, True, True, 1)
    """
    return size.value if isinstance(size, Expression) else size


def yes(condition: Any) -> bool:
    """Return a condition on sizes as a truth value; says in a rule that what follows depends on it.

    >>> yes(3 == 3), yes(2 > 3)
    (True, False)
    """
    return bool(condition)


def product(sizes: Iterable[Size]) -> Size:
    """Return the product of sizes; 1 for none.

    >>> product((2, 3, 4)), product(())
    (24, 1)
    """
    total: Size = 1
    for size in sizes:
        total = size * total
    return total


def ceil_to(size: Size, multiple: int) -> Size:
    """Return a size rounded up to a multiple.

    >>> ceil_to(513, 512)
    1024
    """
    return (size + multiple - 1) // multiple * multiple


def settled(size: Size) -> int:
    """Return a size as a number that what is played depends on."""
    settled = number(size)
    if not yes(size == settled):
        raise AssertionError("a size is not its own number")
    return settled
