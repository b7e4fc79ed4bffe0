"""A command of ik_llama.cpp's server: llama.cpp's flags, and those it has beside.

Source: common/common.cpp of ik_llama.cpp 8337e4cd.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oomph.engines.base import flag
from oomph.engines.checks import typed
from oomph.engines.ik.builds import build_of
from oomph.engines.llamacpp.job import LlamaCppJob
from oomph.engines.llamacpp.placing import Overrides
from oomph.errors import UnsupportedError, UsageError
from oomph.formats.gguf_types import BY_NAME, GgmlType

if TYPE_CHECKING:
    pass

Amount = Any  # an int or a numpy array of them


CACHE_TYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0", "q4_1": "Q4_1",
               "iq4_nl": "IQ4_NL", "q5_0": "Q5_0", "q5_1": "Q5_1", "q6_0": "Q6_0", "q8_KV": "Q8_KV"}  # fmt: skip
MLA = (0, 1, 2, 3)
MOST = 2**31
LONGEST = 20_000  # characters of -ot
_GPU = re.compile(r"CUDA(\d{1,2})")


@dataclass(frozen=True)
class IkJob(LlamaCppJob):
    """A `llama-server` command of ik_llama.cpp. `mla`: 0 keeps keys and values of every head, 1 the latent and, without
    flash attention, its transposed copy, 2 and 3 the latent alone."""

    gpu_layers: int | None = flag(None, "-ngl", "--gpu-layers", "--n-gpu-layers", help="layers on the GPU")
    parallel: int | None = flag(1, "-np", "--parallel", help="slots: requests at a time")
    override_tensor: str = flag("", "-ot", "--override-tensor", help="PATTERN=CPU or =CUDA0: where these go", adds=True)
    mla: int = flag(3, "-mla", "--mla-use", help="how latent attention is kept and computed: 0 to 3")
    attention_batch: int = flag(256, "-amb", "--attention-max-batch", help="MiB of attention scores at a time")
    fused_moe: bool = flag(True, "-fmoe/-no-fmoe", "--fused-moe/--no-fused-moe", help="gate and up in one operation")
    fused_up_gate: bool = flag(
        True, "-fug/-no-fug", "--fused-up-gate/--no-fused-up-gate", help="the same of other layers"
    )
    fused_sum: bool = flag(
        True, "-mmad/-no-mmad", "--fused-mul-multiadd/--no-fused-mul-multiadd", help="experts weighed and summed in one"
    )
    worst_graph_tokens: int = flag(0, "-wgt", "--worst-graph-tokens", help="tokens of a batch with logits; 0: all")
    k_hadamard: bool = flag(False, "-khad", "--k-cache-hadamard", help="keys are turned before they are kept")
    v_hadamard: bool = flag(False, "-vhad", "--v-cache-hadamard", help="so are values")
    repack: bool = flag(False, "-rtr", "--run-time-repack", help="weights of the host are repacked, not mapped")

    def __post_init__(self) -> None:
        """Refuse what the server would not start with, or what is not modelled."""
        typed(self)
        super().__post_init__()
        for name, value in (("-amb", self.attention_batch), ("-wgt", self.worst_graph_tokens)):
            if not 0 <= value < MOST:
                raise UsageError(f"{name} {value} is not within 0 and {MOST:,}.", "Give a whole number.")
        if self.mla not in MLA:
            raise UsageError(f"-mla {self.mla} is not known.", "Choose 0, 1, 2 or 3.")
        for spelled, said in (("-md", self.draft), ("--spec-type", self.spec_type), ("--mmproj", self.mmproj),
                              ("--lora", self.lora or self.lora_scaled),
                              ("--control-vector", self.control_vector or self.control_vector_scaled)):  # fmt: skip
            if said:
                raise UnsupportedError(
                    f"What ik_llama.cpp takes for {spelled} is not modelled.", "Leave it out: the rest is."
                )
        if self.fits:
            raise UnsupportedError("What --fit of ik_llama.cpp arrives at is not known.", "Say -ngl and -c.")
        if self.kv_unified is not None or self.swa_full:
            raise UsageError(
                "ik_llama.cpp has one cache for all slots and no windows.", "Leave -kvu and --swa-full out."
            )

    @property
    def types(self) -> tuple[GgmlType, GgmlType]:
        """The types of keys and values."""
        for name in (self.cache_type_k, self.cache_type_v):
            if name not in CACHE_TYPES:
                raise UsageError(f"A cache of {name[:20]!r} is not known.", f"Choose one of {', '.join(CACHE_TYPES)}.")
        return BY_NAME[CACHE_TYPES[self.cache_type_k]], BY_NAME[CACHE_TYPES[self.cache_type_v]]

    @property
    def patterns(self) -> tuple[re.Pattern[str], ...]:
        """Patterns of tensors that stay with the host."""
        return tuple(pattern for pattern, device in self.ordered if device < 0)

    @property
    def ordered(self) -> Overrides:
        """Patterns of tensors and the devices that they go to, -1 the host; the first that a name has counts."""
        host = LlamaCppJob(cpu_moe=self.cpu_moe, n_cpu_moe=self.n_cpu_moe).patterns
        found = [(pattern, -1) for pattern in host]
        for each in filter(None, self.override_tensor[:LONGEST].split(",")):
            pattern, _, place = each.rpartition("=")
            gpu = _GPU.fullmatch(place)
            read = LlamaCppJob(override_tensor=f"{pattern}=CPU" if gpu else each).patterns
            found += [(one, int(gpu[1]) if gpu else -1) for one in read]
        return tuple(found)

    @property
    def unified(self) -> bool:
        """All slots share one cache."""
        return True

    def check_defaults(self) -> None:
        """Refuse an old build whose own choices are asked for."""
        if self.build is None:
            return
        build_of(self.build)
        if self.gpu_layers is None or str(self.flash_attn).lower() == "auto":
            raise UnsupportedError(
                f"Build {self.build} of ik_llama.cpp puts no layer on a GPU and uses no flash attention by itself.",
                "Give -ngl and -fa.",
            )
