"""The real classes' caches: small models run a pass over a prompt and single tokens after it, tensors are counted."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

from oomph.blocks.cached import TokenCache
from oomph.caches import layer_caches
from oomph.engines.transformers_caches import Offloaded
from oomph.families import model_from_config
from tests.families.samples import all_samples

BATCH, PROMPT, DECODED, SOURCE, VOCAB = 2, 9, 3, 7, 25
SEEDS = range(8)
# What the samples leave at sizes that no weight depends on, but a forward pass does.
RUNNABLE: dict[str, dict[str, Any]] = {
    "axk1": {"n_group": 1, "topk_group": 1, "n_routed_experts": 8},
    "codegen": {"n_head": 4},
    "deepseek_v32": {"n_group": 1, "topk_group": 1, "n_routed_experts": 8},
    "longcat_flash": {"head_dim": 2},
    "minimax_m3_vl_text": {
        "num_hidden_layers": 2,
        "layer_types": ["minimax_m3_sparse", "full_attention"],
        "index_n_heads": 2,
        "mlp_layer_types": ["dense", "dense"],
        "index_head_dim": 8,
    },
    "rwkv": {"attention_hidden_size": None},
}
WINDOW = 6  # shorter than the prompt, so that windows tell
ENCODED = ("bart", "blenderbot", "m2m_100", "marian", "mbart", "mt5", "pegasus", "plbart", "t5", "umt5", "whisper")
COUNTERS = (
    "cumulative_length", "_sliding_window_tensor", "indexer_cumulative_length", "indexer_position_ids",
    "idx_cumulative_length",
)  # fmt: skip


def telling(name: str) -> dict[str, Any]:
    """The sample of a type whose layers keep most different things, its windows shorter than the prompt."""
    sample = all_samples()[name]

    def kinds(seed: int) -> tuple[bool, int]:
        kept = {one for each in layer_caches(model_from_config(sample(random.Random(seed)))) for one in each.cached}
        return any(isinstance(one, TokenCache) for one in kept), len(kept)

    raw = sample(random.Random(max(SEEDS, key=kinds))) | RUNNABLE.get(name, {})
    if raw["model_type"] in ENCODED:  # with the head that generates
        raw.pop("architectures", None)
    return narrowed(raw)


def narrowed(raw: dict[str, Any]) -> dict[str, Any]:
    """A config whose windows and chunks are short."""
    kept = [one for each in layer_caches(model_from_config(raw)) for one in each.cached]
    tokens = [one for one in kept if isinstance(one, TokenCache)]
    made = dict(raw)
    if any(one.window for one in tokens):
        made["attention_window_size" if raw["model_type"] == "recurrent_gemma" else "sliding_window"] = WINDOW
    if any(one.chunk for one in tokens):
        made["attention_chunk_size"] = WINDOW
    return made


def real_model(raw: dict[str, Any]) -> Any:
    """The real class of a config in bf16, its experts computed one after the other."""
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(**copy.deepcopy(raw))
    config._experts_implementation = "eager"
    torch.manual_seed(0)
    named = getattr(transformers, (raw.get("architectures") or [""])[0], None)
    if named is not None:
        with torch.device("cpu"):
            return named(config).to(torch.bfloat16).eval()
    kinds = ("AutoModelForSeq2SeqLM", "AutoModelForSpeechSeq2Seq", "AutoModelForCausalLM", "AutoModel")
    autos = [getattr(transformers, kind) for kind in kinds]
    auto = next(each for each in autos if type(config) in each._model_mapping)
    return auto.from_config(config, dtype=torch.bfloat16).eval()


def run(model: Any, cache: Any = None) -> list[int]:
    """The bytes of a cache after a pass over a prompt, and after each of the single tokens that follow."""
    import torch
    import transformers

    config = model.config
    vocab = min(VOCAB, config.get_text_config(decoder=True).vocab_size)
    key = "state" if config.model_type == "rwkv" else "cache_params" if "mamba" in config.model_type else ""
    key = key or "past_key_values"
    inputs = torch.randint(1, vocab, (BATCH, PROMPT))
    more: dict[str, Any] = {}
    name = "input_ids"
    if config.is_encoder_decoder:
        name = "decoder_input_ids"
        if config.model_type == "whisper":
            frames = 2 * config.max_source_positions
            more["input_features"] = torch.randn(BATCH, config.num_mel_bins, frames, dtype=torch.bfloat16)
        else:
            more["input_ids"] = torch.randint(3, vocab, (BATCH, SOURCE))
    if config.model_type == "recurrent_gemma" and cache is None:  # its output leaves the cache out
        cache = transformers.DynamicCache(config=config)
    counted = []
    with torch.no_grad():
        given = {} if cache is None else {key: cache}
        made = model(**more, **{name: inputs}, **given, use_cache=True)
        for _ in range(DECODED + 1):
            cache = getattr(made, key, cache)
            counted.append(held_bytes(model, cache))
            if len(counted) <= DECODED:
                made = model(**more, **{name: inputs[:, :1]}, **{key: cache}, use_cache=True)
    return counted


def static_cache(model: Any, length: int) -> Any:
    """What `generate` makes for cache_implementation="static"."""
    from transformers import StaticCache
    from transformers.cache_utils import EncoderDecoderCache

    config = model.config.get_text_config(decoder=True)
    cache = StaticCache(config=config, max_cache_len=length)
    if not model.config.is_encoder_decoder:
        return cache
    source = config.max_source_positions if config.model_type == "whisper" else SOURCE
    return EncoderDecoderCache(cache, StaticCache(config=config, max_cache_len=source))


def held_bytes(model: Any, cache: Any) -> int:
    """The bytes of the storages of all tensors of a cache, and of RecurrentGemma's modules, which keep their own."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors(cache)}
    for module in model.modules() if model.config.model_type == "recurrent_gemma" else ():
        for name in ("recurrent_states", "conv1d_state"):
            tensor = getattr(module, name, None)
            if tensor is not None:
                storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
    return sum(storages.values())


def tensors(found: Any, name: str = "") -> Iterator[Any]:
    """Every tensor of a cache, wherever it keeps it, counters left out."""
    import torch

    if name in COUNTERS or found is None:
        return
    if isinstance(found, torch.Tensor):
        inner = found.__tensor_flatten__()[0] if type(found) is not torch.Tensor else ()
        if not inner:
            yield found
        for each in inner:
            yield from tensors(getattr(found, each))
    elif isinstance(found, dict):
        for each in found.values():
            yield from tensors(each)
    elif isinstance(found, (list, tuple)):
        for each in found:
            yield from tensors(each)
    elif type(found).__module__.startswith("transformers."):
        for key, each in vars(found).items():
            yield from tensors(each, key)


def quantised_layer(quantiser: Any) -> Any:
    """The real layer of a quantiser; quanto calls the last axis -1."""
    from transformers.cache_utils import Fp8QuantizedLayer, HQQQuantizedLayer, QuantoQuantizedLayer

    if quantiser.backend == "fp8":
        return Fp8QuantizedLayer()
    kind = QuantoQuantizedLayer if quantiser.backend == "quanto" else HQQQuantizedLayer
    axis = -1 if quantiser.axis and quantiser.backend == "quanto" else quantiser.axis
    return kind(
        nbits=quantiser.bits,
        axis_key=axis,
        axis_value=axis,
        q_group_size=quantiser.group_size,
        residual_length=quantiser.residual,
    )


def offloaded(kept: list[TokenCache], length: int | None) -> Iterator[Offloaded]:
    """An offloaded cache of such layers after a prompt and after each token: the meta device stands for a GPU, streams
    do nothing.
    """
    from contextlib import nullcontext
    from unittest import mock

    import torch
    from transformers import cache_utils

    class Nothing(nullcontext):
        def wait_stream(self, other: Any) -> None:
            """Wait for nothing."""

    def moved(tensor: Any, device: Any, **_: Any) -> Any:
        return torch.empty_like(tensor, device=device, memory_format=torch.contiguous_format)

    kinds = ["sliding_attention" if each.window else "full_attention" for each in kept]
    mapping = cache_utils.DYNAMIC_LAYER_TYPE_MAPPING if length is None else cache_utils.STATIC_LAYER_TYPE_MAPPING
    more = {} if length is None else {"max_cache_len": length}
    layers = [mapping[kind](sliding_window=each.window, **more) for kind, each in zip(kinds, kept, strict=True)]
    with (
        mock.patch("torch.Stream", Nothing),
        mock.patch("torch.cuda.default_stream", return_value=Nothing()),
        mock.patch.object(torch.Tensor, "to", moved),
    ):
        cache = cache_utils.Cache(layers=layers, offloading=True, offload_only_non_sliding=length is not None)
        for new in (PROMPT, *[1] * DECODED):
            most = 0
            for place, each in enumerate(kept):
                shape = (BATCH, each.heads, new, each.key_dim)
                keys, values = (torch.empty(shape, dtype=torch.bfloat16, device="meta") for _ in range(2))
                attended = cache.update(keys, values, place)
                most = max(most, _on("meta", cache, attended))
                del attended, keys, values
            yield Offloaded(_on("meta", cache), most, _on("cpu", cache))


def _on(device: str, *found: Any) -> int:
    """The bytes of all storages on a device."""
    every = {tensor.untyped_storage()._cdata: tensor for each in found for tensor in tensors(each)}
    return sum(tensor.untyped_storage().nbytes() for tensor in every.values() if tensor.device.type == device)
