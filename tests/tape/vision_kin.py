"""Tiny configs of more vision-language models, and the jobs on which the tape must equal the trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from oomph.job import InferJob, TrainJob
from tests.tape.dense import base
from tests.tape.hybrids import qwen3_5_moe_text, qwen3_5_text
from tests.tape.mixtures import deepseek_v3, glm4_moe, llama4_text
from tests.tape.vision import Config, llava, qwen3_vl, siglip, vit
from tests.tape.vision import job as draw
from tests.tape.vision import seeing as with_images


def qwen3_vl_moe(rng: random.Random) -> Config:
    """Qwen3-VL with experts, in every layer or every second."""
    raw = qwen3_vl(rng)
    raw["text_config"] |= {
        "moe_intermediate_size": rng.choice([8, 24, 40]), "num_experts": rng.choice([4, 5]), "num_experts_per_tok": 2,
        "decoder_sparse_step": rng.choice([1, 1, 2]),
    }  # fmt: skip
    return raw


def pinpoints(side: int) -> Config:
    """One to four tiles."""
    return {"image_grid_pinpoints": [[side, 2 * side], [2 * side, side], [2 * side, 2 * side], [side, side]]}


def llava_next(rng: random.Random) -> Config:
    """LLaVA-NeXT on CLIP."""
    raw = llava(rng)
    raw["vision_config"] |= {"image_size": 32, "patch_size": 8}
    return raw | pinpoints(32)


def llava_onevision(rng: random.Random) -> Config:
    """LLaVA-OneVision on SigLIP, features of more than two tiles shrunk or none."""
    return {
        "vision_config": siglip(rng) | {"image_size": 28}, "text_config": base(rng) | {"model_type": "qwen2"},
        "image_token_id": 3, "image_token_index": 3, "vision_feature_layer": rng.choice([-1, -1, -2]),
        "vision_aspect_ratio": rng.choice(["anyres_max_9", "anyres_max_2"]), **pinpoints(28),
    }  # fmt: skip


def internvl(rng: random.Random) -> Config:
    """InternVL with each switch of its tower, over Qwen or Llama."""
    vision = vit(rng, image_size=32, patch_size=8) | {
        "use_mask_token": rng.random() < 0.3, "use_qk_norm": rng.random() < 0.4, "attention_bias": rng.random() < 0.4,
        "norm_type": rng.choice(["rms_norm", "layer_norm"]), "use_mean_pooling": rng.random() < 0.6,
        "use_absolute_position_embeddings": rng.random() < 0.7, "attention_dropout": rng.choice([0.0, 0.0, 0.1]),
    }  # fmt: skip
    text = base(rng) | {"model_type": rng.choice(["qwen2", "llama", "qwen3"])}
    layer = rng.choice([-1, -1, -2])
    return {"vision_config": vision, "text_config": text, "image_token_id": 3, "vision_feature_layer": layer}


def qwen3_5(rng: random.Random) -> Config:
    """Qwen3.5 with its tower, without experts."""
    raw, text = qwen3_vl(rng), qwen3_5_text(rng)
    raw["vision_config"] |= {"out_hidden_size": text["hidden_size"]}
    return raw | {"text_config": text}


def qwen3_5_moe(rng: random.Random) -> Config:
    """The same with experts."""
    raw, text = qwen3_vl(rng), qwen3_5_moe_text(rng)
    raw["vision_config"] |= {"out_hidden_size": text["hidden_size"]}
    return raw | {"text_config": text}


def llama4(rng: random.Random) -> Config:
    """Llama 4, whose adapter joins four patches."""
    vision = vit(rng, image_size=32, patch_size=8, attention_dropout=rng.choice([0.0, 0.1]))
    inner = rng.choice([24, 40])
    vision |= {
        "intermediate_size": 4 * vision["hidden_size"], "projector_input_dim": inner, "projector_output_dim": inner,
        "vision_output_dim": inner, "projector_dropout": rng.choice([0.0, 0.1]),
    }  # fmt: skip
    return {"vision_config": vision, "text_config": llama4_text(rng), "image_token_index": 3}


def kimi_k25(rng: random.Random) -> Config:
    """Kimi-K2.5: MoonViT over DeepSeek-V3."""
    return {"vision_config": vit(rng, patch_size=6), "text_config": deepseek_v3(rng)}


KINDS = {
    "llama4": llama4,
    "qwen3_5": qwen3_5, "qwen3_5_moe": qwen3_5_moe,
    "qwen3_vl_moe": qwen3_vl_moe, "llava_next": llava_next, "llava_onevision": llava_onevision, "internvl": internvl,
}  # fmt: skip


def glm4v(rng: random.Random) -> Config:
    """GLM-4V: norms before and after, half of a head turned."""
    text = base(rng)
    text |= {"hidden_size": 16 * text["num_attention_heads"], "rope_parameters": _sections(rng)}
    return {"vision_config": _glm_vision(rng, text), "text_config": text}


def glm4v_moe(rng: random.Random) -> Config:
    """GLM-4.5V: GLM-4.5's decoder."""
    text = glm4_moe(rng) | {"model_type": "glm4v_moe_text", "head_dim": 16, "rope_parameters": _sections(rng)}
    return {"vision_config": _glm_vision(rng, text), "text_config": text}


def _sections(rng: random.Random) -> Config:
    """All or half of a head of 16 turned, by three positions."""
    factor, sections = rng.choice([(1.0, [2, 3, 3]), (0.5, [2, 1, 1])])
    kind = {"rope_type": "default", "rope_theta": 10000.0}
    return kind | {"partial_rotary_factor": factor, "mrope_section": sections}


def _glm_vision(rng: random.Random, text: Config) -> Config:
    heads = rng.choice([2, 3])
    return {
        "hidden_size": heads * 16, "num_heads": heads, "depth": 2, "patch_size": 14, "image_size": 56,
        "intermediate_size": rng.choice([24, 40]), "out_hidden_size": text["hidden_size"],
    }  # fmt: skip


TEXT_ALONE = {"kimi_k25": kimi_k25, "glm4v": glm4v, "glm4v_moe": glm4v_moe}  # jobs of text alone


def config(rng: random.Random, kind: str) -> Config:
    """A tiny model."""
    return {"model_type": kind, **{**KINDS, **TEXT_ALONE}[kind](rng), "tie_word_embeddings": rng.random() < 0.4}


def job(rng: random.Random, kind: str, images: int) -> TrainJob:
    """A job of so many images, of adapters now and then."""
    drawn = with_images(rng, draw(rng, kind), images)
    if kind == "llama4" and drawn.targets == "all-linear":
        drawn = replace(drawn, targets="q_proj,v_proj,fc1")  # of its routers PEFT makes adapters that cannot run
    return replace(drawn, seq_len=230, image_size=rng.choice(["40x90", "60x60", "64x48", "90x30"]))


def infer_job(rng: random.Random, images: int) -> InferJob:
    """A prefill of text and images, and two tokens."""
    attention, cache = rng.choice(["math", "eager", "flash"]), rng.choice(["static", "dynamic"])
    return InferJob(2, 230, 2, attention=attention, cache=cache, images=images, image_size="40x90")


def grid(seed: int = 20261127) -> Iterator[tuple[Config, TrainJob | InferJob]]:
    """A training step of each kind, or inference; of Qwen3.5 that without experts."""
    rng = random.Random(seed)
    for index, kind in enumerate(kind for kind in KINDS if kind != "qwen3_5_moe"):
        drawn = infer_job(rng, 1) if index % 3 == 2 else replace(job(rng, kind, 1 + index % 2), accumulation=1)
        yield config(rng, kind), drawn
    for kind in TEXT_ALONE:
        yield config(rng, kind), TrainJob(2, 37, padding=True, checkpointing="non-reentrant", steady=False)
