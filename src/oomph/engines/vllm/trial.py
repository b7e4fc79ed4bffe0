"""What vLLM's trial step and CUDA graphs take beside the weights (profile.py), and what of it the pool goes without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oomph import dtypes
from oomph.engines.memo import remembered
from oomph.engines.vllm.drafts import draft
from oomph.engines.vllm.profile import Profile, profile
from oomph.ledger import Item

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.devices import Device
    from oomph.engines.vllm.held import Kernel
    from oomph.engines.vllm.job import Version, VllmJob
    from oomph.formats.base import Format

GRAPHS_COUNTED: Version = (0, 20, 0)  # VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS is 0 in 0.19.0, 1 in 0.22.1
ALL_COUNTED: Version = (0, 27, 0)  # what the device has less, the runner's buffers among it
WHY = "vllm v1/worker/gpu_model_runner.py profile_run"
GRAPHS_WHY = "vllm v1/worker/gpu_model_runner.py capture_model"


@dataclass(frozen=True)
class Trial:
    """What one stage's trial step took, and which of it a version subtracts from what it requested."""

    profile: Profile
    version: Version
    draft_bytes: int = 0  # what a draft's own step takes at most: in the bound only

    @property
    def n_bytes(self) -> int:
        """What the pool goes without."""
        took = self.profile
        return took.activation_bytes + took.non_torch_bytes + self._graphs(took.graph_bytes) + self._buffers

    @property
    def safe_bytes(self) -> int:
        """The upper bound of it."""
        took = self.profile
        known = took.activation_safe_bytes + took.non_torch_safe_bytes + self._graphs(took.graph_safe_bytes)
        return known + self._buffers + self.draft_bytes

    def _graphs(self, n_bytes: int) -> int:
        return n_bytes if self.version >= GRAPHS_COUNTED else 0

    @property
    def _buffers(self) -> int:
        return self.profile.buffer_bytes if self.version >= ALL_COUNTED else 0

    @property
    def items(self) -> tuple[Item, ...]:
        """The same as items; graphs too, which lie beyond what was requested where they are not counted."""
        took = self.profile
        named = (
            ("activations of the largest step", "activations", took.activation_bytes, took.activation_safe_bytes, WHY),
            ("the draft's step", "activations", 0, self.draft_bytes, WHY),
            ("buffers of the runner", "buffers", took.buffer_bytes, took.buffer_bytes, WHY),
            ("outside torch", "runtime", took.non_torch_bytes, took.non_torch_safe_bytes, took.non_torch_evidence),
            ("CUDA graphs", "runtime", took.graph_bytes, took.graph_safe_bytes, GRAPHS_WHY),
        )
        return tuple(
            Item(name, group, size, source="measured" if name == "outside torch" else "rule", evidence=why, safe=safe)
            for name, group, size, safe, why in named
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
    stage: int,
) -> Trial:
    """Return what the trial step of one stage takes."""
    tokens, seqs = step
    guesses = job.speculation.get("num_speculative_tokens", 0)
    mxfp4: Kernel | None = "marlin" if job.mxfp4_use_marlin else None
    asked = (job.format, job.quantization, job.enforce_eager, job.compilation, guesses, mxfp4, job.images)
    spread = (job.tensor_parallel, job.pipeline_parallel, stage)
    key = ("trial", job.release, asked, spread, dtype, device and device.id, tokens, seqs, max_model_len)
    took = remembered(
        found.model,
        key,
        lambda: profile(
            found,
            tokens=tokens,
            seqs=seqs,
            dtype=dtype,
            tensor_parallel=job.tensor_parallel,
            pipeline_parallel=job.pipeline_parallel,
            version=job.release,
            format=fmt.name,
            enforce_eager=job.enforce_eager,
            device=device,
            context=max_model_len,
            stage=stage,
            compilation=job.compilation,
            guesses=guesses,
            mxfp4=mxfp4,
            images=job.images,
        ),
    )
    drawn = draft(found, job)
    own = drawn.step_bytes(tokens, dtypes.BITS[dtype] // 8) if drawn else 0
    return Trial(took, job.release, own)
