"""Tiny configs of vision-language models, and the jobs on which the tape must equal the trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from oomph.job import InferJob, TrainJob
from tests.tape import grid as plain
from tests.tape.dense import base, sliding

Config = dict[str, Any]


def vit(rng: random.Random, **extra: Any) -> Config:
    """Sizes of a ViT of a few layers."""
    heads = rng.choice([2, 3])
    return {
        "hidden_size": heads * rng.choice([8, 16]), "intermediate_size": rng.choice([24, 40]),
        "num_hidden_layers": rng.choice([2, 3]), "num_attention_heads": heads, **extra,
    }  # fmt: skip


def clip(rng: random.Random) -> Config:
    """CLIP."""
    return vit(rng, model_type="clip_vision_model", image_size=rng.choice([24, 40]), patch_size=rng.choice([7, 8]))


def siglip(rng: random.Random) -> Config:
    """SigLIP as in Gemma 3: 4 x 4 patches or twice as many a side."""
    return vit(
        rng, model_type="siglip_vision_model", image_size=rng.choice([28, 56]), patch_size=7, vision_use_head=False
    )


def llava(rng: random.Random) -> Config:
    """LLaVA on CLIP, over Llama, Mistral or Qwen."""
    text = base(rng) | {"model_type": rng.choice(["llama", "mistral", "qwen2"])}
    return {"vision_config": clip(rng), "text_config": text, "image_token_index": 3, "image_token_id": 3}


def gemma3(rng: random.Random) -> Config:
    """Gemma 3 with windows."""
    text = base(rng) | {"head_dim": rng.choice([8, 18]), "pad_token_id": 0} | sliding(rng)
    text["layer_types"] = text["layer_types"][: text["num_hidden_layers"]]
    return {"vision_config": siglip(rng), "text_config": text, "mm_tokens_per_image": 4, "image_token_index": 3}


def paligemma(rng: random.Random) -> Config:
    """PaliGemma on Gemma."""
    text = base(rng) | {"model_type": "gemma", "head_dim": rng.choice([8, 18]), "pad_token_id": 0}
    return {
        "vision_config": siglip(rng) | {"image_size": 28}, "text_config": text, "image_token_index": 3,
        "projection_dim": text["hidden_size"],
    }  # fmt: skip


def paligemma2(rng: random.Random) -> Config:
    """PaliGemma on Gemma 2: windows, scores and logits that are bounded."""
    raw = paligemma(rng)
    text = raw["text_config"] | {"model_type": "gemma2", "query_pre_attn_scalar": 16} | sliding(rng)
    text["layer_types"] = text["layer_types"][: text["num_hidden_layers"]]
    return raw | {"model_type": "paligemma", "text_config": text}


def qwen_text(rng: random.Random) -> Config:
    """A Qwen text model whose heads' channels are shared out between time, height and width."""
    size = rng.choice([12, 24])
    heads = rng.choice([2, 4])
    section = [size // 4, size // 8, size // 2 - size // 4 - size // 8]
    raw = base(rng) | {
        "hidden_size": heads * size, "num_attention_heads": heads, "num_key_value_heads": 2, "head_dim": size,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": section},
    }  # fmt: skip
    return raw


def windowed(rng: random.Random) -> Config:
    """Windows from the second layer on, now and then."""
    if rng.random() < 0.6:
        return {}
    return {"use_sliding_window": True, "sliding_window": rng.choice([8, 30]), "max_window_layers": 1}


def qwen2_vl(rng: random.Random) -> Config:
    """Qwen2-VL."""
    text = qwen_text(rng) | windowed(rng)
    heads = rng.choice([2, 3])
    vision = {
        "embed_dim": heads * 16, "num_heads": heads, "depth": 2, "patch_size": 8, "mlp_ratio": 2,
        "hidden_size": text["hidden_size"],
    }  # fmt: skip
    return {"vision_config": vision, "text_config": text, "image_token_id": 3}


def qwen2_5_vl(rng: random.Random) -> Config:
    """Qwen2.5-VL."""
    text = qwen_text(rng) | windowed(rng)
    heads = rng.choice([2, 3])
    vision = {
        "hidden_size": heads * 16, "num_heads": heads, "depth": 2, "patch_size": 8,
        "intermediate_size": rng.choice([24, 40]), "window_size": 32, "fullatt_block_indexes": [1],
        "out_hidden_size": text["hidden_size"],
    }  # fmt: skip
    return {"vision_config": vision, "text_config": text, "image_token_id": 3}


def qwen3_vl(rng: random.Random) -> Config:
    """Qwen3-VL."""
    text = qwen_text(rng)
    heads = rng.choice([2, 3])
    vision = {
        "hidden_size": heads * 16, "num_heads": heads, "depth": 2, "patch_size": 32,
        "intermediate_size": rng.choice([24, 40]), "out_hidden_size": text["hidden_size"],
        "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    return {"vision_config": vision, "text_config": text, "image_token_id": 3}


def mllama(rng: random.Random) -> Config:
    """Llama 3.2 Vision, of one or two layers that attend to images."""
    text = base(rng) | {"num_hidden_layers": 3, "cross_attention_layers": rng.choice([[1], [1, 2]]), "dropout": 0.0}
    text["num_key_value_heads"] = min(2, text["num_attention_heads"])
    text.pop("tie_word_embeddings", None)
    heads = rng.choice([2, 3])
    width, taken = heads * 16, rng.choice([[0], [0, 1]])
    vision = {
        "hidden_size": width, "intermediate_size": rng.choice([24, 40]), "num_hidden_layers": 2,
        "num_global_layers": 1, "attention_heads": heads, "image_size": rng.choice([24, 32]), "patch_size": 8,
        "intermediate_layers_indices": taken, "vision_output_dim": width * (1 + len(taken)),
        "max_num_tiles": 2, "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
    }  # fmt: skip
    return {"vision_config": vision, "text_config": text, "image_token_index": 3}


def pixtral(rng: random.Random) -> Config:
    """LLaVA on Pixtral's tower, over Mistral or Qwen."""
    vision = vit(rng, model_type="pixtral", image_size=60, patch_size=rng.choice([12, 15]), hidden_act="silu")
    text = base(rng) | {"model_type": rng.choice(["mistral", "qwen2"])}
    return {
        "model_type": "llava", "vision_config": vision, "text_config": text, "image_token_index": 3,
        "vision_feature_layer": rng.choice([-1, -2]), "vision_feature_select_strategy": "full",
    }  # fmt: skip


def idefics3(rng: random.Random) -> Config:
    """Idefics 3 or SmolVLM, whose tiles are four tokens."""
    heads, patch, scale = rng.choice([2, 3]), rng.choice([4, 6]), rng.choice([2, 3])
    vision = {
        "hidden_size": heads * 16, "intermediate_size": rng.choice([24, 40]), "num_hidden_layers": 2,
        "num_attention_heads": heads, "image_size": patch * 2 * scale, "patch_size": patch,
    }  # fmt: skip
    text = base(rng) | {"model_type": "llama"}
    return {"vision_config": vision, "text_config": text, "image_token_id": 3, "scale_factor": scale}


def mistral3(rng: random.Random) -> Config:
    """Mistral 3: Pixtral's tower, whose patches are merged."""
    vision = vit(rng, model_type="pixtral", image_size=64, patch_size=rng.choice([6, 8]))
    text = base(rng) | {"model_type": "mistral"}
    return {"vision_config": vision, "text_config": text, "image_token_index": 3}


KINDS = {
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "llava": llava,
    "llava_next": llava,
    "gemma3": gemma3,
    "paligemma": paligemma,
    "mllama": mllama,
    "pixtral": pixtral,
    "mistral3": mistral3,
    "paligemma2": paligemma2,
    "idefics3": idefics3,
    "smolvlm": idefics3,
}


def config(rng: random.Random, kind: str) -> Config:
    """A tiny model."""
    return {"model_type": kind, **KINDS[kind](rng), "tie_word_embeddings": rng.random() < 0.4}


# Kinds that are played with images, those first that were played first: what is drawn for a kind stays what it was.
SEEING = (
    "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava", "gemma3", "paligemma", "mllama", "pixtral", "mistral3", "paligemma2",
    "idefics3", "smolvlm",
)  # fmt: skip
TILED = ("idefics3", "smolvlm")  # of whose images there are many tokens
NEVER_TEXT = ("paligemma", "paligemma2")  # whose processors take no text alone


def seeing(rng: random.Random, drawn: TrainJob, images: int) -> TrainJob:
    """A job with images, the tower frozen or not."""
    free = {"padding": False, "packing": False, "use_cache": False}
    size = rng.choice(["40x90", "60x60", "64x48"])  # of 15 or 16 tokens
    return replace(
        drawn,
        seq_len=100,
        batch=min(drawn.batch, 2),
        accumulation=min(drawn.accumulation, 2),
        images=images,
        image_size=size,
        freeze_vision=rng.random() < 0.4,
        **free,
    )


def job(rng: random.Random, kind: str) -> TrainJob:
    """A job of text alone or of images too; of adapters, on the tower too, now and then."""
    drawn = plain.job(rng, kind)
    if kind in NEVER_TEXT or (kind in SEEING and rng.random() < 0.7):
        drawn = seeing(rng, drawn, rng.choice([1, 2]))
        drawn = replace(drawn, seq_len=200) if kind in TILED else drawn
    if rng.random() < 0.6:
        return drawn
    return replace(drawn, method="lora", targets=rng.choice(["all-linear", "q_proj,v_proj"]), rank=4)


def infer_job(rng: random.Random, kind: str) -> InferJob:
    """A prefill of text alone, and a few tokens."""
    return plain.infer_job(rng)


def seeing_infer_job(rng: random.Random, cache: Literal["dynamic", "static"]) -> InferJob:
    """A prefill of text and two images, and two tokens."""
    attention: Literal["math", "eager"] = rng.choice(["math", "eager"])
    return InferJob(2, 120, 2, attention=attention, cache=cache, images=2, image_size="40x56")


def grid(seed: int = 20261126) -> Iterator[tuple[Config, TrainJob | InferJob]]:
    """A training step of each kind, with images where it is played with them, and inference of every other."""
    rng = random.Random(seed)
    for index, kind in enumerate(KINDS):
        drawn = job(rng, kind)
        yield config(rng, kind), drawn
        if index % 2 and kind not in NEVER_TEXT:
            yield config(rng, kind), infer_job(rng, kind)
        if kind in SEEING and not drawn.images:
            yield config(rng, kind), seeing(rng, drawn, 1 + index % 2)
    for kind in SEEING:
        yield config(rng, kind), seeing_infer_job(rng, "static" if kind == "qwen2_vl" else "dynamic")
