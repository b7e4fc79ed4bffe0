"""What vLLM is asked for: the flags of `vllm serve` that move memory, their defaults, and what does not go together.

Source: vllm/engine/arg_utils.py and vllm/config/ of vLLM 0.33.0 and 0.19.0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from oomph import dtypes
from oomph.allocator.config import Config
from oomph.engines.base import ServeJob, flag
from oomph.engines.checks import DTYPES, whole
from oomph.engines.vllm import settings
from oomph.errors import UnsupportedError, UsageError
from oomph.units import GIB

if TYPE_CHECKING:
    from oomph.devices import Device

Version = tuple[int, ...]
NEWEST: Version = (0, 33, 0)  # the newest whose source the rules were read in
OLDEST: Version = (0, 6, 0)
V1: Version = (0, 8, 0)  # the engine's second core is the default from here on,
V1_ONLY: Version = (0, 11, 0)  # and the first one is gone
V1_CAPABILITY = (8, 0)  # in between, older GPUs fall back to the first

MOST_TOKENS = 2**31
MOST_DEVICES = 2**16
MOST_OFFLOAD = 2.0**20
KV_BYTES = {"fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1, "fp8_inc": 1, "fp8_ds_mla": 1, "int8": 1}
KV_BYTES |= {"bfloat16": 2, "float16": 2, "half": 2}
# usage context and device memory -> tokens of a step and sequences: get_batch_defaults of engine/arg_utils.py
LARGE, LARGEST = 70 * GIB, 160 * GIB
GB10 = (12, 1)  # NVML knows no memory of it, 0.33 names it: both make its steps small
LARGEST_SINCE: Version = (0, 28, 0)  # not in 0.27.1
SMALL_DEFAULTS, LARGE_DEFAULTS, LARGEST_DEFAULTS = (2048, 256), (8192, 1024), (16384, 1024)
OFFLINE_TOKENS = {SMALL_DEFAULTS: 8192, LARGE_DEFAULTS: 16384, LARGEST_DEFAULTS: 16384}
EARLY_SEQS = 256  # of all devices, before 0.9
# Kernels of attention whose blocks and workspaces are those that are modelled: none of their own.
BACKENDS = ("FLASH_ATTN", "TRITON_ATTN", "XFORMERS", "FLASH_ATTN_VLLM_V1", "TRITON_ATTN_VLLM_V1")


@dataclass(frozen=True)
class VllmJob(ServeJob):
    """A `vllm serve` command, or an LLM object of the same arguments.

    `max_model_len` of None is the job's `context`, and where that is None too, what the config allows; -1 or "auto" the
    most that fits. Sizes are bytes where their names say so, GiB where vLLM's flag counts in them. `offline` is the LLM
    class in a program, which takes larger steps than the server. Raises UsageError for values vLLM does not take.

    >>> VllmJob(max_model_len="32k").max_tokens, VllmJob(max_model_len="32K").max_tokens
    (32000, 32768)
    """

    max_model_len: int | str | None = flag(None, "--max-model-len", help="tokens of a request, at most")
    gpu_memory_utilization: float | None = flag(None, "--gpu-memory-utilization", help="share of the device")
    max_num_seqs: int | None = flag(None, "--max-num-seqs", help="requests in one step, at most")
    max_num_batched_tokens: int | None = flag(None, "--max-num-batched-tokens", help="tokens in one step, at most")
    tensor_parallel: int = flag(1, "--tensor-parallel-size", "-tp", help="devices that share each layer")
    pipeline_parallel: int = flag(1, "--pipeline-parallel-size", "-pp", help="groups of layers, one behind the other")
    data_parallel: int = flag(1, "--data-parallel-size", "-dp", help="whole copies side by side")
    enable_expert_parallel: bool = flag(
        False, "--enable-expert-parallel/--no-enable-expert-parallel", "-ep", help="whole experts on each device"
    )
    decode_context_parallel: int = flag(1, "--decode-context-parallel-size", "-dcp", help="devices sharing a cache")
    dtype: str = flag("auto", "--dtype", help="of weights and activations")
    kv_cache_dtype: str = flag("auto", "--kv-cache-dtype", help="of keys and values")
    quantization: str | None = flag(None, "--quantization", "-q", help="method, where the checkpoint names none")
    block_size: int | None = flag(None, "--block-size", help="tokens of a block")
    enforce_eager: bool = flag(False, "--enforce-eager/--no-enforce-eager", help="no CUDA graphs")
    enable_prefix_caching: bool | None = flag(None, "--enable-prefix-caching/--no-enable-prefix-caching")
    enable_chunked_prefill: bool | None = flag(
        None, "--enable-chunked-prefill/--no-enable-chunked-prefill", help="prompts in pieces of a step"
    )
    async_scheduling: bool = flag(True, "--async-scheduling/--no-async-scheduling", help="two steps on their way")
    disable_hybrid_kv_cache_manager: bool = flag(
        False, "--disable-hybrid-kv-cache-manager/--no-disable-hybrid-kv-cache-manager"
    )
    kv_cache_memory_bytes: int | None = flag(None, "--kv-cache-memory-bytes", "--kv-cache-memory")
    num_gpu_blocks_override: int | None = flag(None, "--num-gpu-blocks-override")
    cpu_offload_gb: float = flag(0.0, "--cpu-offload-gb", help="GiB of weights on the host")
    enable_lora: bool = flag(False, "--enable-lora/--no-enable-lora")
    max_loras: int = flag(1, "--max-loras")
    max_lora_rank: int = flag(16, "--max-lora-rank")
    speculative_config: str | None = flag(None, "--speculative-config", "-sc", help="JSON: method, tokens, model")
    compilation_config: str | None = flag(None, "--compilation-config", "-cc", help="JSON: cudagraph_mode, sizes")
    cudagraph_capture_sizes: tuple[int, ...] = flag((), "--cudagraph-capture-sizes", help="tokens of captured steps")
    max_cudagraph_capture_size: int | None = flag(None, "--max-cudagraph-capture-size")
    attention_backend: str | None = flag(None, "--attention-backend", "VLLM_ATTENTION_BACKEND")
    limit_mm_per_prompt: str | None = flag(None, "--limit-mm-per-prompt", help="JSON: images and videos of a prompt")
    mamba_cache_dtype: str = flag("auto", "--mamba-cache-dtype")
    mamba_ssm_cache_dtype: str = flag("auto", "--mamba-ssm-cache-dtype")
    mxfp4_use_marlin: bool = flag(False, "VLLM_MXFP4_USE_MARLIN", help="Marlin's kernels for MXFP4 experts")
    task: Literal["auto", "generate"] = flag("auto", "--task")
    runner: Literal["auto", "generate"] = flag("auto", "--runner")
    convert: Literal["auto", "none"] = flag("auto", "--convert")
    allocator: str = flag("", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", help="settings of torch's allocator")
    language_model_only: bool = flag(False, "--language-model-only/--no-language-model-only")
    offline: bool = False

    def __post_init__(self) -> None:
        """Refuse what vLLM would not start with."""
        whole("--max-num-seqs", self.max_num_seqs)
        whole("--max-num-batched-tokens", self.max_num_batched_tokens)
        whole("--block-size", self.block_size)
        whole("--num-gpu-blocks-override", self.num_gpu_blocks_override)
        whole("--kv-cache-memory-bytes", self.kv_cache_memory_bytes, 2**62)
        for name in ("tensor", "pipeline", "data", "decode_context"):
            value = getattr(self, f"{name}_parallel")
            whole(f"--{name.replace('_', '-')}-parallel-size", value, MOST_DEVICES)
        if self.gpu_memory_utilization is not None and not 0 < self.gpu_memory_utilization <= 1:
            raise UsageError(
                f"--gpu-memory-utilization {self.gpu_memory_utilization} is no share of the device.",
                "It is above 0, at most 1.",
            )
        if self.dtype not in DTYPES:
            raise UsageError(f"vLLM knows no dtype {self.dtype[:40]!r}.", f"It is one of {', '.join(DTYPES)}.")
        for name in ("mamba_cache_dtype", "mamba_ssm_cache_dtype"):
            if getattr(self, name) not in DTYPES:
                problem = f"--{name.replace('_', '-')} {str(getattr(self, name))[:40]!r} is no dtype."
                raise UsageError(problem, f"Choose from {', '.join(DTYPES)}.")
        if self.kv_cache_dtype != "auto" and self.kv_cache_dtype not in KV_BYTES:
            raise UnsupportedError(
                f"--kv-cache-dtype {self.kv_cache_dtype[:40]} is not modelled.",
                f"Known are auto, {', '.join(KV_BYTES)}.",
            )
        if self.tensor_parallel % self.decode_context_parallel:
            raise UsageError(
                "--decode-context-parallel-size must divide --tensor-parallel-size.",
                f"{self.tensor_parallel} is no multiple of {self.decode_context_parallel}.",
            )
        if not 0 <= self.cpu_offload_gb <= MOST_OFFLOAD:
            raise UsageError(f"--cpu-offload-gb {self.cpu_offload_gb} is no size in GiB.", "It is 0 or more.")
        if self.attention_backend is not None and self.attention_backend.upper() not in BACKENDS:
            raise UnsupportedError(
                f"--attention-backend {self.attention_backend[:40]}: its blocks and workspaces are not modelled.",
                f"Known are {', '.join(BACKENDS[:3])}.",
            )
        whole("--max-loras", self.max_loras, 2**12)
        whole("--max-lora-rank", self.max_lora_rank, 2**12)
        _ = self.release, self.max_tokens, self.speculation, self.compilation, self.images
        Config.parse(self.allocator)

    @property
    def release(self) -> Version:
        """The version as numbers; the newest known where none is named."""
        return parse_version(self.version)

    @property
    def util(self) -> float:
        """--gpu-memory-utilization, or the version's default: 0.92 from 0.20 on, 0.9 before."""
        if self.gpu_memory_utilization is not None:
            return self.gpu_memory_utilization
        return 0.92 if self.release >= (0, 20) else 0.9

    @property
    def fits_itself(self) -> bool:
        """Whether vLLM shortens its longest request to what there is room for."""
        return str(self.max_model_len).strip().lower() in ("-1", "auto")

    @property
    def max_tokens(self) -> int | None:
        """Tokens of the longest request that the job names, None where it names none."""
        if self.max_model_len is None or self.fits_itself:
            return self.context
        return tokens(self.max_model_len)

    @property
    def ranks(self) -> int:
        """Devices that one engine takes."""
        return self.tensor_parallel * self.pipeline_parallel * self.data_parallel

    def with_context(self, tokens: int) -> VllmJob:
        """Return the job with requests so long and no longer."""
        return replace(self, context=tokens, max_model_len=None)

    @property
    def speculation(self) -> Mapping[str, Any]:
        """What --speculative-config says, {} where nothing is guessed ahead."""
        return settings.speculation(self.speculative_config)

    @property
    def compilation(self) -> settings.Compilation:
        """What is compiled and captured."""
        return settings.compilation(
            self.compilation_config, self.cudagraph_capture_sizes, self.max_cudagraph_capture_size
        )

    @property
    def images(self) -> int | None:
        """How many images a prompt may have, None where nothing limits them."""
        return settings.images_allowed(self.limit_mm_per_prompt)

    @property
    def text_only(self) -> bool:
        """Whether no tower is loaded."""
        return self.language_model_only or self.images == 0

    def is_v1(self, device: Device | None) -> bool:
        """Tell which of the engine's two cores runs: before 0.8 and on old GPUs before 0.11 the first."""
        return second_core(self.release, device.capability if device else None)

    def batch(self, device: Device | None, max_model_len: int) -> tuple[int, int]:
        """Return the tokens and the sequences of a step: the flags, or what the engine takes on such a device."""
        taken = _defaults(self.release, device)
        seqs = self.max_num_seqs or (taken[1] if self.release >= (0, 9) else EARLY_SEQS)
        if self.max_num_batched_tokens is not None:
            return self.max_num_batched_tokens, min(seqs, self.max_num_seqs or self.max_num_batched_tokens)
        second, chunked = self.is_v1(device), self.enable_chunked_prefill
        if chunked is None:
            chunked = second or max_model_len > CHUNKED_FROM
        most = (OFFLINE_TOKENS[taken] if self.offline else taken[0]) if second else SMALL_DEFAULTS[0]
        most = most if chunked else max(most, max_model_len)
        if not second:
            return most, seqs
        most = min(most, seqs * max_model_len)
        return most, min(seqs, self.max_num_seqs or most)


CHUNKED_FROM = 32768  # the first core reads longer prompts in pieces of their own accord


def second_core(release: Version, capability: tuple[int, int] | None) -> bool:
    """Tell which of the engine's two cores a version runs on a GPU of a compute capability, None an unknown one.

    >>> second_core((0, 8, 2), (7, 5)), second_core((0, 8, 2), (8, 0)), second_core((0, 11, 0), (7, 5))
    (False, True, True)
    """
    if release < V1 or release >= V1_ONLY:
        return release >= V1
    return capability is None or capability >= V1_CAPABILITY


def _defaults(release: Version, device: Device | None) -> tuple[int, int]:
    memory = device.capacity_bytes if device else 0
    if memory >= LARGEST and release >= LARGEST_SINCE:
        return LARGEST_DEFAULTS
    small = device is not None and ("a100" in device.id or device.capability == GB10)
    return LARGE_DEFAULTS if memory >= LARGE and not small else SMALL_DEFAULTS


def parse_version(text: str) -> Version:
    """Return a version's numbers; raises UsageError where there are none.

    >>> parse_version("0.14.0rc1.dev2+g7d9f6663a"), parse_version("v0.8.5.post1")
    ((0, 14, 0), (0, 8, 5))
    """
    if not text:
        return NEWEST
    found = re.match(r"v?(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?", text.strip())
    if found is None:
        raise UsageError(f"{text[:40]!r} is no version of vLLM.", "Write it as 0.19.0.")
    version = tuple(int(part or 0) for part in found.groups())
    if version < OLDEST:
        raise UnsupportedError(
            f"vLLM {text[:40]} is older than 0.6, of which the rules are known.", "Name a newer one."
        )
    return version


MULTIPLES = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}


def tokens(value: int | str) -> int:
    """Return a number of tokens as vLLM reads it: a small letter is decimal, a capital one binary (human_readable_int).

    >>> tokens("25.6k"), tokens("1K"), tokens(7)
    (25600, 1024, 7)
    """
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)([kmgKMG]?)", str(value).strip())
    wrong = UsageError(f"{str(value)[:40]!r} is not a number of tokens.", "Write 32768, 32k or 32K.")
    if found is None:
        raise wrong
    number, letter = found.groups()
    if "." in number and letter not in ("k", "m", "g"):
        raise wrong
    count = (
        round(float(number) * MULTIPLES[letter])
        if letter in ("k", "m", "g")
        else int(number) * MULTIPLES.get(letter, 1)
    )
    if not 1 <= count <= MOST_TOKENS:
        raise wrong
    return count


def width(dtype: str) -> int:
    """Return the bytes of one element."""
    return dtypes.BITS[dtype] // 8
