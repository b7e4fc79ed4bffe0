"""Numbers that grow with a context, and how far all that was decided by comparing them would be decided alike.

An allocator that is given them instead of ints plays for every context in that span at once: its answer is such a
number too. Between two places where a decision changes, a buffer is a straight line.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ENDLESS = 2**62


@dataclass(slots=True)
class Span:
    """Steps down (not above 0) and up from where numbers were compared, for which comparisons come out the same.

    120 less 2 a step is more than 100 for nine steps up:
    >>> span = Span()
    >>> span.number(120, -2) > 100, span.low, span.high
    (True, -4611686018427387904, 9)
    """

    low: int = -ENDLESS
    high: int = ENDLESS

    def number(self, value: int, slope: int) -> Along:
        """Return a number that is `value` here, and `slope` more a step up."""
        return Along(value, slope, self)

    def positive(self, value: int, slope: int) -> bool:
        """Tell whether a number is above 0; the span ends where it would be otherwise."""
        if value <= 0:
            return not self.positive(1 - value, -slope)
        if slope > 0:
            self.low = max(self.low, -((value - 1) // slope))
        elif slope < 0:
            self.high = min(self.high, (value - 1) // -slope)
        return True


@dataclass(slots=True, eq=False)
class Along:
    """A number that is `value` here and `slope` more with each step; compared, it narrows the span."""

    value: int
    slope: int
    span: Span = field(repr=False)

    def at(self, step: int) -> int:
        """Return the number some steps away."""
        return self.value + self.slope * step

    def _more_than(self, other: int | Along) -> bool:
        if isinstance(other, Along):
            return self.span.positive(self.value - other.value, self.slope - other.slope)
        return self.span.positive(self.value - other, self.slope)

    def __add__(self, other: int | Along) -> Along:
        if isinstance(other, Along):
            return Along(self.value + other.value, self.slope + other.slope, self.span)
        return Along(self.value + other, self.slope, self.span)

    __radd__ = __add__

    def __neg__(self) -> Along:
        return Along(-self.value, -self.slope, self.span)

    def __sub__(self, other: int | Along) -> Along:
        return self + -other

    def __rsub__(self, other: int) -> Along:
        return -self + other

    def __mul__(self, factor: int) -> Along:
        return Along(self.value * factor, self.slope * factor, self.span)

    __rmul__ = __mul__

    def __floordiv__(self, divisor: int) -> Along:
        """Divide and round down; what a step adds must come out even."""
        if self.slope % divisor:
            self.span.low = self.span.high = 0
        return Along(self.value // divisor, self.slope // divisor, self.span)

    def __gt__(self, other: int | Along) -> bool:
        return self._more_than(other)

    def __ge__(self, other: int | Along) -> bool:
        return self._more_than(other + -1)

    def __lt__(self, other: int | Along) -> bool:
        return not self._more_than(other + -1)

    def __le__(self, other: int | Along) -> bool:
        return not self._more_than(other)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (int, Along)) and not (self > other or self < other)

    def __bool__(self) -> bool:
        return self != 0
