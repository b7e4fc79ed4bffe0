"""Cutting a row by a list of names gives, module by module, what the real loaders' matching gives."""

from __future__ import annotations

import fnmatch
import random
import re
from collections import Counter
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oomph.errors import OomphError
from oomph.formats.names import Names, names_in
from oomph.tensor import Weight
from tests.formats.common import row

SEGMENTS = ["layers", "mlp", "experts", "gate", "up_proj", "self_attn", "q_proj"]


def modules(weight: Weight) -> list[tuple[str, tuple[int, ...]]]:
    """Every module a row stands for."""
    found = []
    for indices in product(*weight.places):
        numbers = iter(indices)
        name = ".".join(str(next(numbers)) if part == "*" else part for part in weight.name.split("."))
        found.append((name.removesuffix(".weight"), indices))
    return found


def listed_by(names: Names, weight: Weight) -> set[tuple[int, ...]]:
    """The modules of a row that our cut lists; the parts must be the row, each module once."""
    parts = names.split(weight)
    copies = Counter(copy for _, part in parts for copy in product(*part.places))
    assert copies == Counter(product(*weight.places))
    return {copy for listed, part in parts if listed for copy in product(*part.places)}


ROWS = [
    row("layers.*.mlp.experts.*.up_proj.weight", range(12), range(11)),
    row("layers.*.self_attn.q_proj.weight", (0, 3, 10, 11, 21)),
    row("lm_head.weight"),
    row("layers.*.mlp.shared_expert_gate.weight", range(3)),
    row("layers.*.mlp.3.gate.1.weight", range(5)),
    row("projector.2.weight"),
]
LITERAL = st.lists(
    st.one_of(st.sampled_from(SEGMENTS), st.integers(0, 21).map(str), st.sampled_from(["gate", "lm_head"])),
    min_size=1,
    max_size=6,
).map(".".join)
WHOLE = st.sampled_from(
    [*(name for each in ROWS for name, _ in modules(each)[::7]), "layers.3", "layers.1", "layers.10.mlp", "lm_head"]
)


def _hf(name: str, entries: list[str]) -> bool:
    """transformers' should_convert_module, turned round."""
    boundary = r"(?:(?<=\.)|(?=\.|$))"
    return any(re.match(rf"(?:{key}){boundary}", name) or name.endswith(key) for key in entries)


def starts_with_a_number(entry: str) -> bool:
    """An ending such as "1.mlp" also ends "layers.11.mlp" for transformers; no list holds one."""
    return entry[0].isdecimal()


@settings(max_examples=300, deadline=None)
@given(entries=st.lists(LITERAL | WHOLE | st.sampled_from(["layers.*.mlp", "layers.[0-3].mlp", ".*gate"]), max_size=6))
def test_transformers_reading(entries: list[str]) -> None:
    """Equal to should_convert_module on every module."""
    entries = [entry for entry in entries if not starts_with_a_number(entry)]
    names = Names(entries, "transformers")
    for each in ROWS:
        assert listed_by(names, each) == {copy for name, copy in modules(each) if _hf(name, entries)}


def test_our_copy_of_transformers_matching_is_the_real_one() -> None:
    """The oracle above is transformers' own function."""
    utils = pytest.importorskip("transformers.quantizers.quantizers_utils")
    rng = random.Random(0)
    for _ in range(500):
        entry = ".".join(rng.choice([*SEGMENTS, "1", "10"]) for _ in range(rng.randint(1, 4)))
        name = rng.choice(modules(rng.choice(ROWS)))[0]
        assert utils.should_convert_module(name, [entry]) != _hf(name, [entry])


PATTERNS = st.sampled_from(
    ["re:.*self_attn.*", r"re:.*layers\.(0|3|11)\..*", r"re:layers\.1\d\.", r"re:.*experts\.[0-4]\.up_proj$",
     "re:.*mlp", r"re:^(?!.*(q_proj)).*layers\.2\.", "re:layers.1.mlp.experts.10.*"]
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(entries=st.lists(WHOLE | PATTERNS, max_size=5))
def test_exact_reading(entries: list[str]) -> None:
    """Equal to compressed-tensors' match_name on every module (its rule is two lines)."""
    names = Names(entries, "exact")

    def real(name: str) -> bool:
        return any(re.match(e[3:], name) if e.startswith("re:") else e == name for e in entries)

    for each in ROWS:
        assert listed_by(names, each) == {copy for name, copy in modules(each) if real(name)}


GLOBS = st.sampled_from(
    ["layers.0*", "layers.1*", "layers.1.*", "*.mlp.*", "*gate*", "layers.3.self*", "lm_head*", "layers.?.mlp*",
     "layers.1[01]*", "layers.10.mlp.experts.1*", "layers.2.mlp.experts.*"]
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(entries=st.lists(WHOLE | GLOBS, max_size=5))
def test_glob_reading(entries: list[str]) -> None:
    """A shell pattern is fnmatch's; a plain name lists its module and all below it."""
    names = Names(entries, "glob")

    def real(name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, e) or f".{e}." in f".{name}." for e in entries)

    for each in ROWS:
        assert listed_by(names, each) == {copy for name, copy in modules(each) if real(name)}


@pytest.mark.parametrize("entry", ["model.layers.1.fc", "language_model.model.layers.1.fc", "layers.1.fc"])
@pytest.mark.parametrize("name", ["model.layers.*.fc.weight", "model.language_model.layers.*.fc.weight"])
def test_wrappers_do_not_matter(entry: str, name: str) -> None:
    """Loaders spell the same module with and without the model around it."""
    for reading in ("transformers", "exact", "glob"):
        assert listed_by(Names([entry], reading), row(name, range(3))) == {(1,)}


def test_a_long_list_is_one_row() -> None:
    """61 layers of 384 experts, every one listed by name, stay one row."""
    entries = [f"model.layers.{i}.mlp.experts.{j}.up_proj" for i in range(61) for j in range(384)]
    names = Names(entries, "exact")
    weight = row("model.layers.*.mlp.experts.*.up_proj.weight", range(61), range(384))
    assert names.split(weight) == [(True, weight)]


def test_patterns_over_many_experts() -> None:
    """Patterns run on classes of indices and pick the experts of two layers out of 61."""
    names = Names([r"re:.*layers\.(0|60)\..*", "re:.*self_attn.*", "re:.*shared_experts.*"], "exact")
    weight = row("model.layers.*.mlp.experts.*.up_proj.weight", range(61), range(384))
    assert sum(part.copies for listed, part in names.split(weight) if listed) == 2 * 384


@pytest.mark.parametrize(
    "entries",
    [{"a": 1}, [1, 2], [None], 7, ["x" * 5000], ["a"] * 300_000, ["re:" + "(" * 5], [["a"]],
     [f"re:.*{i}(a|b)*" for i in range(2000)], "re:("],
)  # fmt: skip
def test_hostile_lists_are_refused(entries: object) -> None:
    """What is no list of names, or an absurd one, gives an OomphError."""
    with pytest.raises(OomphError):
        names_in({"ignore": entries}, "ignore", "exact")


def test_a_hundred_thousand_names_are_read() -> None:
    """Long lists of plain names are only long."""
    entries = [f"model.layers.{i % 100}.mlp.experts.{i}.up_proj" for i in range(100_000)]
    assert Names(entries, "transformers")
