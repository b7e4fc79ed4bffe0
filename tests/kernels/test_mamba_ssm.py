"""The package mamba-ssm: the tape's events equal those of its own Python code, kernels left out."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import pytest

from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import InferJob, TrainJob
from oomph.play import play, train_step
from oomph.programs.mixer_packages import mixer_note
from oomph.steps import step
from tests.tape.golden import estimated, read, traced

GOLDEN = Path(__file__).parent / "mamba_ssm.json"
RECIPE = (
    "MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE CAUSAL_CONV1D_SKIP_CUDA_BUILD=TRUE "
    "CAUSAL_CONV1D_FORCE_BUILD=TRUE pip install --no-deps --no-build-isolation mamba-ssm==2.3.2.post1 "
    "causal-conv1d==1.7.0 einops==0.8.2 beside oomph[test], then "
    "python -m tests.tape.golden tests.kernels.test_mamba_ssm"
)
SIZES: dict[str, Any] = {"vocab_size": 515, "hidden_size": 48, "num_hidden_layers": 2, "pad_token_id": 0}
MAMBA = SIZES | {"model_type": "mamba", "state_size": 16, "conv_kernel": 4, "expand": 2, "time_step_rank": 3}
FALCON = MAMBA | {"model_type": "falcon_mamba"}
ATTENTION = SIZES | {
    "intermediate_size": 72, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3,
    "max_position_embeddings": 256,
}  # fmt: skip
JAMBA = ATTENTION | {
    "model_type": "jamba", "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_dt_rank": 4,
    "attn_layer_period": 3, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
    "num_experts": 2, "num_experts_per_tok": 1,
}  # fmt: skip
ZAMBA = ATTENTION | {
    "model_type": "zamba", "attention_hidden_size": 96, "num_key_value_heads": 4, "n_mamba_heads": 2,
    "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_dt_rank": 4,
    "layers_block_type": ["hybrid", "linear_attention", "hybrid"],
}  # fmt: skip
MAMBA2 = SIZES | {
    "model_type": "mamba2", "hidden_size": 64, "state_size": 16, "conv_kernel": 4, "expand": 2, "num_heads": 8,
    "head_dim": 16, "n_groups": 2, "chunk_size": 16,
}  # fmt: skip
HEADS = {
    "hidden_size": 64, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 16,
    "mamba_d_conv": 4, "mamba_expand": 2, "mamba_chunk_size": 32,
}  # fmt: skip
BAMBA = ATTENTION | HEADS | {"model_type": "bamba", "attn_layer_indices": [1]}
GRANITE = ATTENTION | HEADS | {
    "model_type": "granitemoehybrid", "layer_types": ["mamba", "attention", "mamba"], "num_local_experts": 4,
    "num_experts_per_tok": 2, "shared_intermediate_size": 40,
}  # fmt: skip
NEMOTRON = ATTENTION | {
    "model_type": "nemotron_h", "layers_block_type": ["linear_attention", "mlp", "full_attention"], "head_dim": 16,
    "mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 4, "chunk_size": 32,
}  # fmt: skip
ZAMBA2 = ATTENTION | {
    "model_type": "zamba2", "hidden_size": 64, "num_key_value_heads": 4, "n_mamba_heads": 8, "mamba_ngroups": 2,
    "mamba_d_state": 8, "mamba_headdim": 16, "mamba_d_conv": 4, "num_mem_blocks": 1, "adapter_rank": 6,
    "layers_block_type": ["hybrid", "linear_attention", "hybrid"], "chunk_size": 32,
    "tie_word_embeddings": True,
}  # fmt: skip
H1 = ATTENTION | HEADS | {
    "model_type": "falcon_h1", "mamba_d_ssm": 128, "mamba_n_groups": 2, "head_dim": 16, "mamba_rms_norm": True,
    "num_hidden_layers": 1,
}  # fmt: skip
UNEVEN = {"mamba_num_heads": 3, "n_groups": 1}  # rows that are no multiple of 8 apart are copied
BOTH, ALONE = {"mixers": "mamba-ssm+causal-conv1d"}, {"mixers": "mamba-ssm"}
LORA = BOTH | {"method": "lora", "targets": "in_proj"}
READ = BOTH | {"decode": 2}
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (raw, {"batch": 2, "seq_len": 37} | job)
    for raw, job in (
        (MAMBA, BOTH),
        (MAMBA, BOTH | {"batch": 1, "seq_len": 2500, "checkpointing": "reentrant"}),
        (MAMBA, LORA | {"autocast": True, "padding": True}),
        (FALCON, BOTH | {"precision": "amp-bf16", "checkpointing": "non-reentrant", "accumulation": 2}),
        (FALCON, LORA | {"batch": 1, "checkpointing": "non-reentrant"}),
        (FALCON, BOTH | {"precision": "fp32", "use_cache": True}),
        (JAMBA, BOTH | {"batch": 1}),
        (JAMBA, LORA | {"targets": "in_proj,out_proj,q_proj", "checkpointing": "reentrant"}),
        (JAMBA, ALONE | {"precision": "amp-bf16", "padding": True}),
        (ZAMBA, BOTH | {"checkpointing": "non-reentrant"}),
        (MAMBA2, BOTH),
        (MAMBA2, BOTH | {"precision": "amp-bf16", "checkpointing": "non-reentrant", "batch": 1}),
        (MAMBA2, LORA | {"batch": 1, "seq_len": 700, "checkpointing": "non-reentrant"}),
        (MAMBA2, BOTH | {"use_cache": True, "padding": True}),
        (BAMBA, LORA | {"targets": "in_proj,q_proj,v_proj", "autocast": True}),
        (GRANITE, BOTH | {"checkpointing": "reentrant", "padding": True}),
        (NEMOTRON, BOTH | {"batch": 1, "precision": "amp-bf16"}),
        (NEMOTRON | UNEVEN | {"use_bias": True}, BOTH),
        (ZAMBA2, BOTH | {"precision": "fp32"}),
        (ZAMBA2 | {"add_bias_linear": True}, BOTH | {"precision": "amp-bf16", "checkpointing": "reentrant"}),
        (H1, LORA | {"checkpointing": "non-reentrant"}),
        (H1 | {"mamba_rms_norm": False}, BOTH | {"precision": "amp-bf16"}),
        (MAMBA, READ),
        (FALCON, READ | {"padding": True, "precision": "fp32", "decode": 0}),
        (JAMBA, ALONE | {"decode": 1, "batch": 1}),
        (ZAMBA, READ),
        (MAMBA2, READ | {"seq_len": 3}),
        (MAMBA2, BOTH | {"decode": 0, "cache": "none"}),
        (GRANITE, READ | {"batch": 1}),
        (NEMOTRON, READ | {"padding": True}),
        (H1 | {"mamba_rms_norm": False}, READ),
    )
]
NAMES = {"mamba-ssm": "mamba_ssm", "causal-conv1d": "causal_conv1d"}


@pytest.mark.parametrize(("raw", "job", "said"), read(GOLDEN), ids=[f"{i}" for i in range(len(CASES))])
def test_every_event_equals_the_recorded_one(
    raw: dict[str, Any], job: TrainJob | InferJob, said: dict[str, Any]
) -> None:
    """The same allocations and frees in the same order as the real code's, recorded with the packages."""
    assert estimated(raw, job) == said


@pytest.mark.slow
def test_the_record_is_what_the_package_does() -> None:
    """Where the packages are installed, their code says again what was recorded."""
    if all(PathFinder.find_spec(name) is not None for name in NAMES.values()):
        for raw, job, said in read(GOLDEN):
            assert traced(raw, job) == said, (raw["model_type"], job)


def test_the_record_is_of_these_cases() -> None:
    """Nothing is compared that is not written down here."""
    rows = json.loads(GOLDEN.read_text(encoding="utf-8"))["rows"]
    assert [[row["config"], row["job"]] for row in rows] == json.loads(json.dumps(CASES))


@pytest.mark.parametrize("raw", [FALCON, MAMBA2, H1])
def test_a_folded_step_is_the_step_played_in_full(raw: dict[str, Any]) -> None:
    """Of a model with many layers, and with other numbers than those it was played with."""
    for layers, seq_len in ((8, 64), (12, 300)):
        model = model_from_config(raw | {"num_hidden_layers": layers})
        asked = TrainJob(2, seq_len, optimizer="sgd", checkpointing="reentrant", **BOTH)
        assert step(model, asked).peak == train_step(model, asked).peak


@pytest.mark.parametrize("raw", [MAMBA, JAMBA, MAMBA2, NEMOTRON])
def test_the_package_takes_less_than_torch(raw: dict[str, Any]) -> None:
    """Its scans keep no states of all tokens, and no scores of pairs of them."""
    model, asked = model_from_config(raw), TrainJob(2, 128, optimizer="sgd")
    assert step(model, replace(asked, **BOTH)).peak < step(model, asked).peak


def test_a_scan_is_as_long_as_it_is_asked_for() -> None:
    """Its tokens are no turns of a loop; without the package the refusal names it first."""
    model, asked = model_from_config(FALCON), TrainJob(1, 65536, optimizer="sgd", **BOTH)
    assert step(model, asked).peak > step(model, replace(asked, seq_len=32768)).peak
    with pytest.raises(UnsupportedError, match=r"Say --mixers mamba-ssm\+causal-conv1d if"):
        play(model, replace(asked, mixers="torch"))
    (note,) = mixer_note(model, "torch")
    assert "--mixers mamba-ssm+causal-conv1d" in note
    assert mixer_note(model, "mamba-ssm+causal-conv1d") == ()


def test_adapters_past_which_weights_are_read_are_refused() -> None:
    """They would never train; other maps may have them."""
    for raw, targets in ((FALCON, "x_proj"), (MAMBA, "in_proj,dt_proj"), (BAMBA, "in_proj,out_proj")):
        with pytest.raises(UsageError, match="never train"):
            play(model_from_config(raw), TrainJob(method="lora", targets=targets, **BOTH))
    play(model_from_config(JAMBA), TrainJob(1, 16, method="lora", targets="x_proj,out_proj", **BOTH))


def test_what_the_package_cannot_do_is_refused_by_name() -> None:
    """Without causal-conv1d it trains nothing whose mixer it computes as a whole; a bias in fp32 fails."""
    for raw in (FALCON, MAMBA2):
        with pytest.raises(UnsupportedError, match="calls causal-conv1d"):
            play(model_from_config(raw), TrainJob(1, 16, **ALONE))
        play(model_from_config(raw), InferJob(1, 16, decode=1, **ALONE))
    with pytest.raises(UnsupportedError, match="fails with a bias"):
        play(model_from_config(MAMBA | {"use_bias": True}), TrainJob(1, 16, **BOTH))
    with pytest.raises(UnsupportedError, match="cu_seq_lens with mamba-ssm"):
        play(model_from_config(MAMBA2), TrainJob(packing=True, packed_by="lengths", **BOTH))
    with pytest.raises(UnsupportedError, match="multiple of 8"):
        play(model_from_config(NEMOTRON | UNEVEN), InferJob(1, 16, **BOTH))
