"""Qwen3_5ForConditionalGeneration.forward on text alone: a hybrid decoder that is handed embeddings, a tower beside it.

AutoModelForCausalLM would load the decoder alone, whose program is qwen3_next's. Source: transformers 5.23,
models/qwen3_5/modeling_qwen3_5.py and models/qwen3_5_moe/modeling_qwen3_5_moe.py.
"""

from __future__ import annotations

from oomph.programs import llama
from oomph.programs.cache import Cache
from oomph.programs.qwen3_next import QWEN3_5
from oomph.programs.towers import tower_buffers, updated
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym

__all__ = ["buffers", "causal_lm", "sliding_windows", "updated"]


def buffers(m: Bound) -> list[Sym]:
    """Return the tower's buffers, then the language model's."""
    return [*tower_buffers(m.model.visual), *QWEN3_5.model_buffers(m.model.language_model)]


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return what each layer keeps of its past."""
    return QWEN3_5.kinds(m.model.language_model)


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
    """Mirror Qwen3_5ForConditionalGeneration.forward: loss, logits and cache."""
    language_model = m.model.language_model
    inputs_embeds = language_model.embed_tokens(input_ids)
    hidden_states, past_key_values = QWEN3_5.model(
        language_model, None, checkpointing, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache
    )
    del inputs_embeds, position_ids
    table = language_model.embed_tokens.weight
    loss, logits = llama.scored(m.lm_head, hidden_states, table, labels, logits_to_keep)
    return loss, logits, past_key_values
