"""Tiny configs of vision-language models of further classes, and the jobs on which the tape must equal the trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from oomph.job import InferJob, TrainJob
from tests.tape.dense import base
from tests.tape.vision import Config, llava, siglip
from tests.tape.vision import job as draw
from tests.tape.vision import seeing as with_images
from tests.tape.vision_kin import llava_next


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


TEXT_ALONE = {"vipllava": vipllava}  # whose images are not played
KINDS = {"llava_next_video": llava_next_video, "aya_vision": aya_vision, "cohere2_vision": cohere2_vision}


def config(rng: random.Random, kind: str) -> Config:
    """A tiny model."""
    return {"model_type": kind, **{**KINDS, **TEXT_ALONE}[kind](rng), "tie_word_embeddings": rng.random() < 0.4}


def job(rng: random.Random, kind: str, images: int) -> TrainJob:
    """A job of so many images, of adapters now and then."""
    drawn = with_images(rng, draw(rng, kind), images)
    return replace(drawn, seq_len=230, image_size=rng.choice(["40x90", "60x60", "64x48", "90x30"]))


def infer_job(rng: random.Random, images: int) -> InferJob:
    """A prefill of text and images, and two tokens."""
    attention, cache = rng.choice(["math", "eager", "flash"]), rng.choice(["static", "dynamic"])
    return InferJob(2, 230, 2, attention=attention, cache=cache, images=images, image_size="40x90")


def text_job(rng: random.Random) -> TrainJob:
    """A step of text alone."""
    return TrainJob(2, 37, padding=rng.random() < 0.5, checkpointing="non-reentrant", steady=False)


def grid(seed: int = 20261201) -> Iterator[tuple[Config, TrainJob | InferJob]]:
    """A training step of each kind with images and one of text alone, and inference."""
    rng = random.Random(seed)
    for index, kind in enumerate(KINDS):
        yield config(rng, kind), replace(job(rng, kind, 1 + index % 2), accumulation=1)
        yield config(rng, kind), infer_job(rng, 1)
        yield config(rng, kind), text_job(rng)
    for kind in TEXT_ALONE:
        yield config(rng, kind), text_job(rng)
