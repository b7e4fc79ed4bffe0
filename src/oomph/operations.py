"""The memory rules of operations and optimizers as they are written down: their docstrings, found by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from oomph.errors import UsageError, close_matches

PACKAGES = ("oomph.ops", "oomph.optimizers")
HELPERS = frozenset(
    {
        "oomph.ops.delta_chunks",
        "oomph.ops.kernel",
        "oomph.ops.kernel_choice",
        "oomph.ops.mask_rules",
        "oomph.optimizers.settings",
        "oomph.optimizers.projection",
        "oomph.optimizers.quantised_projection",
        "oomph.optimizers.zero",
    }
)  # what rules are made with, itself no rule


@dataclass(frozen=True)
class Rule:
    """One rule: `name` as it is called (optimizers' with their file in front), its `signature` and docstring."""

    name: str
    module: str
    signature: str
    doc: str

    @property
    def summary(self) -> str:
        """The first sentence."""
        return " ".join(self.doc.partition("\n\n")[0].split()).partition(". ")[0].rstrip(".") + "."

    @property
    def prose(self) -> str:
        """The docstring without its worked example."""
        return self.doc.partition(">>>")[0].rstrip()

    @property
    def example(self) -> str:
        """The worked example, checked by doctest; "" if there is none."""
        _, prompt, rest = self.doc.partition(">>>")
        return f"{prompt}{rest}".rstrip()

    @property
    def text(self) -> str:
        """Everything, for a terminal."""
        return f"{self.name}{self.signature}\n{self.module}\n\n{self.doc}"


def modules() -> list[ModuleType]:
    """Return the modules that hold rules."""
    packages = [import_module(name) for name in PACKAGES]
    names = [f"{package.__name__}.{found.name}" for package in packages for found in iter_modules(package.__path__)]
    return [import_module(name) for name in names if name not in HELPERS]


def rules() -> list[Rule]:
    """Return every public function of every module of rules, in the order of the files."""
    return [rule for module in modules() for rule in of_module(module)]


def of_module(module: ModuleType) -> list[Rule]:
    """Return the rules of one module in the order in which they are written."""
    functions = [
        each
        for name, each in vars(module).items()
        if inspect.isfunction(each) and each.__module__ == module.__name__ and not name.startswith("_")
    ]
    prefix = f"{module.__name__.rpartition('.')[2]}." if ".optimizers." in module.__name__ else ""
    return [
        Rule(f"{prefix}{each.__name__}", module.__name__, _signature(each), inspect.getdoc(each) or "")
        for each in functions
    ]


def _signature(function: Callable[..., Any]) -> str:
    return str(inspect.signature(function)).replace("'", "")  # annotations are texts


def rule(name: str) -> Rule:
    """Return the rule of this name; raises UsageError with close matches for one that there is not."""
    known = {each.name: each for each in rules()}
    if name not in known:
        raise UsageError(
            f"There is no operation {name[:80]!r}.", close_matches(name, known) or "See oomph explain op for all."
        )
    return known[name]
