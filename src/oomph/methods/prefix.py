"""Prefix tuning: keys and values that train stand before those of every layer; the model itself is frozen.

Effect: two vectors for each virtual token and layer, as wide as keys are, in fp32. Cost: the table is looked up for
every sequence, cast to the model's dtype and copied into a cache, beside which attention keeps the joined keys and
values; a mask is built, which shuts flash out. No checkpointing: PEFT refuses it. Source: PEFT 0.21, peft_model.py,
PeftModelForCausalLM.forward and get_prompt; tuners/prefix_tuning/model.py, PrefixEncoder without a projection, as by
default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Parts, descend
from oomph.errors import UnsupportedError, UsageError
from oomph.methods.prompts import DTYPE, ENCODER, check_prompts, indices
from oomph.methods.saved import frozen
from oomph.methods.targets import inner
from oomph.structure import decoder_stack
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.model import Model
    from oomph.programs.cache import Cache
    from oomph.tape.bound import Bound
    from oomph.tape.sizes import Size
    from oomph.tape.sym import Sym

RETURNS_CACHE = ("llama",)  # types whose class returns a cache that it was handed, whatever use_cache says


def adapt(model: Model, job: TrainJob) -> Model:
    """Return the model with a prefix encoder beside it, all else frozen; raises for what is not played."""
    check_prompts(model, job)
    if job.checkpointing != "none":
        raise UsageError("PEFT has no prefix tuning with checkpointing.", "Take --checkpointing none.")
    layers = decoder_stack(model)[1].layers
    found = [block for block in map(inner, descend(model.parts)) if isinstance(block, Attention)]
    if any(block.sliding_window is not None for block in found):
        raise UnsupportedError("oomph plays no prefix before sliding windows.", "Take --method prompt-tuning.")
    heads, size = found[0].num_kv_heads, found[0].head_dim
    encoder = PrefixEncoder(job.virtual_tokens, len(layers), heads, size, job.weight_dtype)
    return replace(model, parts={**frozen(model).parts, ENCODER: encoder})


@dataclass(frozen=True, eq=False)
class PrefixEncoder(Block):
    """A table [tokens, layers·2·heads·size] of keys and values."""

    tokens: Size
    layers: int
    num_heads: Size
    head_dim: Size
    model_dtype: str

    @property
    def parts(self) -> Parts:
        """The table."""
        width = self.layers * 2 * self.num_heads * self.head_dim
        return {"embedding": Tensor((self.tokens, width), "embedding", DTYPE)}

    @staticmethod
    def program(m: Bound, batch: Size) -> Sym:
        """Mirror PrefixEncoder.forward: [batch, tokens, width]."""
        from oomph import ops

        ids = indices(m, batch)
        return ops.embedding_at(m.embedding, (batch, m.tokens)) if ids is None else ops.embedding(m.embedding, ids)


def forward_around(causal_lm: Callable[..., Any], model: Model) -> Callable[..., Any]:
    """Return PeftModelForCausalLM.forward around a model's."""

    def forward(
        m: Bound, input_ids: Sym, labels: Sym, checkpointing: Any, model_type: str,
        attention_mask: Sym | None = None, position_ids: Sym | None = None, use_cache: bool = False,
    ) -> Any:  # fmt: skip
        from oomph import ops

        encoder, batch = m[ENCODER], input_ids.shape[0]
        kwargs: dict[str, Any] = {}
        if attention_mask is not None:
            prefix_attention_mask = m.tape.empty((batch, encoder.tokens), "fp32", op="ones")
            attention_mask = ops.cat((prefix_attention_mask, attention_mask), 1, "fp32")
        kwargs["attention_mask"] = attention_mask
        kwargs["past_key_values"] = get_prompt(encoder, batch)
        outputs = causal_lm(m, input_ids, labels, checkpointing, model_type, use_cache=use_cache, **kwargs)
        if not use_cache and model_type not in RETURNS_CACHE:
            outputs = (*outputs[:2], None)
        return outputs

    return forward


def get_prompt(encoder: Bound, batch: Size) -> Cache:
    """Mirror PeftModel.get_prompt: a cache that holds the prefix, a copy of its own for each layer."""
    from oomph import ops
    from oomph.programs.cache import Cache, DynamicLayer

    layers: int = encoder.layers
    past_key_values = encoder(batch)
    past_key_values = ops.cast(past_key_values, encoder.model_dtype)
    shape = (batch, encoder.tokens, layers * 2, encoder.num_heads, encoder.head_dim)
    past_key_values = ops.view(past_key_values, shape)
    for a, b in ((0, 2), (1, 2), (2, 3)):  # permute([2, 0, 3, 1, 4])
        past_key_values = ops.transpose(past_key_values, a, b)
    cache = Cache([DynamicLayer() for _ in range(layers)])
    split = ops.split_axis(past_key_values, 0, [2] * layers)
    for index in range(layers):
        pair = ops.slice_axis(split[index], 0, 0, 2)  # [:2], a sliding window could follow
        key, value = ops.unbind(pair, 0, 2)
        cache.update(key, value, index)
        del key, value
    return cache
