"""SGLang's caches: bytes of a token on one device, and how many tokens and states a budget becomes.

A pool of tokens for each kind of layer: those that see all of a sequence, and, where SGLang knows the model for one of
windows, a smaller one for those; recurrent states have slots. All are sized once, in whole pages, and each has one page
more, where padded tokens write to.

Source: srt/model_executor/pool_configurator.py and srt/mem_cache/kv_cache_configurator.py of sglang 0.5.23; the same
methods of srt/model_executor/model_runner.py before.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from oomph.blocks.cached import StateCache, TokenCache
from oomph.caches import layer_caches
from oomph.engines.sglang.job import DRAFTED_REQUESTS, KV_DTYPES, SSM_DTYPES, SglangJob
from oomph.engines.shards import KEPT
from oomph.errors import UnsupportedError

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.devices import Device
    from oomph.model import Model

WINDOW_POOLS = frozenset({"llama4", "llama4_text", "gpt_oss", "gemma4", "gemma4_text", "mimo_v2", "step3p5", "laguna"})
WINDOW_POOLS_SINCE = (0, 5, 9)
STATES = frozenset({"gated_delta_net", "kda", "mamba2", "lightning"})
STATES_SINCE, PADDED_SINCE = (0, 5, 9), (0, 5, 17)
DRAFT_COUNTED_SINCE = (0, 5, 14)
HEADROOM_UNTIL, HEADROOM = (0, 5, 7), 100  # tokens of a draft on top, and a few more
INDEX_BLOCK, SCALE_BYTES = 128, 4  # an indexer's key in fp8 has a scale for every 128
FP8_SCALE_BLOCK, ROPE_BYTES = 128, 2  # and so has a latent in fp8 that is picked from, its rotary part apart
CONV_BYTES = 2
BLACKWELL = 10  # compute capability from which a picked-from latent is kept in fp8 by itself
PAGE_PICKED = 64  # tokens of a page where an indexer picks
# Tokens of a page that kernels take, the first where others are asked for: arg_groups/overrides.py of 0.5.23
# (_mla_backend_page_constraints); cutlass_mla in server_args.py of 0.5.3.
PAGES = {
    "flashmla": (64,), "trtllm_mla": (64, 32), "cutedsl_mla": (64, 32), "trtllm_mha": (64, 16, 32, 128),
    "hpc_ops": (64,), "cutlass_mla": (128,),
}  # fmt: skip


class Cells(NamedTuple):
    """Bytes on one device: of a token in layers that see all, and in those with a window; of one request's states.

    `picked`: part of `full` that is an indexer's keys. `layers`: those of `full`.
    """

    full: int
    swa: int = 0
    window: int = 0
    state: int = 0
    picked: int = 0
    layers: int = 0


@dataclass(frozen=True)
class Pools:
    """How large the pools are: tokens and states; `cell` bytes of a token in all pools, `draft` of them in a draft's.

    `ratio`: tokens of windows to the others.
    """

    tokens: int
    states: int
    cell: float
    page: int
    cells: Cells
    draft: int = 0
    ratio: float = 1.0

    def windows_of(self, tokens: int) -> int:
        """Return the tokens of a pool of windows beside a pool of so many tokens."""
        if not self.cells.swa:
            return 0
        return (int(tokens * self.ratio) if self.cells.full else tokens) // self.page * self.page

    def bytes_of(self, tokens: int) -> int:
        """Return the bytes of keys and values as they are allocated: a page more in each pool, the draft's left out."""
        windows = (self.windows_of(tokens) + self.page) * self.cells.swa
        return (tokens + self.page) * self.cells.full + windows

    def draft_bytes_of(self, tokens: int) -> int:
        """Return the bytes of the draft's pool."""
        return (tokens + self.page) * self.draft


def cells(found: Subject, job: SglangJob, device: Device | None = None, stage: int = 0) -> Cells:
    """Return the bytes of a token on one device of a stage of the pipeline.

    DeepSeek-V3 keeps 61 latent vectors of 576 numbers of 2 bytes, on as many devices as there are:
    >>> from oomph.answer import subject
    >>> cells(subject("deepseek-v3"), SglangJob(tensor_parallel=8)).full
    70272
    """
    ssm = job.mamba_ssm_dtype or _said_ssm(found)
    return _cells(
        found.model,
        job.attention_parallel,
        kv_bytes(found, job, device),
        SSM_DTYPES[ssm],
        not job.disable_hybrid_swa_memory,
        job.release,
        (job.pipeline_parallel, stage),
    )


def _said_ssm(found: Subject) -> str:
    config = found.source.config or {}
    text = config.get("text_config")
    said = (text if isinstance(text, dict) else config).get("mamba_ssm_dtype")
    return said if said in SSM_DTYPES else "float32"


def kv_bytes(found: Subject, job: SglangJob, device: Device | None) -> int:
    """Return the bytes of one number of a cache: those of the model, unless a flag or the checkpoint says otherwise."""
    said = KV_DTYPES[job.kv_cache_dtype]
    if said is not None:
        return said
    quantization = (found.source.config or {}).get("quantization_config")
    if isinstance(quantization, dict) and str(quantization.get("kv_cache_quant_algo", "")).upper() == "FP8":
        return 1
    capability = device.capability if device else None
    if capability is not None and capability[0] >= BLACKWELL and _picks(found.model):
        return 1
    return 4 if job.dtype in ("float", "float32") else 2


@lru_cache(maxsize=KEPT)
def _picks(model: Model) -> bool:
    kept = (each for found in layer_caches(model) for each in found.cached)
    return any(isinstance(each, TokenCache) and each.kind == "latent" and each.index_dim for each in kept)


@lru_cache(maxsize=KEPT)
def _cells(
    model: Model, parallel: int, width: int, ssm: int, windows: bool, release: tuple[int, ...], place: tuple[int, int]
) -> Cells:
    stage = stage_layers(model.num_layers, *place)
    tokens: dict[TokenCache, int] = {}
    state = 0
    for found in layer_caches(model):
        layers = sum(layer in stage for layer in found.layers)
        for kept in found.cached:
            if isinstance(kept, StateCache):
                state += layers * _state_bytes(kept, parallel, ssm, release)
            else:
                tokens[kept] = tokens.get(kept, 0) + layers
    for kept in tokens:
        _served(kept)
    pooled = windows and model.decoder_type in WINDOW_POOLS
    narrow = {kept: n for kept, n in tokens.items() if pooled and (kept.window or kept.chunk)}
    wide = {kept: n for kept, n in tokens.items() if kept not in narrow}
    if narrow and release < WINDOW_POOLS_SINCE:
        raise UnsupportedError("Pools of windows were not read in SGLang before 0.5.9.", "Name a newer version.")
    missing = len(stage) - sum(tokens.values())
    if missing and narrow:
        raise UnsupportedError("SGLang's pools of a model whose layers share keys and values are not modelled.")
    if missing and not state and wide:  # it makes room for layers that keep nothing too
        wide[next(iter(wide))] += missing
    full, picked = _one_size(wide, parallel, width)
    swa, _ = _one_size(narrow, parallel, width)
    window = max((kept.window or kept.chunk or 0 for kept in narrow), default=0)
    return Cells(full, swa, window, state, picked, sum(wide.values()))


def _served(kept: TokenCache) -> None:
    if kept.kind not in ("attention", "latent"):
        raise UnsupportedError(f"A cache of kind {kept.kind} is not modelled in SGLang.", "Ask for another engine.")
    if kept.index_dim and kept.kind != "latent":
        raise UnsupportedError("SGLang's pools of attention that picks among keys and values are not modelled.")


def _one_size(layers: dict[TokenCache, int], parallel: int, width: int) -> tuple[int, int]:
    """Return the bytes of a token in all layers, and the indexers' among them; SGLang knows one size for all layers."""
    sizes = {_token_bytes(kept, parallel, width) for kept in layers}
    if len(sizes) > 1:
        raise UnsupportedError("Layers that keep different amounts of a token are not modelled in SGLang.")
    picked = sum(n * index_bytes(kept.index_dim) for kept, n in layers.items())
    return sum(sizes) * sum(layers.values()) + picked, picked


def _token_bytes(kept: TokenCache, parallel: int, width: int) -> int:
    """Return the bytes of a token in one layer, an indexer's key left out."""
    if kept.kind == "latent" and kept.index_dim and width == 1:
        rope = kept.per_token % FP8_SCALE_BLOCK
        latent = kept.per_token - rope
        return latent + latent // FP8_SCALE_BLOCK * SCALE_BYTES + rope * ROPE_BYTES
    if kept.kind == "latent":
        return kept.per_token * width
    return max(1, kept.heads // parallel) * (kept.key_dim + kept.value_dim) * width


def index_bytes(dim: int) -> int:
    """Return the bytes of an indexer's key: fp8, with scales.

    >>> index_bytes(128)
    132
    """
    return dim + dim // INDEX_BLOCK * SCALE_BYTES


def _state_bytes(kept: StateCache, parallel: int, ssm: int, release: tuple[int, ...]) -> int:
    """Return the bytes of one request's state in one layer: all but the newest token that its convolution sees."""
    if kept.kind not in STATES:
        raise UnsupportedError(f"SGLang's states of {kept.kind} are not modelled.", "Ask for another engine.")
    if release < STATES_SINCE:
        raise UnsupportedError("Pools of states were not read in SGLang before 0.5.9.", "Name a newer version.")
    heads = kept.state[0] if kept.state else 0
    if heads % parallel or kept.conv_channels % parallel:
        raise UnsupportedError(f"{heads} heads of a state among {parallel} devices are not modelled in SGLang.")
    conv = kept.conv_channels // parallel * max(0, kept.conv_kernel - 1) * CONV_BYTES
    return conv + kept.state_elements // parallel * ssm


def stage_layers(layers: int, stages: int, stage: int) -> range:
    """Return the layers of a stage of the pipeline: the last ones have one more where they do not divide evenly.

    >>> [len(stage_layers(61, 4, stage)) for stage in range(4)]
    [15, 15, 15, 16]
    """
    base, more = divmod(layers, stages)
    ahead = max(0, stage - (stages - more))
    return range(stage * base + ahead, (stage + 1) * base + ahead + (stage >= stages - more))


def page_size(job: SglangJob, cell: Cells) -> int:
    """Return the tokens of a page: one, unless a flag or the kernels say otherwise.

    >>> page_size(SglangJob(attention_backend="flashmla"), Cells(1152)), page_size(SglangJob(page_size=16), Cells(1152))
    (64, 16)
    """
    asked = job.page_size or (PAGE_PICKED if cell.picked else 1)
    for kernels in (job.attention_backend, job.decode_attention_backend, job.prefill_attention_backend):
        known = PAGES.get(kernels or "", (asked,))
        asked = asked if asked in known else known[0]
    return asked


def pools(budget_bytes: int, cell: Cells, job: SglangJob, draft_layers: int = 0) -> Pools:
    """Return the pools that a budget becomes. The published log of a DeepSeek-V3:

    >>> pools(int(69.97756957808 * 2**30), Cells(70272), SglangJob()).tokens
    1069242
    """
    page, ratio = page_size(job, cell), job.swa_full_tokens_ratio
    states, left = _states(budget_bytes, cell.state, job)
    draft = _draft_bytes(cell, draft_layers)
    counted = draft if job.release >= DRAFT_COUNTED_SINCE else 0
    total = cell.full + ratio * cell.swa + counted if cell.full else float(cell.swa + counted)
    if not total:
        raise UnsupportedError("SGLang's pools of a model that keeps no tokens are not modelled.")
    tokens = max(0, int(left // total)) // page * page
    if cell.swa and job.disable_radix_cache and job.max_running_requests is not None:
        raise UnsupportedError(
            "SGLang sizes the pool of windows by requests there, which is not modelled.",
            "Leave out --disable-radix-cache or --max-running-requests.",
        )
    if job.drafted[0] and job.release < HEADROOM_UNTIL:
        steps, top, drafted = job.drafted
        tokens += (job.max_running_requests or DRAFTED_REQUESTS) * (steps * top + drafted) + HEADROOM
    tokens = min(tokens, job.max_total_tokens or tokens) // page * page
    return Pools(tokens, states, total, page, cell, draft, ratio)


def _draft_bytes(cell: Cells, draft_layers: int) -> int:
    """Return the bytes of a token in a draft's layers, which are as the model's."""
    if not draft_layers or not cell.layers:
        return 0
    picks = cell.picked // cell.layers * draft_layers
    return int((cell.full - cell.picked) * draft_layers / cell.layers) + picks


def _states(budget_bytes: int, state: int, job: SglangJob) -> tuple[int, int]:
    """Return how many states there are, and what is left of a budget for tokens."""
    if not state:
        return 0, budget_bytes
    if job.drafted[0]:
        raise UnsupportedError(
            "States of a model that guesses ahead are not modelled in SGLang.", "Leave the draft out."
        )
    padding = int(job.release >= PADDED_SINCE)
    if job.max_mamba_cache_size is not None:
        slots = job.max_mamba_cache_size // job.attention_copies
    elif job.disable_radix_cache and job.max_running_requests is not None:
        slots = max(1, job.max_running_requests // job.attention_copies)
    else:
        share = budget_bytes * job.mamba_full_memory_ratio / (1 + job.mamba_full_memory_ratio)
        slots = int((share - padding * state) // state)
    return max(0, slots), budget_bytes - (slots + padding) * state
