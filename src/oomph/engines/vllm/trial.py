"""What vLLM's trial step and CUDA graphs take beside the weights (profile.py), and what of it the pool goes without."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from oomph.ledger import Item

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.devices import Device
    from oomph.engines.vllm.job import Version, VllmJob
    from oomph.formats.base import Format

GRAPHS_COUNTED: Version = (0, 20, 0)  # VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS is 0 in 0.19.0, 1 in 0.22.1


@dataclass(frozen=True)
class Trial:
    """Bytes of one device: the largest step's activations, what is outside torch, graphs; each and its upper bound."""

    activation: tuple[int, int]
    non_torch: tuple[int, int]
    graphs: tuple[int, int]
    why: str

    def n_bytes(self, version: Version) -> int:
        """Return what the pool goes without."""
        return self.activation[0] + self.non_torch[0] + (self.graphs[0] if version >= GRAPHS_COUNTED else 0)

    def safe_bytes(self, version: Version) -> int:
        """Return the upper bound of it."""
        return self.activation[1] + self.non_torch[1] + (self.graphs[1] if version >= GRAPHS_COUNTED else 0)

    def items(self, version: Version) -> tuple[Item, ...]:
        """Return the same as items; graphs too, which lie beyond what was requested where they are not counted."""
        named = (
            ("activations of the largest step", "activations", self.activation),
            ("outside torch", "runtime", self.non_torch),
            ("CUDA graphs", "runtime", self.graphs),
        )
        return tuple(
            Item(name, group, size, source="rule", evidence=self.why, safe=safe)
            for name, group, (size, safe) in named
            if safe
        )


def trial(
    found: Subject,
    job: VllmJob,
    fmt: Format,
    dtype: str,
    device: Device | None,
    step: tuple[int, int],
    max_model_len: int,
) -> Trial | None:
    """Return what the trial step takes, None where it is not known."""
    try:
        profile: Any = import_module("oomph.engines.vllm.profile")
    except ModuleNotFoundError:
        return None
    took = profile.profile(
        found,
        tokens=step[0],
        seqs=step[1],
        dtype=dtype,
        tensor_parallel=job.tensor_parallel,
        pipeline_parallel=job.pipeline_parallel,
        version=job.release,
        format=fmt.name,
        enforce_eager=job.enforce_eager,
        device=device,
        context=max_model_len,
    )
    return Trial(
        (took.activation_bytes, took.activation_safe_bytes),
        (took.non_torch_bytes, took.non_torch_safe_bytes),
        (took.graph_bytes, took.graph_safe_bytes),
        took.why,
    )
