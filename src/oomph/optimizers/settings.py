"""What a rule must know beside a parameter: the job's choices, and which parameters are special."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from oomph.optimizer_names import KINDS
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym


@dataclass(frozen=True)
class Settings:
    """An optimizer as a job asks for it. `shared` holds tensors that the states of all parameters have in common.

    `embeddings` are parameters by the ordinals of their storages; with `embedding_32bit` their states stay fp32.
    `targets` are the matrices that low-rank optimizers project to `rank` and Muon makes orthogonal;
    `update_projection` says that this step computes projections anew. `steady` says that this is not one of the first
    steps. `head_numel` is how many elements of queries' weights belong to a head. `denominators_apart` says that
    AdamW is torch 2.0's. `scales` are those and the zeros of int8 weights that train, by the ids of these.
    """

    name: str
    implementation: str = "foreach"
    bits: int = 0
    paged: bool = False
    embedding_32bit: bool = True
    embeddings: frozenset[int] = frozenset()
    targets: set[int] = field(default_factory=set)
    rank: int = 128
    update_projection: bool = False
    steady: bool = True
    head_numel: Size = 1
    denominators_apart: bool = False
    scales: dict[int, tuple[Sym, Sym]] = field(default_factory=dict)
    shared: dict[str, Sym] = field(default_factory=dict)

    def is_embedding(self, parameter: Sym) -> bool:
        """Tell whether a parameter is the table of an embedding."""
        return parameter.storage.ordinal in self.embeddings

    def is_target(self, parameter: Sym) -> bool:
        """Tell whether a parameter is one of the matrices that are treated differently."""
        return parameter.storage.ordinal in self.targets


def by_dtype(tensors: Sequence[Sym]) -> list[list[Sym]]:
    """Return tensors in the groups of one dtype that foreach works on, the dtype that occurs last first.

    The order is that of torch's hash map. Source: torch/utils/_foreach_utils.py.
    """
    dtypes = reversed(dict.fromkeys(one.dtype for one in tensors))
    return [[one for one in tensors if one.dtype == dtype] for dtype in dtypes]


def named(optimizer: str, implementation: str = "foreach") -> Settings:
    """Return the settings of an optimizer by the name a job has for it.

    >>> named("paged_adamw_8bit").bits, named("sgd").bits
    (8, 0)
    """
    kind = KINDS[optimizer]
    return Settings(kind.name, implementation, kind.bits, kind.paged)
