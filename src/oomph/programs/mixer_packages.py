"""Which packages the classes of hybrids ask for in layers that keep a state, and what is said of that.

transformers 5.23 takes a package's function where it finds the package (use_kernel_func_from_hub_with_fallback), each
on its own: delta rules of flash-linear-attention, convolutions of causal-conv1d, Mamba's scans of mamba-ssm.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from oomph.blocks.base import descend
from oomph.errors import UnsupportedError

if TYPE_CHECKING:
    from oomph.job import InferJob, TrainJob
    from oomph.model import Model

# By the kind of a block, in words of --mixers.
PACKAGES = {
    "linear_attention": ("fla", "causal-conv1d"),
    "mamba": ("mamba-ssm", "causal-conv1d"),
    "short_conv": ("causal-conv1d",),
}
ORDER = ("fla", "mamba-ssm", "causal-conv1d")
MAMBA_SSM, CAUSAL_CONV1D = "mamba-ssm", "causal-conv1d"
NAMES = {"fla": "flash-linear-attention"}  # of packages whose word is another
PLAIN = ("lfm3", "minimax")  # types whose mixers are plain torch whether or not there is a package


def packages_of(model: Model) -> list[tuple[str, ...]]:
    """Return the packages that each kind of a model's mixers asks for."""
    blocks = [] if model.model_type in PLAIN else descend(model.parts)
    return list(dict.fromkeys(PACKAGES[block.kind] for block in blocks if block.kind in PACKAGES))


def named(packages: Iterable[str]) -> str:
    """Return the names of packages in a sentence.

    >>> named(("fla", "causal-conv1d"))
    'flash-linear-attention and causal-conv1d'
    """
    return " and ".join(NAMES.get(word, word) for word in packages)


def check_mixers(model: Model, job: TrainJob | InferJob) -> None:
    """Refuse packages that no class of the model asks for."""
    if job.mixers == "torch":
        return
    asked = {word for each in packages_of(model) for word in each}
    idle = [word for word in job.mixers.split("+") if word not in asked]
    if idle:
        why = f"transformers' class of {model.model_type or 'this model'} asks for no {named(idle)}."
        raise UnsupportedError(why, f"Say --mixers {_word(asked)}.")


def refuse_alone(mixers: frozenset[str]) -> None:
    """Refuse mamba-ssm without causal-conv1d where its function for a whole mixer runs, which calls the other."""
    if CAUSAL_CONV1D not in mixers:
        why = "mamba-ssm's function for a whole mixer calls causal-conv1d, and fails where that is not installed."
        raise UnsupportedError(why, "Say --mixers mamba-ssm+causal-conv1d, or --mixers torch.")


def mixer_note(model: Model, mixers: str) -> tuple[str, ...]:
    """Say so where packages could compute a model's mixers that a job does without."""
    found = []
    for packages in packages_of(model):
        missing = [word for word in packages if word not in mixers.split("+")]
        if not missing:
            continue
        which = "packages" if len(missing) > 1 else "package"
        without = f"transformers without the {which} {named(missing)} is played"
        fix = f" Where they are installed: --mixers {_word(packages)}."
        found.append(f"{without}: its mixers in plain torch, which takes more.{fix}")
    return tuple(found)


def _word(packages: Iterable[str]) -> str:
    """Return how --mixers says that these packages are installed."""
    return "+".join(word for word in ORDER if word in packages) or "torch"
