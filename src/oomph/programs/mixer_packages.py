"""Which packages the classes of hybrids ask for in layers that keep a state, and what is said of that.

transformers 5.23 takes a package's function where it finds the package (use_kernel_func_from_hub_with_fallback), each
on its own: delta rules of flash-linear-attention, convolutions of causal-conv1d, Mamba's scans of mamba-ssm.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from oomph.blocks.base import descend
from oomph.blocks.linear_attention import GatedDeltaNet, KimiDeltaAttention
from oomph.errors import UnsupportedError
from oomph.job import InferJob, TrainJob

if TYPE_CHECKING:
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


def has_gated_delta_nets(model: Model) -> bool:
    """Tell whether some of its layers are delta nets that flash-linear-attention tells where sequences begin; Kimi's
    class does not tell them.
    """
    return any(isinstance(block, GatedDeltaNet) for block in descend(model.parts))


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
    asked = _asked(model)
    idle = [word for word in job.mixers.split("+") if word not in asked]
    if idle:
        why = f"transformers' class of {model.model_type or 'this model'} asks for no {named(idle)}."
        raise UnsupportedError(why, f"Say --mixers {word_of(asked)}.")


def takes(model: Model, mixers: str) -> bool:
    """Tell whether the classes of a model ask for all of these packages."""
    return _asked(model) >= {*mixers.split("+")}


def _asked(model: Model) -> set[str]:
    return {word for packages in packages_of(model) for word in packages}


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
        fix = f" Where they are installed: --mixers {word_of(packages)}."
        found.append(f"{without}: its mixers in plain torch, which takes more.{fix}")
    return tuple(found)


def packed_note(model: Model, job: TrainJob | InferJob) -> tuple[str, ...]:
    """Say so where a class does not tell all of its mixers where packed sequences begin, though a batch does."""
    told = isinstance(job, TrainJob) and job.packs and job.packed_by == "lengths"
    if not told or not any(isinstance(block, KimiDeltaAttention) for block in descend(model.parts)):
        return ()
    return (
        f"{model.model_type} tells its convolutions where packed sequences begin, but not its delta rule: there they"
        " see those before them.",
    )


def word_of(packages: Iterable[str]) -> str:
    """Return how --mixers says that these packages are installed."""
    return "+".join(word for word in ORDER if word in packages) or "torch"
