"""Kimi_K25ForConditionalGeneration.forward of text, with its local variables: a DeepSeek-V3 that is handed embeddings.

Source: transformers 5.23, models/kimi_k25/modeling_kimi_k25.py.
"""

from __future__ import annotations

from oomph import ops
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
    """Mirror Kimi_K25ForConditionalGeneration.forward: loss, logits and cache."""
    language_model = m.model.language_model
    hidden_states, past_key_values = _model(
        m.model, input_ids, checkpointing, model_type, attention_mask, position_ids, past_key_values, use_cache
    )
    table = language_model.embed_tokens.weight
    loss, logits = llama.scored(m.lm_head, hidden_states, table, labels, logits_to_keep)
    return loss, logits, past_key_values


def _model(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    model_type: str,
    attention_mask: Sym | None,
    position_ids: Sym | None,
    past_key_values: Cache | None,
    use_cache: bool,
) -> tuple[Sym, Cache | None]:
    """Mirror Kimi_K25Model.forward: ids of images, of which there are none, are looked for and replaced."""
    tape = m.tape
    image, video = (tape.empty(input_ids.shape, "bool", op="eq") for _ in range(2))
    multimodal_mask = tape.empty(input_ids.shape, "bool", op="bitwise_or")
    del image, video
    llm_input_ids = ops.unary(input_ids, "clone")
    number = tape.empty((), "int64", op="lift_fresh")
    del number
    inputs_embeds = m.language_model.embed_tokens(llm_input_ids)
    found = llama.model(
        m.language_model, None, checkpointing, FRAMES[model_type], attention_mask, position_ids, past_key_values,
        inputs_embeds, use_cache=use_cache,
    )  # fmt: skip
    del inputs_embeds, multimodal_mask, llm_input_ids
    return found
