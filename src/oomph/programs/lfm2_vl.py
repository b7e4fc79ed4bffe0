"""Lfm2VlForConditionalGeneration.forward of text, with its local variables: an LFM2 that is handed embeddings.

Source: transformers 5.23, models/lfm2_vl/modeling_lfm2_vl.py.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.programs import llama
from oomph.programs.cache import Cache
from oomph.programs.lfm2 import LFM2, LFM2_MOE
from oomph.programs.towers import tower_buffers, updated
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym

__all__ = ["buffers", "causal_lm", "sliding_windows", "updated"]
DECODERS = {"lfm2": LFM2, "lfm2_moe": LFM2_MOE}


def buffers(m: Bound) -> list[Sym]:
    """Return the tower's buffers, then the language model's."""
    frequencies = ops.rotary_buffers(m.tape, LFM2.rotary_size(m.model.language_model))
    return [*tower_buffers(m.model.vision_tower), *frequencies]


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return what each layer keeps of its past: keys and values, or states."""
    return LFM2.kinds(m.model.language_model)


def causal_lm(
    m: Bound,
    input_ids: Sym,
    labels: Sym | None,
    checkpointing: Checkpointing,
    model_type: str,
    attention_mask: Sym | None = None,
    position_ids: Sym | None = None,
    past_key_values: Cache | None = None,
    use_cache: bool = False,
    logits_to_keep: Size = 0,
) -> tuple[Any, ...]:
    """Mirror Lfm2VlForConditionalGeneration.forward: loss, logits and cache; `model_type` is the language model's."""
    if model_type not in DECODERS:
        raise UnsupportedError(f"oomph cannot play {model_type} inside this model yet.", "Trace it: oomph trace.")
    language_model = m.model.language_model
    inputs_embeds = language_model.embed_tokens(input_ids)
    hidden_states, past_key_values = DECODERS[model_type].model(
        language_model, None, checkpointing, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache
    )
    del inputs_embeds
    table = language_model.embed_tokens.weight
    loss, logits = llama.scored(m.lm_head, hidden_states, table, labels, logits_to_keep)
    return loss, logits, past_key_values
