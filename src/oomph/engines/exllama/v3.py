"""ExLlamaV3, as TabbyAPI starts it: EXL3 weights, a paged cache of 2 to 8 bits or fp16, one pass of a chunk.

Source: exllamav3 1.4.1 cache/*.py, model/model_ls.py, modules/; TabbyAPI e632af4 backends/exllamav3/model.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from oomph.blocks.base import Block, descend
from oomph.blocks.cached import Cached, StateCache
from oomph.blocks.latent_attention import LatentAttention
from oomph.engines.base import Deployment, Engine
from oomph.engines.exllama.common import (
    HALF,
    HARMLESS,
    PAGE,
    REFUSED,
    STARTS,
    ExllamaJob,
    Rules,
    command,
    context_of,
    format_of,
    known,
    limits,
    no_attention_like,
    paged,
    shares,
)
from oomph.errors import UsageError
from oomph.ledger import Item
from oomph.structure import decoder_stack
from oomph.tensor import Weight

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.devices import Device
    from oomph.model import Model

SOURCE = "exllamav3 1.4.1"
GROUP = 32  # values that share a scale
WORD_BYTES = 4
BEHIND = 2 * PAGE  # tokens that a window keeps behind it
MOST_BATCH, MOST_STATES = 128, 4  # requests at a time by default: with caches of pages, with states of fixed size
SLICE = 32768  # outputs of a matrix that are unpacked at once
OUTPUTS = 32  # tokens of logits that a pass makes
_MODE = re.compile(r"Q?([2-8])(?:\s*,\s*([2-8]))?", re.IGNORECASE)
# Families whose sliding layers keep a window per slot; elsewhere they keep every token.
WINDOWED = {"gpt_oss": 1, "gemma4": 0, "gemma4_text": 0, "afmoe": 0, "step3p5": 0}  # and by how much it is less


# Decoders that exllamav3 1.4.1 has a file for (architecture/).
FAMILIES = frozenset({
    "afmoe", "apertus", "arcee", "cohere", "cohere2", "nemotron-nas", "deepseek_v3", "dots1", "ernie4_5",
    "ernie4_5_moe", "exaone4", "gemma2", "gemma3", "gemma3_text", "gemma4", "gemma4_text", "glm4", "glm4_moe",
    "glm4v_text", "glm4v_moe_text", "gpt_oss", "hy_v3", "hyperclovax", "iquestcoder", "lfm2_moe", "llama", "mimo",
    "minimax_m2", "ministral3", "mistral", "mixtral", "nanochat", "nemotron_h", "olmo3", "olmo_hybrid", "phi3", "qwen2",
    "qwen2_5_vl_text", "qwen3", "qwen3_moe", "qwen3_next", "qwen3_vl_text", "qwen3_vl_moe_text", "qwen3_5_text",
    "qwen3_5_moe_text", "seed_oss", "smollm3", "solar_open", "step3p5",
})  # fmt: skip


def bits_of(mode: str) -> tuple[int, int] | None:
    """Return bits of keys and of values; None for fp16.

    >>> bits_of("FP16"), bits_of("Q6"), bits_of("8,5")
    (None, (6, 6), (8, 5))
    """
    if mode.upper() == "FP16":
        return None
    found = _MODE.fullmatch(mode.strip())
    if found is None:
        raise UsageError(f"There is no cache mode {mode[:40]!r}.", "Choose FP16, Q8, Q6, Q4, or two numbers: 8,6.")
    return int(found[1]), int(found[2] or found[1])


def cache_bytes(
    cached: Cached, tokens: Any, slots: Any, bits: tuple[int, int] | None, rope: int, window_less: int | None
) -> Any:
    """Return the bytes of one layer's cache: pages of `tokens`, or `slots` windows or states.

    8 heads of 128, 4096 tokens: fp16, and codes of 4 bits with a scale per 32.
    >>> from oomph.blocks.cached import TokenCache
    >>> [cache_bytes(TokenCache(8, 128, 128), 4096, 4, bits, 0, None) for bits in (None, (4, 4))]
    [16777216, 4718592]
    """
    if isinstance(cached, StateCache):
        if cached.kind not in ("gated_delta_net", "kda", "mamba2", "short_conv"):
            raise no_attention_like(cached, "ExLlamaV3")
        convolution = cached.conv_channels * cached.conv_kernel * HALF
        return slots * (convolution + cached.state_elements * WORD_BYTES)
    if cached.kind not in ("attention", "latent") or cached.chunk or cached.index_dim:
        raise no_attention_like(cached, "ExLlamaV3")
    if cached.kind == "latent":
        rank = cached.key_dim - rope
        kept = rank * HALF if bits is None else _packed(rank, bits[0])
        return tokens * (kept + rope * HALF)
    if cached.window and window_less is not None:
        return slots * paged(cached.window - window_less + BEHIND) * cached.heads * 2 * cached.key_dim * HALF
    width = cached.heads * cached.key_dim
    if bits is None:
        return tokens * 2 * width * HALF
    return tokens * sum(_packed(width, each) for each in bits)


def _packed(width: int, bits: int) -> int:
    """Return the bytes of a token's codes in whole groups, and their scales."""
    return width // GROUP * (bits * WORD_BYTES + HALF)


def deploy(found: Subject, job: ExllamaJob, devices: Sequence[Device]) -> Deployment:
    """Return a model in ExLlamaV3 on GPUs."""
    known(found.model, FAMILIES, "ExLlamaV3")
    fmt, assumed = format_of(found, job, ("exl3",))
    context, taken = context_of(found, job)
    bits, model = bits_of(job.cache_mode), found.model
    rope = _rope(model)
    less = WINDOWED.get(model.decoder_type)
    stateful = any(_has_slots(each, less) for each in _cached(model))
    most = job.max_batch_size or (MOST_STATES if stateful else MOST_BATCH)
    rules = Rules(
        lambda cached, tokens, slots: cache_bytes(cached, tokens, slots, bits, rope, less),
        lambda inside, tokens, at: 0 * tokens,
        (passing(model, min(paged(job.chunk_size), paged(context))),),
        SOURCE,
        most,
    )
    made = shares(found, fmt, job, devices, rules, context)
    return Deployment(made, context, (), limits(job, context, most), (*assumed, *taken))


def _cached(model: Model) -> list[Cached]:
    from oomph.caches import layer_caches

    return [each for layer in layer_caches(model) for each in layer.cached]


def _has_slots(cached: Cached, less: int | None) -> bool:
    return isinstance(cached, StateCache) or (less is not None and cached.window is not None)


def _rope(model: Model) -> int:
    """Return the width of the rotary key beside the latent, 0 without latent attention."""
    layers = (layer for layer, _ in decoder_stack(model)[1].groups() if isinstance(layer, Block))
    found = (b for layer in layers for b in descend({"": layer}) if isinstance(b, LatentAttention))
    return next((each.qk_rope_head_dim for each in found), 0)


def passing(model: Model, rows: int) -> Item:
    """Return what a pass of a chunk holds at once: hidden states, what one map made, and its matrix unpacked to fp16.

    The point is the block that holds most; the upper bound all that a layer ever makes.
    """
    hidden = rows * model.hidden_size
    made: dict[str, int] = {}
    unpacked = total = 0
    for weight in model.weights:
        if _is_map(weight):
            out, into = weight.shape
            per_token = weight.used if weight.role == "expert" else 1
            block = weight.name.rsplit(".", 2)[0]
            elements = rows * out * per_token
            made[block] = made.get(block, 0) + elements
            total += elements
            unpacked = max(unpacked, into * min(out, SLICE))
    most = max(made.values(), default=0)
    logits = OUTPUTS * model.vocab_size
    point = (2 * hidden + max(most, logits) + unpacked) * HALF
    safe = (2 * hidden + total + logits + unpacked) * HALF
    return Item("a chunk on its way", "activations", point, source="derived", evidence=SOURCE, safe=max(point, safe))


def _is_map(weight: Weight) -> bool:
    return bool(weight.places) and weight.role in ("linear", "expert") and len(weight.shape) == 2


ENGINE = Engine(
    "exllamav3",
    "ExLlamaV3 (TabbyAPI)",
    SOURCE,
    ExllamaJob,
    STARTS,
    deploy,
    command,
    models=("--model-name",),
    harmless=HARMLESS,
    refused=REFUSED,
    vendors=("nvidia",),
    formats=("fp16", "exl3-8bpw", "exl3-6bpw", "exl3-5bpw", "exl3-4bpw", "exl3-3bpw", "exl3-2bpw"),
)
