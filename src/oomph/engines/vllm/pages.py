"""What a page of each layer is: from what its blocks keep of a sequence to tokens and bytes on one device.

Source: model_executor/models/config.py, layers/mamba/mamba_utils.py, layers/attention/ of vLLM 0.19.0;
platforms/interface.py of 0.33.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from oomph.blocks.cached import Cached, StateCache, TokenCache
from oomph.caches import layer_caches
from oomph.engines.checks import DTYPES
from oomph.engines.memo import remembered
from oomph.engines.tensor_parallel import divided, key_heads
from oomph.engines.vllm.blocks import Page, attention_block
from oomph.engines.vllm.drafts import cached_of, draft
from oomph.engines.vllm.held import ABSORBED, NOT_ABSORBED
from oomph.engines.vllm.job import KV_BYTES, V1, VllmJob, width
from oomph.errors import UnsupportedError

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.devices import Device

BLOCK, SPARSE_BLOCK = 16, 64  # tokens of a page; of the kernels for indexed latent attention
LATENT_ALIGN = 64  # of a page beside a recurrent state, where attention is latent
ENTRY_ALIGN = 256  # of a token's latent vector in 0.7: VLLM_MLA_CUDA_MEM_ALIGN_KV_CACHE, worker/cache_engine.py
DS_MLA_BYTES = 656  # fp8_ds_mla: 512 codes, 4 scales in fp32, 64 numbers in bf16: flashmla_sparse.py
INDEX_GROUP = 128  # an indexer's key has a scale in fp32 for so many numbers
SPEAKERS = frozenset(
    {"mamba", "mamba2", "gated_delta_net", "kda", "lightning", "short_conv"}
)  # that the V1 core serves
STATES: tuple[int, ...] = (0, 10, 0)  # from here on
# Caches as a checkpoint asks for: ModelOpt's not in 0.13.0, in 0.14.0; compressed-tensors' not in 0.12.0, in 0.15.0.
CHECKPOINT_CACHES: tuple[int, ...] = (0, 14, 0)
FOUR_BITS: tuple[int, ...] = (0, 22, 0)  # before, NVFP4 is not known and the cache is left in the model's dtype
CACHED_STATES: tuple[int, ...] = (0, 26, 0)  # prefix caching is on for them by default: not in 0.25.1
EXPORTED_STATES: tuple[int, ...] = (0, 33, 0)  # not in 0.32.0
EXPORT_ALIGN = 64  # FLASHINFER_GDN_CHECKPOINT_ALIGNMENT
HOPPER = (9, 0)


def cache_width(config: Mapping[str, Any], job: VllmJob, dtype: str) -> int:
    """Return the bytes of a number of keys and values: as the flag says, else the checkpoint, else the activations.

    Source: utils/torch_utils.py, get_kv_cache_quant_algo_string, and layers/attention/attention.py of 0.19.0, 0.33.0.

    >>> asked = {"quant_method": "modelopt", "kv_cache_quant_algo": "FP8"}
    >>> cache_width({"quantization_config": asked}, VllmJob(), "bf16")
    1
    """
    said, found = KV_BYTES.get(job.kv_cache_dtype), config.get("quantization_config")
    if said is not None or job.release < CHECKPOINT_CACHES or not isinstance(found, Mapping):
        return said or width(dtype)
    scheme = found.get("kv_cache_scheme")
    if not str(found.get("quant_method")).startswith("modelopt"):
        return 1 if scheme is not None else width(dtype)
    asked = str(scheme or found.get("kv_cache_quant_algo")).lower()
    if isinstance(scheme, Mapping) and scheme.get("type") == "float":
        asked = {"8": "fp8", "4": "nvfp4"}.get(str(scheme.get("num_bits")), "")
    if asked == "nvfp4" and job.release >= FOUR_BITS:
        raise UnsupportedError(
            "Keys and values in NVFP4, as this checkpoint asks for, are not modelled in vLLM.", "Say --kv-cache-dtype."
        )
    return 1 if asked == "fp8" else width(dtype)


def layer_pages(found: Subject, job: VllmJob, dtype: str, device: Device | None = None) -> list[tuple[int, Page]]:
    """Return the layers that keep anything with their page; `dtype` is that of activations.

    Raises UnsupportedError for what the engine does not keep in pages, or is not modelled.
    """
    config = found.source.config or {}
    element = cache_width(config, job, dtype)
    caches = remembered(found.model, "caches", lambda: _caches(found))
    if not caches:
        raise UnsupportedError(
            f"{found.model.name} keeps nothing between tokens: vLLM has no cache for it.", "Weigh it."
        )
    states = {each: _state_bytes(each, config, job, dtype) for _, each in caches if isinstance(each, StateCache)}
    drawn = job.speculation.get("num_speculative_tokens", 0)
    block = job.block_size or (SPARSE_BLOCK if any(_indexed(each) for _, each in caches) else BLOCK)
    per_token = {each: _token_bytes(each, element, job) for _, each in caches if isinstance(each, TokenCache)}
    caching = job.enable_prefix_caching if job.enable_prefix_caching is not None else job.release >= CACHED_STATES
    caching = caching and bool(per_token)  # of models without attention vLLM keeps no prefixes
    exported = caching and _exports_states(states, job, device)
    if states and per_token:
        aligned = EXPORT_ALIGN if exported and any(each.kind == "gated_delta_net" for each in states) else BLOCK
        block = max(block, _beside_states(max(states.values()), per_token, aligned))
    taken = (2 if caching else 1) + exported + drawn
    found_pages = []
    for layer, each in caches:
        if isinstance(each, StateCache):
            found_pages.append((layer, Page("state", block, states[each], states=taken)))
        else:
            found_pages.append((layer, _token_page(each, block, per_token[each])))
    guessing = draft(found, job)
    if guessing is None:
        return [*found_pages, *_drafts(found_pages, found, drawn)]
    kept = [(found.model.num_layers + at, each) for at, each in enumerate(cached_of(guessing))]
    return [
        *found_pages,
        *((layer, _token_page(each, block, _token_bytes(each, element, job))) for layer, each in kept),
    ]


def _caches(found: Subject) -> list[tuple[int, Cached]]:
    """Return what each layer keeps, in the order of the layers."""
    kept = [(layer, each) for group in layer_caches(found.model) for layer in group.layers for each in group.cached]
    return sorted(kept, key=lambda pair: pair[0])


def _drafts(pages: list[tuple[int, Page]], found: Subject, drawn: int) -> list[tuple[int, Page]]:
    """Return the pages of the prediction layer, which sees all tokens as the last layer with such a page does."""
    if not drawn:
        return []
    full = [page for _, page in pages if page.kind == "full"]
    return [(found.model.num_layers, full[-1])] if full else []


def _indexed(each: TokenCache | StateCache) -> bool:
    return isinstance(each, TokenCache) and bool(each.index_dim)


def _token_bytes(each: TokenCache, element: int, job: VllmJob) -> int:
    """Return the bytes of one token of one layer on one device."""
    if each.kind not in ("attention", "latent", "cross"):
        raise UnsupportedError(f"vLLM's cache of {each.kind} keys is not modelled.", "Ask for another engine.")
    if each.kind != "latent":
        heads = key_heads(each.heads, job.tensor_parallel)
        return heads * (each.key_dim + each.value_dim) * element
    index = each.index_dim + -(-each.index_dim // INDEX_GROUP) * width("fp32")
    own = DS_MLA_BYTES if each.index_dim and element == 1 else each.per_token * element
    if ABSORBED <= job.release < NOT_ABSORBED:
        own = -(-own // ENTRY_ALIGN) * ENTRY_ALIGN
    return own + (index if each.index_dim else 0)


def _token_page(each: TokenCache, block: int, token_bytes: int) -> Page:
    size, latent = block * token_bytes, each.kind == "latent"
    if each.window is not None:
        return Page("window", block, size, each.window, latent=latent)
    if each.chunk is not None:
        return Page("chunk", block, size, each.chunk)
    if each.kind == "cross":
        if each.source_tokens is None:
            raise UnsupportedError(
                "How many tokens an encoder gives this model is not known.", "Ask for another engine."
            )
        return Page("cross", block, size, each.source_tokens)
    return Page("full", block, size, latent=latent)


def _state_bytes(each: StateCache, config: Mapping[str, Any], job: VllmJob, dtype: str) -> int:
    """Return the bytes of one sequence's state of one layer on one device, its convolution's inputs included."""
    if each.kind not in SPEAKERS or job.release < max(STATES, V1):
        raise UnsupportedError(
            f"vLLM {job.version or 'of today'} keeps no {each.kind} state in pages.", "Name another version."
        )
    tp = job.tensor_parallel
    text = next((config[key] for key in ("text_config",) if isinstance(config.get(key), Mapping)), config)
    conv = DTYPES.get(job.mamba_cache_dtype) or dtype
    said = job.mamba_ssm_cache_dtype
    if said == "auto":
        said = str(text.get("mamba_ssm_dtype") or text.get("mamba_ssm_cache_dtype") or "auto")
        if said == "auto" and each.kind == "kda":
            said = "float32"
    state = DTYPES.get(said) or conv
    kept = each.conv_kernel - 1 + (job.speculation.get("num_speculative_tokens", 0) if each.kind != "kda" else 0)
    channels = each.conv_channels + _extra_groups(each, text, tp)
    heads = each.state[0] if each.state else 0
    elements = each.state_elements // heads * divided("state heads", heads, tp) if heads else 0
    conv_bytes = max(kept, 0) * divided("channels", channels, tp) * width(conv) if each.conv_kernel else 0
    return conv_bytes + elements * width(state)


def _extra_groups(each: StateCache, text: Mapping[str, Any], tp: int) -> int:
    """Return the channels that are there twice because groups of Mamba 2 are fewer than devices."""
    groups = text.get("n_groups", text.get("mamba_n_groups", 1))
    if each.kind != "mamba2" or not isinstance(groups, int) or not groups % tp:
        return 0
    return 2 * (tp - groups) * each.state[-1]


def _exports_states(states: Mapping[StateCache, int], job: VllmJob, device: Device | None) -> bool:
    """Tell whether kernels hand out a state in the midst of a prompt, which takes a page more.

    Mamba 2's do, and FlashInfer's for delta nets from Hopper on (get_kv_cache_spec of both layers, 0.33.0).
    """
    if job.release < EXPORTED_STATES or not states:
        return False
    capability = device.capability if device else None
    old = capability is not None and capability < HOPPER
    return all(each.kind == "mamba2" or (each.kind == "gated_delta_net" and not old) for each in states)


def _beside_states(state_bytes: int, per_token: Mapping[TokenCache, int], aligned: int) -> int:
    """Return the tokens of an attention page that is at least as large as a state's."""
    latent = any(each.kind == "latent" for each in per_token)
    return attention_block(state_bytes, max(per_token.values()), LATENT_ALIGN if latent else aligned)
