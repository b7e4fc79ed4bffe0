"""Qwen3_5ForConditionalGeneration.forward and that of its mixtures: the tower of Qwen3-VL without features of inner
layers, and a decoder in which some layers attend and the others keep a state.

Source: transformers 5.23, models/qwen3_5/modeling_qwen3_5.py, models/qwen3_5_moe/modeling_qwen3_5_moe.py.
"""

from __future__ import annotations

from oomph import ops
from oomph.programs import llama
from oomph.programs.cache import Cache
from oomph.programs.qwen3_next import QWEN3_5
from oomph.programs.qwen_vision import grid_of
from oomph.programs.qwen_vl import image_features, inputs_of_images, leave_behind, moved_on, rope_index, updated
from oomph.programs.towers import Images, check_room, tower_buffers
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym

__all__ = ["buffers", "causal_lm", "image_features", "inputs_of_images", "leave_behind", "sliding_windows", "updated"]


def buffers(m: Bound) -> list[Sym]:
    """Return the tower's buffers, then the language model's."""
    size = QWEN3_5.rotary_size(m.model.language_model)
    return [*tower_buffers(m.model.visual), *ops.rotary_buffers(m.tape, size)]


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return what each layer keeps of its past: keys and values, or states."""
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
    images: Images | None = None,
) -> tuple[Sym | None, Sym | None, Cache | None]:
    """Mirror Qwen3_5ForConditionalGeneration.forward: loss, logits and cache; `model_type` is the text model's."""
    tape, language_model = m.tape, m.model.language_model
    inputs_embeds = language_model.embed_tokens(input_ids)
    if images:
        grid = grid_of(m.model.visual.block, tape, images["image_grid_thw"].shape[0])
        check_room(m, input_ids.shape[1], grid.tokens)
        mm_encoder_outputs = image_features(m.model.visual, images["pixel_values"], checkpointing, grid)
        image_embeds = ops.cast(ops.cat(mm_encoder_outputs[-2], 0), inputs_embeds.dtype)
        image_mask, video_mask = ops.placeholders(input_ids, 2)
        inputs_embeds = ops.masked_scatter(inputs_embeds, image_mask, image_embeds)
        position_ids, rope_deltas = rope_index(tape, input_ids, grid, model_type)
        m.model.parts["rope_deltas"] = tape.note(rope_deltas, "kept by a module")
        del rope_deltas
    elif past_key_values is not None and "rope_deltas" in m.model.parts:
        position_ids = moved_on(tape, past_key_values, *inputs_embeds.shape[:2])
    hidden_states, past_key_values = QWEN3_5.model(
        language_model, None, checkpointing, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache
    )
    del position_ids, inputs_embeds
    if images:
        del mm_encoder_outputs, image_embeds, image_mask, video_mask
    table = language_model.embed_tokens.weight
    loss, logits = llama.scored(m.lm_head, hidden_states, table, labels, logits_to_keep)
    return loss, logits, past_key_values
