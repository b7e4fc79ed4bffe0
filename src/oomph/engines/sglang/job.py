"""What SGLang is asked for: the flags of its server that move memory, their defaults, and what does not go together.

Source: srt/arg_groups/fields/ of sglang 0.5.23, srt/server_args.py of 0.5.3 to 0.5.18.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from oomph.engines.base import ServeJob, flag
from oomph.engines.checks import DTYPES, whole
from oomph.errors import UnsupportedError, UsageError

Version = tuple[int, int, int]
NEWEST: Version = (0, 5, 23)  # the newest whose source the rules were read in
OLDEST: Version = (0, 4, 4)
MOST_TOKENS, MOST_DEVICES = 2**31, 2**16

KV_DTYPES = {"auto": None, "bf16": 2, "bfloat16": 2, "fp8_e4m3": 1, "fp8_e5m2": 1}
SSM_DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}
OWN_LAYERS = ("NEXTN", "EAGLE")  # algorithms that may draft with the model's own prediction layers
DRAFTED_REQUESTS = 48  # in one step, where something is guessed ahead and no flag says otherwise
DRAFTED: tuple[int, int, int] = (3, 1, 4)  # steps, top-k, tokens of a DeepSeek: _auto_choose_speculative_params


@dataclass(frozen=True)
class SglangJob(ServeJob):
    """A launch of SGLang's server. `data_parallel`: copies side by side, or with `dp_attention` of attention alone.

    Raises UsageError for values that SGLang does not take, UnsupportedError for those that are not modelled.

    >>> SglangJob(tensor_parallel=8, data_parallel=8, dp_attention=True).attention_parallel
    1
    >>> SglangJob(tensor_parallel=2, data_parallel=2).ranks
    4
    """

    context_length: int | None = flag(None, "--context-length", help="tokens of a request, at most")
    mem_fraction_static: float | None = flag(None, "--mem-fraction-static", help="share for weights and caches")
    max_running_requests: int | None = flag(None, "--max-running-requests", help="requests in one step, at most")
    max_total_tokens: int | None = flag(None, "--max-total-tokens", help="tokens of the cache, at most")
    chunked_prefill_size: int | None = flag(None, "--chunked-prefill-size", help="tokens of a step; -1: whole prompts")
    max_prefill_tokens: int = flag(16384, "--max-prefill-tokens", help="tokens of a step where prompts are whole")
    page_size: int | None = flag(None, "--page-size", help="tokens of a page")
    attention_backend: str | None = flag(None, "--attention-backend", help="kernels of attention")
    decode_attention_backend: str | None = flag(None, "--decode-attention-backend")
    prefill_attention_backend: str | None = flag(None, "--prefill-attention-backend")
    tensor_parallel: int = flag(1, "--tp-size", "--tensor-parallel-size", "--tp", help="devices that share each layer")
    pipeline_parallel: int = flag(1, "--pp-size", "--pipeline-parallel-size", "--pp", help="groups of layers in a row")
    data_parallel: int = flag(1, "--dp-size", "--data-parallel-size", "--dp", help="copies side by side")
    dp_attention: bool = flag(False, "--enable-dp-attention", help="copies of attention alone")
    expert_parallel: int = flag(
        1, "--ep-size", "--expert-parallel-size", "--ep", help="devices that share experts whole"
    )
    dtype: str = flag("auto", "--dtype", help="of weights and activations")
    kv_cache_dtype: str = flag("auto", "--kv-cache-dtype", help="of keys and values")
    quantization: str | None = flag(None, "--quantization", help="method, where the checkpoint names none")
    disable_cuda_graph: bool = flag(False, "--disable-cuda-graph", help="no CUDA graphs")
    disable_prefill_cuda_graph: bool = flag(
        False, "--disable-prefill-cuda-graph", "--disable-piecewise-cuda-graph", help="none for prompts"
    )
    cuda_graph_max_bs: int | None = flag(
        None, "--cuda-graph-max-bs", "--cuda-graph-max-bs-decode", help="requests of the largest graph"
    )
    speculative_algorithm: str | None = flag(None, "--speculative-algorithm", "--speculative-algo")
    speculative_num_steps: int | None = flag(None, "--speculative-num-steps")
    speculative_eagle_topk: int | None = flag(None, "--speculative-eagle-topk")
    speculative_num_draft_tokens: int | None = flag(None, "--speculative-num-draft-tokens")
    swa_full_tokens_ratio: float = flag(0.8, "--swa-full-tokens-ratio", help="tokens of windowed layers to the others'")
    disable_hybrid_swa_memory: bool = flag(False, "--disable-hybrid-swa-memory", help="all tokens in windowed layers")
    mamba_full_memory_ratio: float = flag(
        0.9, "--mamba-full-memory-ratio", help="bytes of states to those of the cache"
    )
    max_mamba_cache_size: int | None = flag(None, "--max-mamba-cache-size", help="states, at most")
    mamba_ssm_dtype: str | None = flag(None, "--mamba-ssm-dtype")
    disable_radix_cache: bool = flag(False, "--disable-radix-cache", help="no prefix caching")
    disable_overlap_schedule: bool = flag(False, "--disable-overlap-schedule")

    def __post_init__(self) -> None:
        """Refuse what SGLang would not start with, and what is not modelled."""
        for name in ("context_length", "max_running_requests", "max_total_tokens", "max_prefill_tokens", "page_size"):
            whole(_spelling(name), getattr(self, name))
        for name in ("cuda_graph_max_bs", "max_mamba_cache_size"):
            whole(_spelling(name), getattr(self, name))
        for name in ("num_steps", "eagle_topk", "num_draft_tokens"):
            whole(_spelling(f"speculative_{name}"), getattr(self, f"speculative_{name}"), 2**10)
        for name in ("tensor", "pipeline", "data", "expert"):
            whole(_spelling(f"{name}_parallel"), getattr(self, f"{name}_parallel"), MOST_DEVICES)
        if self.chunked_prefill_size != -1:
            whole(_spelling("chunked_prefill_size"), self.chunked_prefill_size)
        _share("mem_fraction_static", self.mem_fraction_static)
        _share("swa_full_tokens_ratio", self.swa_full_tokens_ratio)
        if not 0 < self.mamba_full_memory_ratio < MOST_DEVICES:
            raise UsageError(f"--mamba-full-memory-ratio {self.mamba_full_memory_ratio} is no ratio above 0.")
        for name, known in (("dtype", DTYPES), ("kv_cache_dtype", KV_DTYPES), ("mamba_ssm_dtype", SSM_DTYPES)):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise UnsupportedError(
                    f"{_spelling(name)} {str(value)[:40]!r} is not modelled.", f"Known: {', '.join(known)}."
                )
        self._together()

    def _together(self) -> None:
        if self.tensor_parallel % self.expert_parallel:
            raise UsageError(
                "--ep-size must divide --tp-size.", f"{self.tensor_parallel} / {self.expert_parallel} is none."
            )
        if self.dp_attention and self.tensor_parallel % self.data_parallel:
            raise UsageError("With --enable-dp-attention --dp-size must divide --tp-size.", "Choose one that does.")
        if self.speculative_algorithm is not None and self.speculative_algorithm.upper() not in OWN_LAYERS:
            raise UnsupportedError(
                f"Speculation by {self.speculative_algorithm[:40]!r} is not modelled: its draft is another model.",
                f"Of drafts oomph knows the model's own prediction layers: {', '.join(OWN_LAYERS)}.",
            )
        _ = self.release

    def with_context(self, tokens: int) -> SglangJob:
        """Return the job with requests so long, and no longer ones."""
        return replace(self, context=tokens, context_length=None)

    @property
    def release(self) -> Version:
        """The version as numbers; the newest known where none is named."""
        return parse_version(self.version)

    @property
    def attention_parallel(self) -> int:
        """Devices that share the heads of one attention."""
        return self.tensor_parallel // self.data_parallel if self.dp_attention else self.tensor_parallel

    @property
    def attention_copies(self) -> int:
        """Copies of attention among the devices of one server."""
        return self.data_parallel if self.dp_attention else 1

    @property
    def ranks(self) -> int:
        """Devices that the server takes."""
        copies = 1 if self.dp_attention else self.data_parallel
        return self.tensor_parallel * self.pipeline_parallel * copies

    @property
    def drafted(self) -> tuple[int, int, int]:
        """Steps, top-k and tokens of a draft; zeros where nothing is guessed ahead."""
        if self.speculative_algorithm is None:
            return 0, 0, 0
        steps, top, tokens = DRAFTED
        return (
            self.speculative_num_steps or steps,
            self.speculative_eagle_topk or top,
            self.speculative_num_draft_tokens or tokens,
        )


def parse_version(text: str) -> Version:
    """Return a version's numbers; raises UsageError where there are none.

    >>> parse_version("0.5.10.post1"), parse_version("v0.5.2rc1")
    ((0, 5, 10), (0, 5, 2))
    """
    if not text:
        return NEWEST
    found = re.match(r"v?(\d{1,4})\.(\d{1,4})\.(\d{1,4})", text.strip())
    if found is None:
        raise UsageError(f"{text[:40]!r} is no version of SGLang.", "Write it as 0.5.23.")
    version = int(found[1]), int(found[2]), int(found[3])
    if version < OLDEST:
        raise UnsupportedError(
            f"SGLang {text[:40]} is older than 0.4.4, the oldest that was read.", "Name a newer one."
        )
    return version


def _spelling(name: str) -> str:
    return "--" + name.replace("_", "-")


def _share(name: str, value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1):
        raise UsageError(f"{_spelling(name)} {str(value)[:40]!r} is no share.", "It is above 0, at most 1.")
