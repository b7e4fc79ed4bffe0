"""LlavaForConditionalGeneration.forward and its likes: a tower, a projector, and a decoder that is handed embeddings.

Source: transformers 5.23, models/llava/modeling_llava.py and those of the types in programs/__init__.py.
"""

from __future__ import annotations

from oomph.programs import llama
from oomph.programs.cache import Cache
from oomph.programs.frames import FRAMES
from oomph.programs.towers import tower_buffers, updated
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym

__all__ = ["buffers", "causal_lm", "sliding_windows", "updated"]


def buffers(m: Bound) -> list[Sym]:
    """Return the tower's buffers, then the language model's."""
    return [*tower_buffers(m.model.vision_tower), *llama.model_buffers(m.model.language_model)]


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return the window of every layer, None where attention is full."""
    return llama.windows_of(m.model.language_model)


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
    """Mirror LlavaForConditionalGeneration.forward: loss, logits and cache; `model_type` is the language model's."""
    frame = FRAMES[model_type]
    if not frame.sdpa:
        m.tape.kernel = "eager"
    language_model = m.model.language_model
    inputs_embeds = language_model.embed_tokens(input_ids)
    hidden_states, past_key_values = llama.model(
        language_model, None, checkpointing, frame, attention_mask, position_ids, past_key_values, inputs_embeds,
        use_cache=use_cache,
    )  # fmt: skip
    del inputs_embeds
    table = language_model.embed_tokens.weight
    loss, logits = llama.scored(m.lm_head, hidden_states, table, labels, logits_to_keep)
    return loss, logits, past_key_values
