"""A command of ik_llama.cpp's server: llama.cpp's flags, and those it has beside.

Source: common/common.cpp of ik_llama.cpp 8337e4cd.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import NamedTuple

from oomph.engines.base import ServeJob, flag
from oomph.engines.checks import typed
from oomph.engines.ik.builds import build_of
from oomph.engines.llamacpp.job import LlamaCppJob
from oomph.engines.llamacpp.placing import Overrides
from oomph.errors import UnsupportedError, UsageError
from oomph.formats.gguf_types import BY_NAME, GgmlType

CACHE_TYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0", "q4_1": "Q4_1",
               "iq4_nl": "IQ4_NL", "q5_0": "Q5_0", "q5_1": "Q5_1", "q6_0": "Q6_0", "q8_KV": "Q8_KV"}  # fmt: skip
MLA = (0, 1, 2, 3)
OF_EVERY_JOB = frozenset(each.name for each in fields(ServeJob))
MOST = 2**31
LONGEST = 20_000  # characters of -ot
_GPU = re.compile(r"CUDA(\d{1,2})")


class Attention(NamedTuple):
    """What -mla, -amb and -fmoe come out to."""

    mla: int
    attention_batch: int
    fused_moe: bool


NEWEST, OLD = Attention(3, 256, True), Attention(0, 0, False)  # gpt_params of common/common.h; OLD of 18eeb489


@dataclass(frozen=True)
class IkJob(LlamaCppJob):
    """A `llama-server` command of ik_llama.cpp. `mla`: 0 keeps keys and values of every head, 1 the latent and, without
    flash attention, its transposed copy, 2 and 3 the latent alone. `mla`, `attention_batch` and `fused_moe` of None are
    as the build takes them."""

    gpu_layers: int | None = flag(None, "-ngl", "--gpu-layers", "--n-gpu-layers", help="layers on the GPU")
    parallel: int | None = flag(1, "-np", "--parallel", help="slots: requests at a time")
    override_tensor: str = flag("", "-ot", "--override-tensor", help="PATTERN=CPU or =CUDA0: where these go", adds=True)
    n_cpu_moe: int = flag(0, "-ncmoe", "--n-cpu-moe", help="experts of so many last layers stay with the host")
    kv_offload: bool = flag(True, "-kvo/-nkvo", "--kv-offload/--no-kv-offload", help="the cache goes with its layers")
    mla: int | None = flag(None, "-mla", "--mla-use", help="how latent attention is kept and computed: 0 to 3")
    attention_batch: int | None = flag(
        None, "-amb", "--attention-max-batch", help="MiB of attention scores at a time, 0 for all"
    )
    fused_moe: bool | None = flag(
        None, "-fmoe/-no-fmoe", "--fused-moe/--no-fused-moe", help="gate and up of experts in one operation"
    )
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
    # What llama.cpp's server has and this one has not, or has otherwise: no flags of it (other_flags.py).
    kv_unified: bool | None = None
    swa_full: bool = False
    op_offload: bool = True
    fit: str = ""
    fit_target: str = "1024"
    fit_ctx: int = 4096
    lora: str = ""
    lora_scaled: str = ""
    lora_later: bool = False
    control_vector: str = ""
    control_vector_scaled: str = ""
    embedding: bool = False
    mmproj: str = ""
    mmproj_offload: bool = True
    image_max_tokens: int | None = None
    draft: str = ""
    draft_gpu_layers: int | str | None = None
    draft_cache_type_k: str = "f16"
    draft_cache_type_v: str = "f16"
    spec_type: str = ""
    draft_max: int = 3

    def __post_init__(self) -> None:
        """Refuse what the server would not start with, or what is not modelled."""
        typed(self)
        super().__post_init__()
        for name, value in (("-amb", self.attention_batch or 0), ("-wgt", self.worst_graph_tokens)):
            if not 0 <= value < MOST:
                raise UsageError(f"{name} {value} is not within 0 and {MOST:,}.", "Give a whole number.")
        if self.mla not in (None, *MLA):
            raise UsageError(f"-mla {self.mla} is not known.", "Choose 0, 1, 2 or 3.")
        if self.slots is None:
            raise UsageError("ik_llama.cpp chooses no number of slots.", "Give -np 1 or more.")
        for each in fields(self):
            if not each.metadata and each.name not in OF_EVERY_JOB and getattr(self, each.name) != each.default:
                raise UnsupportedError(f"{each.name} is nothing that is modelled of ik_llama.cpp.", "Leave it out.")

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
        """Patterns of -ot and the devices that tensors go to, -1 the host; the first that a name has counts."""
        found: list[tuple[re.Pattern[str], int]] = []
        for each in filter(None, self.override_tensor[:LONGEST].split(",")):
            pattern, _, place = each.rpartition("=")
            gpu = _GPU.fullmatch(place)
            read = LlamaCppJob(override_tensor=f"{pattern}=CPU" if gpu else each).patterns
            found += [(one, int(gpu[1]) if gpu else -1) for one in read]
        return tuple(found)

    @property
    def attention(self) -> Attention:
        """What -mla, -amb and -fmoe say, or the build takes by itself."""
        usual = NEWEST if self.build is None else OLD
        return Attention(
            usual.mla if self.mla is None else self.mla,
            usual.attention_batch if self.attention_batch is None else self.attention_batch,
            usual.fused_moe if self.fused_moe is None else self.fused_moe,
        )

    @property
    def layers_without_experts(self) -> int:
        """How many layers' experts stay with the host."""
        return MOST if self.cpu_moe else self.n_cpu_moe

    @property
    def unified(self) -> bool:
        """All slots share one cache."""
        return True

    def check_defaults(self) -> None:
        """Refuse an old build whose own choices are asked for."""
        if self.build is None:
            return
        build_of(self.build)
        if self.layers_without_experts:
            raise UnsupportedError(
                f"Build {self.build} of ik_llama.cpp has neither -cmoe nor -ncmoe.", "Say which experts by -ot."
            )
        if self.gpu_layers is None or str(self.flash_attn).lower() == "auto":
            raise UnsupportedError(
                f"Build {self.build} of ik_llama.cpp puts no layer on a GPU and uses no flash attention by itself.",
                "Give -ngl and -fa.",
            )
