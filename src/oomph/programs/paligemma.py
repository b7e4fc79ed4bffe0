"""PaliGemmaForConditionalGeneration.forward: SigLIP, one map, and a Gemma, or a Gemma 2, whose prompts see themselves.

Source: transformers 5.23, models/paligemma/modeling_paligemma.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.programs import clip, llama
from oomph.programs.cache import Cache
from oomph.programs.frame import counted_positions
from oomph.programs.frames import FRAMES, Frame
from oomph.programs.llava import buffers, sliding_windows
from oomph.programs.towers import Images, check_room, square_images, updated
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Shapes, Size
from oomph.tape.sym import Sym

if TYPE_CHECKING:
    from oomph.job import InferJob, TrainJob

__all__ = ["buffers", "causal_lm", "inputs_of_images", "sliding_windows", "updated"]


def inputs_of_images(m: Bound, job: TrainJob | InferJob) -> Shapes:
    """Return what a batch has beside its tokens: images, and which tokens are theirs."""
    return {**square_images(m.model.vision_tower.block, job), "token_type_ids": ((job.batch, job.seq_len), "int64")}


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
    frame, tape = FRAMES[model_type], m.tape
    if not frame.sdpa:
        tape.keep_tower_kernel()
    _check(images, past_key_values)
    language_model = m.model.language_model
    inputs_embeds = language_model.embed_tokens(input_ids)
    if position_ids is None:
        position_ids = ops.unary(counted_positions(input_ids), "add")  # counted from 1
    image_hidden_states: list[Sym] = []
    block_sequence_ids = None
    if images:
        image_outputs = image_features(m.model, images["pixel_values"], checkpointing)
        features = image_outputs[1]
        check_room(m, input_ids.shape[1], features.shape[1])
        features = ops.cast(features, inputs_embeds.dtype)
        (special_image_mask,) = ops.placeholders(input_ids)
        inputs_embeds = ops.masked_scatter(inputs_embeds, special_image_mask, features)
        image_hidden_states.append(features)
        del features
        block_sequence_ids = prompts(images["token_type_ids"])
    masks = _masks(language_model, frame, inputs_embeds, attention_mask, past_key_values, block_sequence_ids)
    hidden_states, past_key_values = llama.model(
        language_model, None, checkpointing, frame, masks, position_ids, past_key_values, inputs_embeds,
        use_cache=use_cache,
    )  # fmt: skip
    if images:
        del image_outputs, special_image_mask
    if len(masks) > 1:  # arguments of the second mask are copied and outlive the masks
        del masks
        del inputs_embeds, position_ids, block_sequence_ids
    else:
        del inputs_embeds, position_ids, block_sequence_ids, masks
    table = language_model.embed_tokens.weight
    loss, logits = llama.scored(m.lm_head, hidden_states, table, labels, logits_to_keep)
    return loss, logits, past_key_values, *image_hidden_states


def _check(images: Images | None, past_key_values: Cache | None) -> None:
    """Refuse text alone, as the processor does, and images over a static cache."""
    if past_key_values is not None and images and past_key_values.is_static:
        raise UnsupportedError("Masks of images over a static cache are not modelled.", "Say --cache dynamic.")
    if not images and past_key_values is None:
        raise UnsupportedError("oomph cannot play PaliGemma on text alone.", "Say --images 1.")


def image_features(m: Bound, pixel_values: Sym, checkpointing: Checkpointing) -> list[Any]:
    """Mirror PaliGemmaModel.get_image_features: the tower's outputs, with features [B, T, H] as pooled."""
    image_outputs, selected_image_feature = clip.tower(m.vision_tower, pixel_values, checkpointing)
    image_outputs[1] = m.multi_modal_projector.linear(selected_image_feature)
    return image_outputs


def _masks(
    m: Bound,
    frame: Frame,
    inputs_embeds: Sym,
    attention_mask: Sym | None,
    past_key_values: Cache | None,
    blocks: Sym | None,
) -> llama.Masks:
    """Return the mask of all layers, and with Gemma 2 inside that of a window, whatever its layers are."""
    return {
        window: ops.causal_mask(inputs_embeds, attention_mask, past_key_values, window, blocks=blocks)
        for window in llama.mask_order(llama.windows_of(m), frame)
    }


def prompts(token_type_ids: Sym) -> Sym:
    """Mirror torch.where(token_type_ids == 0, 0, -1): int64 [B, S], which tokens are a prompt's."""
    tape = token_type_ids.tape
    is_prompt = tape.empty(token_type_ids.shape, "bool", op="eq")
    values = [tape.empty((), "int64", op="scalar_tensor") for _ in range(2)]
    block_sequence_ids = tape.empty(token_type_ids.shape, "int64", op="where")
    del values  # the last one first, as a list dies
    del is_prompt
    return block_sequence_ids
