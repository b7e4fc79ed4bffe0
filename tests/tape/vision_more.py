"""Tiny configs of vision-language models of further classes, and the jobs on which the tape must equal the trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from oomph.job import InferJob, TrainJob
from tests.tape.dense import base
from tests.tape.hybrids import lfm2
from tests.tape.vision import Config, llava, qwen2_5_vl, siglip, vit
from tests.tape.vision import job as draw
from tests.tape.vision import seeing as with_images
from tests.tape.vision_kin import glm4v, glm4v_moe, llava_next, qwen3_vl_moe


def command(rng: random.Random) -> Config:
    """A Command R7B of tiny size, whose layers have a window and none."""
    return base(rng) | {
        "model_type": "cohere2", "num_hidden_layers": 2, "sliding_window": rng.choice([8, 30]),
        "layer_types": ["sliding_attention", "full_attention"], "pad_token_id": 0,
    }  # fmt: skip


def aya_vision(rng: random.Random) -> Config:
    """Aya Vision: SigLIP over Command R7B."""
    raw = {"vision_config": siglip(rng) | {"image_size": 28}, "text_config": command(rng), "image_token_index": 3}
    layer = rng.choice([-1, -1, -2])
    return raw | {"alignment_intermediate_size": rng.choice([26, 48]), "vision_feature_layer": layer}


def cohere2_vision(rng: random.Random) -> Config:
    """Command A Vision."""
    raw = {"vision_config": siglip(rng) | {"image_size": 28}, "text_config": command(rng), "image_token_id": 3}
    return raw | {"alignment_intermediate_size": rng.choice([26, 48])}


def llava_next_video(rng: random.Random) -> Config:
    """LLaVA-NeXT-Video, whose images are LLaVA-NeXT's."""
    return llava_next(rng) | {"spatial_pool_mode": rng.choice(["average", "conv"])}


def vipllava(rng: random.Random) -> Config:
    """ViP-LLaVA, which takes features of several layers."""
    return llava(rng) | {"vision_feature_layers": [-1, -2]}


def audio(rng: random.Random, **extra: int) -> Config:
    """Sizes of a Whisper of a few layers."""
    heads = rng.choice([2, 3])
    return {
        "d_model": heads * 16, "encoder_attention_heads": heads, "encoder_layers": 2, "encoder_ffn_dim": 40,
        "num_mel_bins": 16, "max_source_positions": 50, **extra,
    }  # fmt: skip


def qwen2_5_omni_thinker(rng: random.Random) -> Config:
    """Qwen2.5-Omni's thinker."""
    raw = qwen2_5_vl(rng)
    return raw | {
        "audio_config": audio(rng, output_dim=raw["text_config"]["hidden_size"]), "vision_start_token_id": 5,
    }  # fmt: skip


def qwen3_omni_moe_thinker(rng: random.Random) -> Config:
    """Qwen3-Omni's, with experts."""
    raw = qwen3_vl_moe(rng)
    raw["vision_config"]["patch_size"] = 8
    raw["text_config"]["norm_topk_prob"] = rng.random() < 0.7
    return raw | {
        "audio_config": audio(rng, output_dim=raw["text_config"]["hidden_size"], downsample_hidden_size=8),
        "vision_start_token_id": 5,
    }  # fmt: skip


def lfm2_vl(rng: random.Random) -> Config:
    """LFM2-VL: SigLIP 2 over LFM2."""
    vision = vit(rng, model_type="siglip2_vision_model", num_patches=16, patch_size=4, vision_use_head=False)
    return {"vision_config": vision, "text_config": lfm2(rng) | {"model_type": "lfm2"}, "image_token_id": 3}


def glm46v(rng: random.Random) -> Config:
    """GLM-4.6V-Flash: GLM-4V's parts."""
    raw = glm4v(rng) | {"image_token_id": 3}
    raw["text_config"] |= {"model_type": "glm4v_text"}
    raw["vision_config"] |= {"model_type": "glm4v_vision"}
    return raw


TEXT_ALONE = {"lfm2_vl": lfm2_vl, "vipllava": vipllava}  # whose images are not played
KINDS = {
    "glm4v": lambda rng: glm4v(rng) | {"image_token_id": 3},
    "glm4v_moe": lambda rng: glm4v_moe(rng) | {"image_token_id": 3},
    "glm46v": glm46v,
    "qwen2_5_omni_thinker": qwen2_5_omni_thinker,
    "qwen3_omni_moe_thinker": qwen3_omni_moe_thinker,
    "llava_next_video": llava_next_video,
    "aya_vision": aya_vision,
    "cohere2_vision": cohere2_vision,
}


def config(rng: random.Random, kind: str) -> Config:
    """A tiny model."""
    return {"model_type": kind, **{**KINDS, **TEXT_ALONE}[kind](rng), "tie_word_embeddings": rng.random() < 0.4}


def job(rng: random.Random, kind: str, images: int) -> TrainJob:
    """A job of so many images, of adapters now and then."""
    drawn = with_images(rng, draw(rng, kind), images)
    if kind in ("qwen3_omni_moe_thinker", "glm4v_moe") and drawn.targets == "all-linear":
        drawn = replace(drawn, targets="q_proj,v_proj")  # PEFT shortens names of maps, to those of other modules too
    return replace(drawn, seq_len=230, image_size=rng.choice(["40x90", "60x60", "64x48", "90x30"]))


def infer_job(rng: random.Random, images: int) -> InferJob:
    """A prefill of text and images, and two tokens."""
    attention, cache = rng.choice(["math", "eager", "flash"]), rng.choice(["static", "dynamic"])
    return InferJob(2, 230, 2, attention=attention, cache=cache, images=images, image_size="40x90")


def text_job(rng: random.Random) -> TrainJob:
    """A step of text alone."""
    return TrainJob(2, 37, padding=rng.random() < 0.5, checkpointing="non-reentrant", steady=False)


def text_infer_job(rng: random.Random) -> InferJob:
    """A prefill of text alone, and two tokens."""
    return InferJob(2, 37, 2, attention=rng.choice(["math", "eager", "flash"]))


def grid(seed: int = 20261201) -> Iterator[tuple[Config, TrainJob | InferJob]]:
    """A training step of each kind with images or, where these are not played, of text alone, and inference of some."""
    rng = random.Random(seed)
    for index, kind in enumerate(KINDS):
        yield config(rng, kind), replace(job(rng, kind, 1 + index % 2), accumulation=1)
        if index % 2:
            yield config(rng, kind), infer_job(rng, 1)
        if kind.endswith("thinker"):  # which counts positions along a mask
            yield config(rng, kind), replace(text_job(rng), padding=True)
    for kind in TEXT_ALONE:
        yield config(rng, kind), text_job(rng)
        yield config(rng, kind), text_infer_job(rng)
