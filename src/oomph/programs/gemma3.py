"""Gemma3ForConditionalGeneration.forward: SigLIP, a pooling projector, and a Gemma 3 whose masks are made outside.

Source: transformers 5.23, models/gemma3/modeling_gemma3.py.
"""

from __future__ import annotations

from oomph import ops
from oomph.families.layer_types import FULL, SLIDING
from oomph.programs import llama
from oomph.programs.cache import Cache
from oomph.programs.frames import FRAMES
from oomph.programs.llava import buffers, sliding_windows
from oomph.programs.towers import updated
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym

__all__ = ["buffers", "causal_lm", "sliding_windows", "updated"]


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
) -> tuple[Sym | None, Sym | None, Cache | None]:
    """Mirror Gemma3ForConditionalGeneration.forward: loss, logits and cache."""
    language_model = m.model.language_model
    inputs_embeds = language_model.embed_tokens(input_ids)
    masks = _masks(language_model, inputs_embeds, attention_mask, past_key_values, position_ids)
    hidden_states, past_key_values = llama.model(
        language_model, None, checkpointing, FRAMES[model_type], masks, position_ids, past_key_values, inputs_embeds,
        use_cache=use_cache,
    )  # fmt: skip
    del masks, inputs_embeds
    table = language_model.embed_tokens.weight
    loss, logits = llama.scored(m.lm_head, hidden_states, table, labels, logits_to_keep)
    return loss, logits, past_key_values


def _masks(
    m: Bound, inputs_embeds: Sym, attention_mask: Sym | None, past_key_values: Cache | None, position_ids: Sym | None
) -> llama.Masks:
    """Mirror create_masks_for_generate: a mask for each kind of layer, in the order of a set of their names."""
    kinds = {window: FULL if window is None else SLIDING for window in llama.windows_of(m)}
    order = list({kinds[window] for window in kinds})
    return {
        window: ops.causal_mask(
            inputs_embeds, attention_mask, past_key_values, window, position_ids, looks=position_ids is not None
        )
        for window in sorted(kinds, key=lambda window: order.index(kinds[window]))
    }
