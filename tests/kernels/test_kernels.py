"""Fused kernels: the tape's events equal those of the libraries' own code, launches left out."""

from __future__ import annotations

import json
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, get_args

import pytest

from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.job_words import Kernels
from oomph.kernels import KERNELS, with_kernels
from oomph.methods import adapted, trainable_params
from oomph.steps import step
from tests.tape.golden import estimated, read, traced

GOLDEN = Path(__file__).parent / "golden.json"
RECIPE = (
    "pip install --no-deps liger-kernel==0.8.5 fms-acceleration-foak==0.7.4 unsloth==2026.10.9 "
    "unsloth_zoo==2026.10.9 axolotl==0.19.0 "
    "beside oomph[test], then python -m tests.tape.golden tests.kernels.test_kernels"
)
SIZES: dict[str, Any] = {
    "vocab_size": 515, "num_hidden_layers": 2, "hidden_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "max_position_embeddings": 128, "head_dim": 16, "pad_token_id": 0,
}  # fmt: skip
WINDOWS = {"layer_types": ["sliding_attention"] * 2, "sliding_window": 16}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16}
QLORA = {"method": "qlora", "kbit_preparation": True}
LIGER, FOAK = {"kernels": "liger"}, {"kernels": "foak"}
FOAK_QLORA = FOAK | {
    "method": "lora", "quantization": "nf4-dq", "autocast": True, "targets": "q_proj,k_proj,v_proj,o_proj",
}  # fmt: skip
UNSLOTH = {"kernels": "unsloth", "targets": "all-linear"}
AXOLOTL = {"kernels": "axolotl", "method": "lora", "targets": "all-linear"}
AXOLOTL_QLORA = AXOLOTL | {"quantization": "nf4-dq", "autocast": True, "fp32_outputs": True}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
WIDE = {"vocab_size": 40001, "hidden_size": 512, "max_position_embeddings": 131072, "num_hidden_layers": 3}
NOTEBOOK = UNSLOTH | {
    "method": "qlora", "checkpointing": "unsloth", "loss": "unsloth", "autocast": True, "hold_logits": False,
}  # fmt: skip
TOWER = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 2, "image_size": 32, "patch_size": 8}  # fmt: skip
PIXTRAL = {"model_type": "pixtral", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
           "num_attention_heads": 2, "head_dim": 16, "image_size": 32, "patch_size": 8}  # fmt: skip
# One job of each other type that axolotl patches: what is its layer's own, not a tower's or a shared expert's.
AXOLOTL_TYPES: dict[str, dict[str, Any]] = {
    "arcee": {}, "cohere2": {}, "cwm": {}, "ernie4_5": {}, "exaone4": {}, "glm": {}, "glm4": {}, "granite": {},
    "helium": {"head_dim": 12}, "hunyuan_v1_dense": {}, "hyperclovax": {}, "ministral": {}, "ministral3": {},
    "nemotron": {}, "seed_oss": {}, "smollm3": {}, "starcoder2": {}, "vaultgemma": {},
    "mixtral": {"num_local_experts": 4}, "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "granitemoeshared": {"num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 32},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "layer_types": SLIDING["layer_types"]},
    "qwen2_moe": EXPERTS | {"shared_expert_intermediate_size": 64, "mlp_only_layers": [0]},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 1,
              "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "norm_topk_prob": True},
    "ernie4_5_moe": {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32, "moe_num_shared_experts": 1,
                     "moe_layer_start_index": 1},
    "hunyuan_v1_moe": {"num_experts": 4, "moe_topk": 2, "moe_intermediate_size": [32, 32],
                       "num_shared_expert": [1, 1]},
    "solar_open": {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 1,
                   "n_group": 1, "topk_group": 1},
    "qwen3_next": EXPERTS | {
        "shared_expert_intermediate_size": 32, "layer_types": ["linear_attention", "full_attention"],
        "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    },
}  # fmt: skip
AXOLOTL_TOWERS: dict[str, dict[str, Any]] = {
    "gemma3": {"text_config": SIZES | {"model_type": "gemma3_text"}, "vision_config": TOWER, "mm_tokens_per_image": 16,
               "image_token_index": 3},
    "mistral3": {"text_config": SIZES | {"model_type": "mistral"}, "vision_config": PIXTRAL, "image_token_index": 3},
    "qwen3_vl": {
        "text_config": SIZES | {"model_type": "qwen3_vl_text", "rope_scaling": {"rope_type": "default",
                                                                                "mrope_section": [4, 2, 2]}},
        "vision_config": {"hidden_size": 32, "num_heads": 2, "depth": 2, "patch_size": 32, "intermediate_size": 24,
                          "out_hidden_size": 48, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
        "image_token_id": 3,
    },
}  # fmt: skip
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (SIZES | {"model_type": model_type} | more, {"batch": 2, "seq_len": 37} | job)
    for model_type, more, job in (
        ("llama", {}, LIGER),
        ("llama", {}, LIGER | QLORA | {"attention": "efficient"}),
        ("mistral", {}, LIGER | {"precision": "amp-bf16", "checkpointing": "non-reentrant", "accumulation": 2}),
        ("qwen2", {}, LIGER | {"attention": "eager", "padding": True}),
        ("qwen3", {}, LIGER | {"method": "lora", "targets": "all-linear", "checkpointing": "non-reentrant"}),
        ("gemma", {}, LIGER | {"checkpointing": "reentrant"}),
        ("gemma2", SLIDING, LIGER),
        (
            "gemma3_text",
            {"layer_types": ["sliding_attention"] * 2, "sliding_window": 16},
            LIGER | {"checkpointing": "reentrant", "attention": "math"},
        ),
        ("phi3", {}, LIGER | {"checkpointing": "non-reentrant"}),
        ("glm4", {"partial_rotary_factor": 0.5}, LIGER),
        ("granite", {}, LIGER | {"precision": "fp32"}),
        ("smollm3", {}, LIGER | {"packing": True}),
        ("olmo2", {}, LIGER | {"autocast": True, "method": "lora", "targets": "all-linear"}),
        ("exaone4", {}, LIGER),
        ("llama", {}, FOAK),
        ("mistral", {}, FOAK | {"checkpointing": "reentrant", "method": "lora", "targets": "q_proj,o_proj"}),
        ("granite", {}, FOAK | {"precision": "amp-bf16", "checkpointing": "non-reentrant"}),
        ("llama", {}, FOAK_QLORA),
        ("llama", {}, FOAK_QLORA | {"adapter_dropout": 0.1, "checkpointing": "reentrant", "loss": "fused-4.45"}),
        ("mistral", {}, FOAK_QLORA | {"adapter_dropout": 0.1, "targets": "q_proj,v_proj,o_proj", "attention": "math"}),
        ("granite", {}, FOAK_QLORA | {"adapter_dropout": 0.1, "checkpointing": "non-reentrant"}),
        ("llama", {}, UNSLOTH | {"method": "lora"}),
        ("llama", {}, UNSLOTH | {"method": "qlora", "checkpointing": "non-reentrant"}),
        ("mistral", {}, UNSLOTH | {"method": "qlora", "autocast": True, "fp32_outputs": True}),
        ("mistral", {}, UNSLOTH | {"method": "lora", "adapter_dtype": "base", "attention": "math"}),
        ("qwen2", {}, UNSLOTH | {"method": "lora", "quantization": "nf4", "checkpointing": "reentrant"}),
        ("qwen3", {}, UNSLOTH | {"method": "qlora", "checkpointing": "non-reentrant"}),
        ("qwen3", {}, UNSLOTH | {"method": "lora", "targets": "q_proj,v_proj,down_proj", "loss": "unsloth"}),
        ("mistral", {}, UNSLOTH | {"method": "lora", "attention": "efficient", "padding": True}),  # xformers
        ("llama", {"max_position_embeddings": 40000}, UNSLOTH | {"method": "lora", "packing": True, "batch": 1}),
        ("qwen3", {}, NOTEBOOK | {"packing": True, "checkpointing": "non-reentrant"}),
        ("llama", WIDE, NOTEBOOK | {"seq_len": 2048}),  # logits in chunks
        ("qwen3", WIDE, NOTEBOOK | {"seq_len": 2500, "accumulation": 2}),  # in tiles
        ("llama", {}, UNSLOTH | {"method": "lora", "targets": "q_proj,v_proj,o_proj,up_proj"}),
        ("llama", {}, AXOLOTL),
        ("llama", {}, AXOLOTL_QLORA),
        ("llama", {}, AXOLOTL | {"adapter_dropout": 0.1, "checkpointing": "non-reentrant"}),
        ("llama", {}, AXOLOTL | {"targets": "gate_proj,up_proj,down_proj"}),
        ("mistral", {}, AXOLOTL_QLORA | {"quantization": "nf4", "adapter_dropout": 0.1, "checkpointing": "reentrant"}),
        ("qwen2", {}, AXOLOTL_QLORA | {"checkpointing": "non-reentrant", "accumulation": 2}),
        ("qwen2", {}, AXOLOTL | {"precision": "fp32", "targets": "q_proj,k_proj,v_proj", "padding": True}),
        ("qwen3", {}, AXOLOTL | {"adapter_dtype": "base", "adapter_dropout": 0.1, "attention": "efficient"}),
        ("qwen3", {}, AXOLOTL | {"targets": "q_proj,v_proj,o_proj,up_proj", "checkpointing": "reentrant"}),
        (
            "llama",
            {},
            AXOLOTL_QLORA | {"packing": True, "padding_free": True, "attention": "flash_attention_2"},
        ),
        ("gemma", {}, AXOLOTL),
        ("gemma2", SLIDING, AXOLOTL | {"adapter_dropout": 0.1}),
        ("gemma3_text", {"layer_types": ["sliding_attention"] * 2, "sliding_window": 16}, AXOLOTL),
        ("qwen3_moe", EXPERTS, AXOLOTL),
        *((name, more, AXOLOTL) for name, more in AXOLOTL_TYPES.items()),
        ("llama", {}, LIGER | {"kernel_parts": "norm,glu"}),
        ("qwen3", {}, LIGER | {"kernel_parts": "norm"}),
        ("gemma2", SLIDING, LIGER | {"kernel_parts": "rope,glu", "checkpointing": "non-reentrant"}),
        ("llama", {}, AXOLOTL | {"kernel_parts": "rope,norm,glu"}),  # Liger's beside all of axolotl's, rope in vain
        ("qwen3", {}, AXOLOTL_QLORA | {"kernel_parts": "norm,glu", "checkpointing": "non-reentrant"}),
        ("llama", {}, AXOLOTL | {"kernel_parts": "norm,glu", "targets": "q_proj,v_proj,o_proj"}),
        ("llama", {}, AXOLOTL | {"kernel_parts": "qkv,o"}),
        ("qwen3", {}, AXOLOTL | {"kernel_parts": "mlp,glu", "adapter_dropout": 0.1}),
        ("mistral", {}, AXOLOTL_QLORA | {"kernel_parts": "o"}),
        ("gemma3_text", WINDOWS, AXOLOTL | {"kernel_parts": "qkv,norm"}),
    )
] + [
    ({"model_type": name} | more, {"batch": 2, "seq_len": 37} | AXOLOTL_QLORA | {"checkpointing": "non-reentrant"})
    for name, more in AXOLOTL_TOWERS.items()
]
PACKAGES = {"liger": "liger_kernel", "foak": "fms_acceleration_foak", "unsloth": "unsloth", "axolotl": "axolotl"}


@pytest.mark.parametrize(("raw", "job", "said"), read(GOLDEN), ids=[f"{i}" for i in range(len(CASES))])
def test_every_event_equals_the_recorded_one(raw: dict[str, Any], job: TrainJob, said: dict[str, Any]) -> None:
    """The same allocations and frees in the same order as the real code's, recorded with the packages."""
    assert estimated(raw, job) == said


@pytest.mark.slow
def test_the_record_is_what_the_packages_do() -> None:
    """Where a package is installed, its code says again what was recorded."""
    for raw, job, said in read(GOLDEN):
        if PathFinder.find_spec(PACKAGES[job.kernels]) is not None:
            assert traced(raw, job) == said, (raw["model_type"], job.kernels)


def test_the_record_is_of_these_cases() -> None:
    """Nothing is compared that is not written down here."""
    rows = json.loads(GOLDEN.read_text(encoding="utf-8"))["rows"]
    assert [[row["config"], row["job"]] for row in rows] == json.loads(json.dumps(CASES))


def test_every_kernel_that_can_be_asked_for_is_a_file() -> None:
    """What a job names can be played."""
    assert set(get_args(Kernels)) == {"torch", *KERNELS}


def test_kernels_take_less_than_what_they_replace() -> None:
    """Norms keep no fp32 copies, activations no product of theirs."""
    model = model_from_config(SIZES | {"model_type": "llama"})
    peaks = {
        kernels: int(step(model, TrainJob(2, 128, kernels=kernels)).peak) for kernels in ("torch", "foak", "liger")
    }
    assert peaks["liger"] < peaks["foak"] < peaks["torch"]


def test_scales_of_norms_do_not_train_with_foak() -> None:
    """Its norm hands no gradient to the scale: two norms a layer and the last one."""
    model = model_from_config(SIZES | {"model_type": "llama"})
    assert trainable_params(model, TrainJob()) - trainable_params(model, TrainJob(kernels="foak")) == 5 * 48


def test_unsloth_repeats_key_heads_for_xformers_alone() -> None:
    """flash-attn shares key heads; xformers' copies stay as long as what attention saved."""
    model = model_from_config(SIZES | {"model_type": "llama"})
    peaks = [
        int(step(model, TrainJob(2, 128, method="lora", attention=kernel, **UNSLOTH)).peak)
        for kernel in ("flash", "efficient")
    ]
    assert peaks[0] < peaks[1]


def test_what_is_not_patched_is_refused_by_name() -> None:
    """A type that a library does not know, and what its kernels cannot do."""
    with pytest.raises(UnsupportedError, match="Liger's kernels in gpt2"):
        with_kernels(model_from_config(SIZES | {"model_type": "gpt2"}), "liger")
    with pytest.raises(UnsupportedError, match="not of gpt2"):
        with_kernels(model_from_config(SIZES | {"model_type": "gpt2"}), "unsloth")
    with pytest.raises(UsageError, match="whole models"):
        TrainJob(kernels="unsloth")
    with pytest.raises(UsageError, match="one row of positions"):
        TrainJob(batch=2, packing=True, kernels="foak")
    with pytest.raises(UsageError, match="quantised scales"):
        adapted(model_from_config(SIZES | {"model_type": "llama"}), TrainJob(kernels="foak", method="qlora"))
    with pytest.raises(UnsupportedError, match="fused MLP"):
        adapted(model_from_config(SIZES | {"model_type": "llama"}), TrainJob(**FOAK_QLORA | {"targets": "all-linear"}))
    with pytest.raises(UnsupportedError, match="lines in gpt2's attention"):
        with_kernels(model_from_config(SIZES | {"model_type": "gpt2"}), "axolotl")
    with pytest.raises(UnsupportedError, match="knows silu and gelu, not relu"):
        adapted(model_from_config(SIZES | {"model_type": "llama", "hidden_act": "relu"}), TrainJob(**AXOLOTL))
    with pytest.raises(UnsupportedError, match="an input in fp32 under autocast"):
        estimated(SIZES | {"model_type": "arcee"}, TrainJob(**{"seq_len": 8} | AXOLOTL_QLORA))
    for job, words in (
        ({"method": "full"}, "for LoRA"),
        ({"kbit_preparation": True}, "did not prepare"),
        ({"quantization": "int8"}, "bitsandbytes' 4 bits"),
        ({"precision": "amp-bf16"}, "which autocast changes"),
        ({"kernel_parts": "mlp,moe"}, "no part 'moe'. Choose from mlp,qkv,o,rope,norm,glu"),
        ({"kernels": "liger", "kernel_parts": "qkv"}, "no part 'qkv'"),
        ({"kernels": "torch", "kernel_parts": "glu"}, "of --kernels liger and axolotl"),
    ):
        with pytest.raises(UsageError, match=words):
            TrainJob(**{"kernels": "axolotl", "method": "lora", **job})
    with pytest.raises(UsageError, match="copies of norms"):
        TrainJob(method="ln-tuning", kernels="liger")
