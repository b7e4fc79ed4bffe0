"""Programs that run a job: what each takes where the user says nothing. One file per program.

A file holds `RUNTIME`. Nothing here computes a byte: a runtime is a set of values for the fields of a TrainJob, each
with the reason it has that value, and depends on nothing but the versions of the libraries beneath.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from oomph.errors import UsageError, close_matches, letters

if TYPE_CHECKING:
    from oomph.runtimes.base import Runtime

RUNTIMES: dict[str, str] = {
    "pytorch": "pytorch",
    "trainer": "trainer",
    "trl": "trl",
    "sentence-transformers": "sentence_transformers",
    "peft": "peft",
    "fms": "fms",
    "swift": "swift",
    "qwen": "qwen",
    "llama-factory": "llama_factory",
    "axolotl": "axolotl",
    "torchtune": "torchtune",
    "litgpt": "litgpt",
    "unsloth": "unsloth",
}
# What else people call them.
ALIASES = {
    "hf": "trainer", "huggingface": "trainer", "transformers": "trainer", "accelerate": "trainer", "torch": "pytorch",
    "msswift": "swift",
}  # fmt: skip
CHOOSE = f"Choose one of {', '.join(RUNTIMES)}; docs/frameworks.md says what each takes."


def runtime(name: str) -> Runtime:
    """Return a runtime by its name, in which case and signs do not count, or by what else people call it."""
    said = letters(name)
    known = ALIASES.get(said) or next((one for one in RUNTIMES if letters(one) == said), None)
    if known is None:
        raise UsageError(f"There is no framework {name[:80]!r}.", close_matches(name, RUNTIMES) or CHOOSE)
    found: Runtime = import_module(f"oomph.runtimes.{RUNTIMES[known]}").RUNTIME
    return found
