"""Closed forms: a recipe's terms written in shape letters, as papers write them (4·T·h).

A term of a recipe is a product of axes, sums and quotients. Here it becomes a polynomial of letters, in which sums of
equal things join (h + h + h is 3·h) and quotients that divide evenly are carried out (k·(a // k) is a). It holds for
every model whose sizes divide alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, TypeAlias

from oomph.blocks.base import Block, Stack
from oomph.model import Model
from oomph.recipe import Sums, Term
from oomph.structure import Job

# The letters of the field, in the order in which products are written; T stands for b·s.
LETTERS: dict[str, tuple[str, str]] = {
    "batch": ("b", "batch"),
    "seq_len": ("s", "seq"),
    "hidden_size": ("h", "hidden"),
    "num_heads": ("a", "heads"),
    "num_kv_heads": ("k", "kv_heads"),
    "head_dim": ("d", "head_dim"),
    "ffn_size": ("i", "ffn"),
    "vocab_size": ("V", "vocab"),
    "rank": ("r", "rank"),
}
TOKENS = ("T", "tokens")
LONG = dict([TOKENS, *LETTERS.values()])
ORDER = {letter: at for at, letter in enumerate(LONG)}
POWERS = {1: "", 2: "²", 3: "³"}

Monomial: TypeAlias = "tuple[tuple[str, int], ...]"  # letters with their powers, sorted; () is the number 1
Form: TypeAlias = "dict[Monomial, Fraction]"


def sizes_of(model: Model) -> dict[int, tuple[str, ...]]:
    """Return the names that blocks have for each distinct size of a model; equal sizes are one axis of a recipe."""
    found: dict[int, dict[str, None]] = {}
    for name, size in _sizes(model.parts):
        found.setdefault(size, {})[name] = None
    return {size: tuple(names) for size, names in found.items()}


def _sizes(value: Any, name: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int):
        yield name, value
    elif isinstance(value, Stack):
        for layer, _ in value.groups():
            yield from _sizes(layer)
    elif isinstance(value, Block):
        for field, each in vars(value).items():
            yield from _sizes(each, field)
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _sizes(each)


class Forms:
    """The closed forms of the terms of one recipe with numbers put in; `legend` names the letters that were used."""

    def __init__(self, sums: Sums, model: Model, job: Job) -> None:
        self.sums = sums
        self._job_axes = ("layers", *job.axes)  # the first ones of a recipe made by `steps.step`
        self.legend: dict[str, tuple[tuple[str, ...], int]] = {}
        self._names = sizes_of(model)
        self._atoms: list[Form] = []
        for at in range(len(sums.recipe.atoms)):
            self._atoms.append(self._atom(at))

    def of(self, term: Term) -> Form:
        """Return the form of a term."""
        if isinstance(term, int):
            return constant(term)
        factor, atoms = self.sums.recipe.products[term[0]]
        total = constant(factor)
        for atom in atoms:
            total = times(total, self._atoms[atom])
        return total

    def _atom(self, at: int) -> Form:
        how, left, right = self.sums.recipe.atoms[at]
        if how == "axis":
            return {((self._letter(left, self.sums.atoms[at]), 1),): Fraction(1)}
        a, b = self.of(left), self.of(right)
        if how in "+-":
            return plus(a, b, -1 if how == "-" else 1)
        if how == "//" and len(b) == 1 and not self.sums.number(left) % self.sums.number(right):
            return over(a, b)
        return {((f"({text(a)} {how} {text(b)})", 1),): Fraction(1)}

    def _letter(self, axis: Any, size: int) -> str:
        names = (self._job_axes[axis],) if axis < len(self._job_axes) else self._names.get(size, (f"axis_{axis}",))
        known = [name for name in LETTERS if name in names]
        letter = LETTERS[known[0]][0] if known else names[0]
        self.legend[letter] = (tuple(LETTERS[name][1] for name in known) or names, size)
        return letter


def constant(number: int) -> Form:
    """Return a number as a form."""
    return {(): Fraction(number)} if number else {}


def plus(a: Form, b: Form, times_b: int = 1) -> Form:
    """Return a + times_b·b."""
    total = dict(a)
    for monomial, factor in b.items():
        total[monomial] = total.get(monomial, Fraction(0)) + times_b * factor
    return {monomial: factor for monomial, factor in total.items() if factor}


def times(a: Form, b: Form) -> Form:
    """Return a·b."""
    total: Form = {}
    for left, x in a.items():
        for right, y in b.items():
            total = plus(total, {_joined(left, right): x * y})
    return total


def over(a: Form, b: Form) -> Form:
    """Return a divided by a form of one monomial."""
    ((monomial, factor),) = b.items()
    return times(a, {tuple((letter, -power) for letter, power in monomial): 1 / factor})


def _joined(a: Monomial, b: Monomial) -> Monomial:
    powers = dict(a)
    for letter, power in b:
        powers[letter] = powers.get(letter, 0) + power
    return tuple(sorted((letter, power) for letter, power in powers.items() if power))


def text(form: Form) -> str:
    """Return a form as it is read.

    >>> tokens = {(("b", 1), ("s", 1)): Fraction(1)}
    >>> text(plus(times(tokens, {(("h", 1),): Fraction(4)}), constant(512)))
    '4·T·h + 512'
    """
    ordered = sorted(form.items(), key=lambda each: _place(_written(each[0])))
    parts = [_text(monomial, factor) for monomial, factor in ordered]
    return " + ".join(parts).replace("+ -", "- ") or "0"


def _place(written: list[tuple[str, int]]) -> tuple[int, list[tuple[int, str]]]:
    """Return where a monomial stands in a sum: long products first, numbers last."""
    return -sum(abs(power) for _, power in written), [_rank(letter) for letter, _ in written]


def _rank(letter: str) -> tuple[int, str]:
    return ORDER.get(letter, len(ORDER)), letter


def _written(monomial: Monomial) -> list[tuple[str, int]]:
    """Return letters and powers in the order they are written; b·s of equal powers is T."""
    powers = dict(monomial)
    if powers.get("b") and powers.get("b") == powers.get("s"):
        powers["T"] = powers.pop("b")
        del powers["s"]
    return sorted(powers.items(), key=lambda each: _rank(each[0]))


def _text(monomial: Monomial, factor: Fraction) -> str:
    above = [f"{letter}{POWERS.get(power, f'^{power}')}" for letter, power in _written(monomial) if power > 0]
    below = [f"{letter}{POWERS.get(-power, f'^{-power}')}" for letter, power in _written(monomial) if power < 0]
    if abs(factor.numerator) != 1 or not above:
        above.insert(0, str(abs(factor.numerator)))
    if factor.denominator != 1:
        below.insert(0, str(factor.denominator))
    sign = "-" if factor < 0 else ""
    return sign + "/".join(["·".join(above), *below])


def axis_name(form: Form) -> str:
    """Return the name of an axis of this length, "" for one that is a number.

    >>> axis_name({(("d", 1), ("k", 1)): Fraction(1)}), axis_name(constant(1))
    ('kv_heads·head_dim', '')
    """
    if not any(form):
        return ""
    if len(form) == 1 and next(iter(form.values())) == 1:
        ((monomial, _),) = form.items()
        if all(power == 1 for _, power in _written(monomial)):
            return "·".join(LONG.get(letter, letter) for letter, _ in _written(monomial))
    return text(form)
