"""What each family's model class does that no block tells: its masks, its layer's forward, the order of arguments.

Source: transformers 5.23, models/<type>/modeling_<type>.py, FooModel.forward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from oomph.programs import layers
from oomph.tape.sym import Sym

Norms = tuple[str, str, str, str]
PRE: Norms = ("input_layernorm", "", "post_attention_layernorm", "")
POST: Norms = ("", "post_attention_layernorm", "", "post_feedforward_layernorm")
SANDWICH: Norms = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


@dataclass(frozen=True)
class Frame:
    """How a family's model is put together around its blocks.

    `norms` are the names of those before and after attention, before and after the MLP, "" where there is none.
    `masks`: "one" for all layers; "both", full and sliding whatever the layers are; "full first", sliding only if a
    layer is; "as a set", one for each kind of layer, in the order of a set of their names. `captured`: the arguments of
    masks are in a closure, which dies after the frame's locals.
    `cache_first`: the cache is made before tokens are embedded. `ids_first`: layers are handed position_ids before
    position_embeddings, `rotary_first` these before the mask. `scaled`: embeddings and what is added to the
    residual are multiplied by numbers, with `scaled_late` embeddings after the masks are made. `tables` of the
    rotary embedding: "complex" numbers, "halves" as wide, or of three positions, "sections" joined or "interleaved";
    "anew", of frequencies made in each forward pass.
    `sdpa`: whether the class can use it. `packs`: masks are told the positions, `chunked`: their windows are chunks;
    `normed_first`: the last norm stands before the first layer too. `hands_positions`: layers are told them though
    masks are not.
    """

    layer: Callable[..., Sym] = layers.residual
    norms: Norms = PRE
    masks: Literal["one", "both", "full first", "as a set"] = "one"
    captured: bool = False
    cache_first: bool = False
    ids_first: bool = False
    rotary_first: bool = False
    scaled: bool = False
    scaled_late: bool = False
    tables: Literal["", "complex", "halves", "sections", "interleaved", "anew"] = ""
    sdpa: bool = True
    packs: bool = True
    hands_positions: bool = False
    chunked: bool = False
    normed_first: bool = False


LLAMA = Frame()
MISTRAL = Frame(ids_first=True)
QWEN = Frame(masks="full first")
QWEN_VL = Frame(masks="full first", cache_first=True, tables="sections", packs=False)
QWEN3_VL = Frame(cache_first=True, ids_first=True, tables="interleaved")
DEEPSEEK = Frame(rotary_first=True)
GLM4 = ("input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm")
GRANITE_MOE = replace(DEEPSEEK, cache_first=True, scaled=True, scaled_late=True)
LAGUNA = Frame(masks="as a set", captured=True)
GEMMA2 = Frame(norms=SANDWICH, masks="both", sdpa=False)

AFMOE: Norms = ("input_layernorm", "post_attention_layernorm", "pre_mlp_layernorm", "post_mlp_layernorm")

FRAMES: dict[str, Frame] = {
    "afmoe": Frame(norms=AFMOE, masks="both", cache_first=True, ids_first=True, packs=False, hands_positions=True),
    "axk1": DEEPSEEK,
    "apertus": Frame(norms=("attention_layernorm", "", "feedforward_layernorm", "")),
    "arcee": LLAMA,
    "bitnet": LLAMA,
    "cohere": Frame(layer=layers.parallel),
    "cohere2": Frame(layer=layers.parallel, masks="both"),
    "cwm": Frame(masks="both", ids_first=True),
    "deepseek_v2": replace(DEEPSEEK, tables="complex"),
    "deepseek_v3": DEEPSEEK,
    "dots1": Frame(captured=True),
    "ernie4_5": LLAMA,
    "ernie4_5_moe": replace(DEEPSEEK, cache_first=True),
    "exaone_moe": LAGUNA,
    "exaone4": Frame(norms=POST, masks="full first", ids_first=True),
    "flex_olmo": Frame(norms=POST, cache_first=True),
    "gemma": MISTRAL,
    "gemma2": GEMMA2,
    "gemma3_text": replace(GEMMA2, sdpa=True),
    "glm": LLAMA,
    "glm4": Frame(norms=GLM4),
    "glm4_moe": replace(DEEPSEEK, cache_first=True),
    "glm4v_text": Frame(
        norms=GLM4, masks="full first", cache_first=True, ids_first=True, tables="sections", packs=False
    ),
    "glm4v_moe_text": Frame(
        masks="full first",
        cache_first=True,
        ids_first=True,
        rotary_first=True,
        tables="sections",
        packs=False,
        hands_positions=True,
    ),
    "glm4_moe_lite": replace(DEEPSEEK, cache_first=True),
    "gpt_oss": Frame(masks="full first", cache_first=True, tables="halves", sdpa=False, packs=False),
    "granite": Frame(ids_first=True, scaled=True),
    "granitemoe": GRANITE_MOE,
    "granitemoeshared": replace(GRANITE_MOE, layer=layers.granite_shared),
    "helium": LLAMA,
    "hunyuan_v1_dense": LLAMA,
    "hunyuan_v1_moe": replace(DEEPSEEK, cache_first=True),
    "hy_v3": Frame(cache_first=True, ids_first=True),
    "hyperclovax": Frame(
        norms=("input_layernorm", "post_norm1", "post_attention_layernorm", "post_norm2"), ids_first=True, scaled=True
    ),
    "internlm3": LLAMA,
    "iquestcoder": LLAMA,
    "jais2": LLAMA,
    "kimi_k2": DEEPSEEK,
    "laguna": LAGUNA,
    "llama": LLAMA,
    "llama4_text": Frame(layer=layers.llama4, masks="both", ids_first=True, tables="complex", chunked=True),
    "mimo_v2_flash": replace(LAGUNA, sdpa=False),
    "mellum": Frame(masks="as a set", captured=True),
    "mimo": QWEN,
    "minimax_m2": Frame(cache_first=True, ids_first=True),
    **dict.fromkeys(("minimax_m3", "minimax_m3_vl_text"), MISTRAL),
    "ministral": Frame(masks="both", ids_first=True),
    "ministral3": MISTRAL,
    "mistral": MISTRAL,
    "mistral4": replace(DEEPSEEK, cache_first=True),
    "mixtral": Frame(cache_first=True, ids_first=True),
    "nanochat": Frame(normed_first=True),
    "nemotron": MISTRAL,
    "olmo": LLAMA,
    "olmo2": Frame(norms=POST),
    "olmo3": Frame(norms=POST, masks="both", ids_first=True),
    "olmoe": DEEPSEEK,
    "phi3": MISTRAL,
    "phimoe": Frame(cache_first=True, ids_first=True, tables="anew"),
    "qwen2": QWEN,
    "qwen2_moe": Frame(masks="both", ids_first=True),
    "qwen2_vl_text": QWEN_VL,
    "qwen2_5_vl_text": QWEN_VL,
    "qwen2_5_omni_text": QWEN_VL,
    "qwen3": QWEN,
    "qwen3_vl_text": QWEN3_VL,
    "qwen3_vl_moe_text": QWEN3_VL,
    "qwen3_omni_moe_text": QWEN3_VL,
    "qwen3_moe": Frame(cache_first=True, ids_first=True),
    "seed_oss": LLAMA,
    "smollm3": QWEN,
    "solar_open": replace(DEEPSEEK, cache_first=True),
    "stablelm": Frame(layer=layers.stablelm, ids_first=True),
    "starcoder2": MISTRAL,
    "step3p5": Frame(masks="both"),
    "youtu": DEEPSEEK,
    "vaultgemma": replace(GEMMA2, norms=("input_layernorm", "", "pre_feedforward_layernorm", "")),
}
