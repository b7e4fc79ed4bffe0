"""PaliGemmaForConditionalGeneration.forward: SigLIP, one map, and a Gemma whose prompts see themselves.

Source: transformers 5.23, models/paligemma/modeling_paligemma.py.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.programs import clip, llama
from oomph.programs.cache import Cache
from oomph.programs.frame import counted_positions
from oomph.programs.frames import FRAMES
from oomph.programs.llava import buffers, sliding_windows
from oomph.programs.towers import Images, check_room, updated
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
    images: Images | None = None,
) -> tuple[Any, ...]:
    """Mirror PaliGemmaForConditionalGeneration.forward: loss, logits, cache and the images' features."""
    if model_type != "gemma":
        raise UnsupportedError("oomph cannot play PaliGemma 2 yet.", "Trace the real code instead: oomph trace.")
    if not images:  # its processor refuses that too
        fix = "Trace the real code instead: oomph trace --infer." if labels is None else "Say --images 1."
        raise UnsupportedError("oomph cannot play PaliGemma on text alone.", fix)
    language_model = m.model.language_model
    inputs_embeds = language_model.embed_tokens(input_ids)
    if position_ids is None:
        position_ids = ops.unary(counted_positions(input_ids), "add")  # counted from 1
    image_outputs, selected_image_feature = clip.tower(m.model.vision_tower, images["pixel_values"], checkpointing)
    image_outputs[1] = image_features = m.model.multi_modal_projector.linear(selected_image_feature)
    del selected_image_feature
    check_room(m, input_ids.shape[1], image_features.shape[1])
    image_features = ops.cast(image_features, inputs_embeds.dtype)
    (special_image_mask,) = ops.placeholders(input_ids)
    inputs_embeds = ops.masked_scatter(inputs_embeds, special_image_mask, image_features)
    block_sequence_ids = prompts(images["token_type_ids"])
    causal_mask = ops.causal_mask(inputs_embeds, attention_mask, past_key_values, blocks=block_sequence_ids)
    hidden_states, past_key_values = llama.model(
        language_model, None, checkpointing, FRAMES[model_type], {None: causal_mask}, position_ids, past_key_values,
        inputs_embeds, use_cache=use_cache,
    )  # fmt: skip
    del image_outputs, special_image_mask
    del inputs_embeds, position_ids, block_sequence_ids, causal_mask
    table = language_model.embed_tokens.weight
    loss, logits = llama.scored(m.lm_head, hidden_states, table, labels, logits_to_keep)
    return loss, logits, past_key_values, image_features


def prompts(token_type_ids: Sym) -> Sym:
    """Mirror torch.where(token_type_ids == 0, 0, -1): int64 [B, S], which tokens are a prompt's."""
    tape = token_type_ids.tape
    is_prompt = tape.empty(token_type_ids.shape, "bool", op="eq")
    values = [tape.empty((), "int64", op="scalar_tensor") for _ in range(2)]
    block_sequence_ids = tape.empty(token_type_ids.shape, "int64", op="where")
    del values  # the last one first, as a list dies
    del is_prompt
    return block_sequence_ids
