"""Packages for layers that keep a state: the tape's events equal those of the packages' own code, launches left out."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import pytest

from oomph.errors import UnsupportedError
from oomph.families import model_from_config
from oomph.job import InferJob, TrainJob
from oomph.play import play, train_step
from oomph.programs.mixer_packages import mixer_note, packed_note
from oomph.steps import step
from tests.tape.golden import estimated, read, traced
from tests.tape.hybrids import deep

GOLDEN = Path(__file__).parent / "mixers.json"
RECIPE = (
    "pip install --no-deps fla-core==0.6.0 and CAUSAL_CONV1D_SKIP_CUDA_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE "
    "pip install --no-deps --no-build-isolation causal-conv1d==1.7.0 beside oomph[test], then "
    "python -m tests.tape.golden tests.kernels.test_mixers"
)
LAYERS = {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]}
SIZES: dict[str, Any] = LAYERS | {
    "vocab_size": 515, "hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 256, "pad_token_id": None,
}  # fmt: skip
DELTA = SIZES | {
    "head_dim": 16, "partial_rotary_factor": 0.5, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 16, "linear_value_head_dim": 8, "linear_conv_kernel_dim": 4, "hidden_act": "silu",
}  # fmt: skip
EXPERTS = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24,
}  # fmt: skip
NEXT = DELTA | EXPERTS | {"model_type": "qwen3_next"}
QWEN = DELTA | {"model_type": "qwen3_5_text"}
MOE = DELTA | EXPERTS | {"model_type": "qwen3_5_moe_text"}
EQUAL = {"linear_num_key_heads": 2, "linear_num_value_heads": 2}
WIDE = {"linear_key_head_dim": 136}  # more than one tile
OLMO = DELTA | EQUAL | {"model_type": "olmo_hybrid", "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
del OLMO["partial_rotary_factor"]
KIMI = SIZES | {
    "model_type": "kimi_linear", "num_key_value_heads": 4, "num_experts": 4, "num_shared_experts": 1, "n_group": 1,
    "topk_group": 1, "num_experts_per_token": 2, "moe_intermediate_size": 24, "first_k_dense_replace": 1,
    "kv_lora_rank": 16, "q_lora_rank": None, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16,
    "linear_num_heads": 2, "linear_head_dim": 40, "linear_conv_kernel_dim": 4, "hidden_act": "silu",
}  # fmt: skip
LFM = SIZES | {"model_type": "lfm2", "layer_types": ["conv", "full_attention"], "conv_L_cache": 3}
NEMOTRON = {
    "model_type": "nemotron_h", "vocab_size": 515, "hidden_size": 48, "intermediate_size": 96, "head_dim": 16,
    "num_attention_heads": 4, "num_key_value_heads": 2, "layers_block_type": ["linear_attention", "mlp"],
    "mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 2, "chunk_size": 32,
    "max_position_embeddings": 256,
}  # fmt: skip
BOTH, CONV = {"mixers": "fla+causal-conv1d"}, {"mixers": "causal-conv1d"}
LORA = BOTH | {"method": "lora", "targets": "all-linear"}
READ = BOTH | {"decode": 2}
TOLD = BOTH | {"batch": 1, "packing": True, "sequences": 3, "packed_by": "lengths"}  # where sequences begin
DEEP = {"num_hidden_layers": 6, "layer_types": ["linear_attention"] * 5 + ["full_attention"]}
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (raw, {"batch": 2, "seq_len": 100} | job)
    for raw, job in (
        (NEXT, BOTH),
        (NEXT, BOTH | {"seq_len": 64, "checkpointing": "reentrant", "padding": True, "accumulation": 2}),
        (NEXT, LORA | {"precision": "amp-bf16", "checkpointing": "non-reentrant"}),
        (NEXT, {"mixers": "fla", "precision": "fp32"}),
        (QWEN, BOTH | {"use_cache": True, "checkpointing": "non-reentrant"}),
        (QWEN, BOTH | {"precision": "amp-bf16", "fp32_outputs": True, "batch": 1, "seq_len": 193}),
        (QWEN, LORA | {"checkpointing": "reentrant", "autocast": True}),
        (QWEN, LORA | {"targets": "q_proj,v_proj"}),
        (QWEN, BOTH | {"method": "qlora", "autocast": True, "checkpointing": "non-reentrant"}),
        (QWEN | EQUAL, BOTH | {"packing": True}),
        (QWEN | WIDE, BOTH | {"precision": "fp16"}),
        (MOE, LORA | {"targets": "in_proj_qkv,out_proj", "adapter_dropout": 0.1}),
        (MOE, CONV),
        (OLMO, BOTH | {"padding": True, "attention": "eager"}),
        (OLMO, LORA | {"autocast": True}),
        (KIMI, BOTH | {"optimizer": "sgd"}),
        (KIMI, BOTH | {"precision": "amp-bf16", "checkpointing": "non-reentrant", "use_cache": True}),
        (KIMI, LORA | {"checkpointing": "reentrant", "padding": True}),
        (KIMI, {"mixers": "fla"}),
        (LFM, CONV | {"padding": True}),
        (LFM | {"conv_bias": True}, CONV | {"precision": "amp-bf16", "checkpointing": "reentrant"}),
        (NEMOTRON, CONV),
        (QWEN, TOLD),
        (QWEN | DEEP, TOLD | {"checkpointing": "non-reentrant", "accumulation": 3}),
        (NEXT, TOLD | {"packing": False, "padding_free": True, "batch": 4, "accumulation": 6}),
        (QWEN, TOLD | {"use_cache": True, "attention": "flash_attention_2"}),
        (OLMO, LORA | TOLD | {"precision": "amp-bf16", "checkpointing": "reentrant", "steady": False}),
        (KIMI, TOLD | {"optimizer": "sgd"}),
        (LFM, TOLD | CONV | {"checkpointing": "non-reentrant"}),
        (NEXT, READ),
        (QWEN, READ | {"padding": True, "batch": 3}),
        (QWEN, {"mixers": "fla", "decode": 1, "precision": "fp32"}),
        (OLMO, READ | {"cache": "none"}),
        (KIMI, READ),
        (KIMI, READ | {"batch": 1, "seq_len": 1}),
        (LFM, CONV | {"decode": 1}),
    )
]
NAMES = {"fla": "fla", "causal-conv1d": "causal_conv1d"}


@pytest.mark.parametrize(("raw", "job", "said"), read(GOLDEN), ids=[f"{i}" for i in range(len(CASES))])
def test_every_event_equals_the_recorded_one(
    raw: dict[str, Any], job: TrainJob | InferJob, said: dict[str, Any]
) -> None:
    """The same allocations and frees in the same order as the real code's, recorded with the packages."""
    assert estimated(raw, job) == said


@pytest.mark.slow
def test_the_record_is_what_the_packages_do() -> None:
    """Where the packages are installed, their code says again what was recorded."""
    for raw, job, said in read(GOLDEN):
        if all(PathFinder.find_spec(NAMES[word]) is not None for word in job.mixers.split("+")):
            assert traced(raw, job) == said, (raw["model_type"], job)


def test_the_record_is_of_these_cases() -> None:
    """Nothing is compared that is not written down here."""
    rows = json.loads(GOLDEN.read_text(encoding="utf-8"))["rows"]
    assert [[row["config"], row["job"]] for row in rows] == json.loads(json.dumps(CASES))


@pytest.mark.parametrize("name", ["qwen3_next", "olmo_hybrid", "kimi_linear"])
def test_a_folded_step_is_the_step_played_in_full(name: str) -> None:
    """Of a model with periods of layers, and with other numbers than those it was played with."""
    for layers, seq_len, told in ((8, 100, {}), (12, 300, {}), (12, 700, TOLD)):
        model = model_from_config(deep(name, layers))
        asked = TrainJob(
            **{"batch": 2, "seq_len": seq_len, "optimizer": "sgd", "checkpointing": "reentrant"} | BOTH | told
        )
        assert step(model, asked).peak == train_step(model, asked).peak


@pytest.mark.parametrize("raw", [NEXT, QWEN, OLMO, KIMI])
def test_packages_take_less_than_torch(raw: dict[str, Any]) -> None:
    """Of both, and of each alone."""
    model, asked = model_from_config(raw), TrainJob(2, 256, optimizer="sgd")
    peaks = {
        mixers: int(step(model, replace(asked, mixers=mixers)).peak)
        for mixers in ("torch", "fla", "causal-conv1d", "fla+causal-conv1d")
    }
    assert peaks["fla+causal-conv1d"] <= peaks["fla"] < peaks["torch"]
    assert peaks["causal-conv1d"] <= peaks["torch"]


def test_sequences_are_as_long_as_they_are_asked_for() -> None:
    """Chunks of the package are tensors, not turns of a loop, so that none are too many."""
    model = model_from_config(QWEN)
    long = TrainJob(1, 65536, mixers="fla", optimizer="sgd")
    assert step(model, long).peak > step(model, replace(long, seq_len=32768)).peak
    with pytest.raises(UnsupportedError, match="delta rule of up to"):
        play(model, replace(long, mixers="torch"))


def test_what_the_packages_do_not_compute_is_refused_by_name() -> None:
    """A class that asks for none of them, or for one alone, and convolutions that are too wide."""
    llama = {**SIZES, "model_type": "llama", "pad_token_id": 0}
    del llama["layer_types"]
    for raw, mixers, words in (
        (llama, "fla", "no flash-linear-attention"),
        (LFM, "fla+causal-conv1d", "no flash-linear-attention"),
        (QWEN | {"linear_conv_kernel_dim": 5}, "causal-conv1d", "2 to 4 places"),
        (QWEN | {"linear_key_head_dim": 264}, "fla", "up to 256 places"),
    ):
        model = model_from_config(raw)
        with pytest.raises(UnsupportedError, match=words):
            play(model, TrainJob(mixers=mixers))
        with pytest.raises(UnsupportedError, match=words):
            play(model, InferJob(mixers=mixers))


def test_an_answer_names_the_option_where_packages_could_run() -> None:
    """What is missing, and how it is said."""
    (torch_alone,) = mixer_note(model_from_config(QWEN), "torch")
    assert "flash-linear-attention and causal-conv1d" in torch_alone
    assert "--mixers fla+causal-conv1d" in torch_alone
    (half,) = mixer_note(model_from_config(QWEN), "fla")
    assert "the package causal-conv1d is" in half
    assert mixer_note(model_from_config(QWEN), "fla+causal-conv1d") == ()
    (mamba,) = mixer_note(model_from_config(NEMOTRON), "torch")
    assert "--mixers mamba-ssm+causal-conv1d" in mamba


def test_a_class_that_does_not_tell_its_delta_rule_where_sequences_begin_is_named() -> None:
    """Kimi's hands it no cu_seq_lens; delta nets are told."""
    asked = TrainJob(**TOLD)
    assert "not its delta rule" in packed_note(model_from_config(KIMI), asked)[0]
    assert packed_note(model_from_config(QWEN), asked) == ()
    assert packed_note(model_from_config(KIMI), replace(asked, packed_by="positions")) == ()
