"""What programs of multimodal models ask of the towers beside the language model, and the batches they take."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from oomph import ops
from oomph.blocks.audio import Gemma4Audio, Qwen3OmniAudio, UniversalSpeech, WhisperEncoder
from oomph.blocks.vision import ClipVision, IdeficsVision
from oomph.blocks.vision_gemma import Gemma4Vision
from oomph.blocks.vision_native import GlmVision, MinimaxVision, MoonVision, PixtralVision, Qwen3Vision, QwenVision
from oomph.errors import UsageError
from oomph.tape.bound import Bound
from oomph.tape.sizes import Shapes, Size, number, yes
from oomph.tape.sym import Sym
from oomph.tape.tape import Tape

if TYPE_CHECKING:
    from oomph.job import InferJob, TrainJob

LANGUAGE_MODEL, HEAD = "model.language_model.", "lm_head."  # how the paths of what text passes through begin
OF_TEXT = ("input_ids", "labels", "attention_mask", "position_ids")  # inputs of a batch that are not its images'
Images = dict[str, Any]
AXES = 3  # of a video: time, height, width


def updated(m: Bound, parameters: list[Sym]) -> list[Sym]:
    """Return those of the parameters that get a gradient: of text alone the language model's."""
    if m.tape.images or m.tape.audio:
        return parameters
    parameters = [one for one in parameters if ".indexer." not in one.made_for]  # MiniMax-M3's, which hand none back
    return [one for one in parameters if one.made_for.startswith((LANGUAGE_MODEL, HEAD))]


def tower_buffers(m: Bound) -> list[Sym]:
    """Return what is no parameter of a tower and not stored but on the device: ids of positions, inv_freq."""
    tape, block = m.tape, m.block
    if isinstance(block, ClipVision) and not isinstance(block, IdeficsVision) and not block.native_patches:
        made = tape.empty((1, block.num_positions), "int64", op="position_ids")
        m.embeddings.parts["position_ids"] = made
        return [made]
    if isinstance(block, UniversalSpeech):
        return [each for _ in range(operator.index(block.num_layers)) for each in _of_a_conformer(tape, block)]
    if isinstance(block, WhisperEncoder) and block.out_size is None:
        return []
    if isinstance(block, (WhisperEncoder, Qwen3OmniAudio)):
        return [tape.empty((block.num_positions, block.hidden_size), "fp32", op="positional_embedding")]
    if isinstance(block, Gemma4Audio):  # frequencies once, in each layer the bound of its scores
        bounds = [tape.empty((), tape.loaded, op="softcap") for _ in range(operator.index(block.num_layers))]
        return [tape.empty((1, 1, block.hidden_size // 2), "fp32", op="inv_timescales"), *bounds]
    if isinstance(block, Gemma4Vision):  # frequencies for a quarter of the channels, kept twice
        return ops.rotary_buffers(tape, block.head_dim // 2)
    if isinstance(
        block, (GlmVision, QwenVision, Qwen3Vision)
    ):  # frequencies for half of the channels, of rows and of columns
        return [tape.empty((block.hidden_size // block.num_heads // 4,), "fp32", op="inv_freq") for _ in range(2)]
    if isinstance(block, MoonVision):  # sines of frames and of none, and frequencies for a quarter of the channels
        times = tape.empty((block.num_frames + 1, block.hidden_size), "fp32", op="time_position_embeddings")
        return [times, *ops.rotary_buffers(tape, block.hidden_size // block.num_heads // 2)]
    if isinstance(block, MinimaxVision):  # frequencies for a third of the channels, kept twice
        third = block.hidden_size // block.num_heads // AXES // 2
        return [tape.empty((third,), "fp32", op="inv_freq") for _ in range(2)]
    if isinstance(block, PixtralVision):
        return [tape.empty((block.hidden_size // block.num_heads // 2,), "fp32", op="inv_freq") for _ in range(2)]
    return []


BOUNDS = 5  # parts of a layer of Gemma 3n's conformer that bound what they are given: gradient_clipping


def _of_a_conformer(tape: Tape, block: UniversalSpeech) -> list[Sym]:
    """Return the buffers of a layer of Gemma 3n's audio tower."""
    return [
        tape.empty((1, 1, block.hidden_size // 2), "fp32", op="inv_timescales"),
        tape.empty((), tape.loaded, op="q_scale"),
        tape.empty(block.window, "bool", op="local_causal_valid_mask"),
        tape.empty((), "fp32", op="softcap"),
        *(tape.empty((), tape.loaded, op="gradient_clipping") for _ in range(BOUNDS)),
    ]


def square_images(block: Any, job: TrainJob | InferJob) -> Shapes:
    """Return what a batch has of images of one size: pixels in fp32, as processors make them."""
    side = block.image_size
    return {"pixel_values": ((job.batch * job.images, block.num_channels, side, side), "fp32")}


def check_room(m: Bound, length: Size, tokens: Size) -> None:
    """Refuse sequences with no room for their images, a token of text around each."""
    needed = m.tape.images * (tokens + 1) + 1
    if not yes(needed <= length):
        raise UsageError(
            f"{m.tape.images} images of {number(tokens)} tokens each do not fit {number(length)} tokens.",
            f"Give a --seq of at least {number(needed)}.",
        )


def check_heard(m: Bound, length: Size, tokens: Size) -> None:
    """Refuse sequences with no room for a recording, a token of text before and behind it."""
    if not yes(tokens + 2 <= length):
        raise UsageError(
            f"A recording of {m.tape.audio} seconds is {number(tokens)} tokens, and does not fit {number(length)}.",
            f"Give a --seq of at least {number(tokens + 2)}.",
        )


def images(inputs: dict[str, Sym]) -> dict[str, Sym]:
    """Return what a batch holds of images."""
    return {name: each for name, each in inputs.items() if name not in OF_TEXT}


def merged(features: list[Sym], input_ids: Sym, inputs_embeds: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror what puts images among tokens: the embeddings [B, S, H], the features of all images [T, H], and the mask
    that says where they are.
    """
    image_features = ops.cast(ops.cat(features, 0), inputs_embeds.dtype)
    (special_image_mask,) = ops.placeholders(input_ids)
    inputs_embeds = ops.masked_scatter(inputs_embeds, special_image_mask, image_features)
    return inputs_embeds, image_features, special_image_mask


def count(pixel_values: Sym) -> int:
    """Return how many images there are, for code that goes through them one by one."""
    return operator.index(pixel_values.shape[0])
