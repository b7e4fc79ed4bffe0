"""ms-swift's configs: what `swift sft FILE.yaml` says, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oomph.errors import UnsupportedError
from oomph.runtimes import runtime
from oomph.runtimes.base import Versions
from oomph.runtimes.config_file import read
from oomph.runtimes.swift_keys import REFUSED, UNPLAYED
from tests.test_cli import run

# What decides of memory in examples/yaml/deepspeed/sft.yaml and examples/train/multi-node/ray/sft.yaml (ms-swift 4.6).
SFT: dict[str, Any] = {
    "model": "Qwen/Qwen2.5-7B-Instruct", "torch_dtype": "bfloat16", "tuner_type": "lora", "lora_rank": 8,
    "lora_alpha": 32, "target_modules": "all-linear", "dataset": ["x#500"], "split_dataset_ratio": 0.0,
    "max_length": 2048, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 8, "system": "x",
    "model_author": "swift", "model_name": "swift-bot",
}  # fmt: skip


@pytest.mark.parametrize(
    ("said", "fields"),
    [
        ({}, {"method": "lora", "rank": 8, "targets": "all-linear", "seq_len": 2048, "accumulation": 8,
              "precision": "bf16", "autocast": True, "fp32_outputs": True, "adapter_dtype": "fp32",
              "checkpointing": "reentrant", "adapter_dropout": 0.05, "long_samples": "drop"}),
        ({"deepspeed": "zero2"}, {"zero_stage": 2, "zero_bucket": 200_000_000, "autocast": False}),
        ({"deepspeed": "zero2_offload"}, {"zero_stage": 2, "zero_offload": "optimizer"}),
        ({"tuner_type": "full"}, {"method": "full", "precision": "bf16", "autocast": True}),
        ({"tuner_type": "adalora"}, {"method": "adalora", "rank": 8}),
        ({"tuner_type": "boft"}, {"method": "boft", "block_size": 4}),
        ({"use_dora": True}, {"method": "dora"}),
        ({"tuner_type": "full", "lisa_activated_layers": 3}, {"method": "lisa", "active_layers": 3}),
        ({"lora_dtype": "bfloat16"}, {"adapter_dtype": "base"}),
        ({"quant_method": "bnb", "quant_bits": 4}, {"quantization": "nf4-dq", "kbit_preparation": False}),
        ({"quant_method": "bnb", "quant_bits": 8}, {"quantization": "int8"}),
        ({"quant_method": "hqq", "quant_bits": 4}, {"quantization": "hqq-4bit"}),
        ({"packing": True, "attn_impl": "flash_attn"},
         {"packing": True, "padding_free": True, "attention": "flash_attention_2"}),
        ({"use_liger_kernel": True}, {"kernels": "liger", "loss": "liger"}),
        ({"gradient_checkpointing": False}, {"checkpointing": "none"}),
        ({"gradient_checkpointing_kwargs": {"use_reentrant": False}}, {"checkpointing": "non-reentrant"}),
        ({"freeze_vit": False, "freeze_aligner": False}, {"freeze_vision": False}),
        ({"torch_dtype": "float32"}, {"precision": "amp-fp16", "autocast": False}),
        ({"torch_dtype": "float32", "fp16": False, "bf16": True}, {"precision": "amp-bf16"}),
        ({"bf16": False}, {"precision": "bf16", "autocast": False}),
        ({"target_modules": ["q_proj", "v_proj"]}, {"targets": "q_proj,v_proj"}),
        ({"truncation_strategy": "left"}, {"long_samples": "cut"}),
    ],
)  # fmt: skip
def test_what_its_keys_mean(said: dict[str, Any], fields: dict[str, Any]) -> None:
    """Its own ways with dtypes, tuners, bases, rows and DeepSpeed."""
    found = read({**SFT, **said}, "a")
    assert (found.runtime, found.model, found.unknown) == ("swift", "Qwen/Qwen2.5-7B-Instruct", ())
    job = runtime("swift").job(**found.fields)
    assert {name: getattr(job, name) for name in fields} == fields


def test_a_step_is_of_sixteen_samples_unless_told() -> None:
    """gradient_accumulation_steps is what makes them up; older files say train_type."""
    config = {"model": "x", "train_type": "lora", "per_device_train_batch_size": 3}
    assert read(config, "a").fields["accumulation"] == 6
    assert read({**config, "gradient_accumulation_steps": 2}, "a").fields["accumulation"] == 2


@pytest.mark.parametrize(
    ("said", "words"),
    [
        *(({"tuner_type": name}, f"{name} is not modelled: {why}") for name, why in UNPLAYED.items()),
        *(({key: "x"}, f"{key} is not modelled") for key in REFUSED),
        *(({"rlhf_type": name}, "as ms-swift computes it") for name in ("dpo", "kto", "orpo", "simpo", "rm", "grpo")),
        ({"deepspeed": "zero3"}, "stage 3"),
        ({"quant_method": "eetq", "quant_bits": 8}, "quant_method 'eetq'"),
        ({"quant_method": "fp8"}, "quant_method 'fp8'"),
        ({"optimizer": "muon"}, "optimizer 'muon'"),
        ({"tuner_backend": "unsloth"}, "tuner_backend 'unsloth'"),
        ({"task_type": "embedding"}, "task_type 'embedding'"),
        ({"freeze_vit": False}, "Set both alike"),
        ({"target_modules": ["all-linear", "all-embedding"]}, "all-embedding"),
        ({"lora_dtype": "float16"}, "lora_dtype fp16 over weights in bf16"),
        ({"lora_bias": "all"}, "biases that train"),
    ],
)
def test_what_is_not_modelled_is_refused_by_name(said: dict[str, Any], words: str) -> None:
    """Tuners and trainers of its own, parts that train, several GPUs."""
    with pytest.raises(UnsupportedError, match=words):
        read({**SFT, **said}, "a")


def test_its_example_is_estimated(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """From the file to an answer, with DeepSpeed and without."""
    path = tmp_path / "sft.yaml"
    totals = []
    for more in ({}, {"deepspeed": "zero2"}):
        path.write_text(json.dumps({**SFT, **more}))
        code, out, err = run(capsys, "train", "qwen3-0.6b", "--config", str(path), "--seq", "256", "--json")
        assert (code, err) == (0, "")
        totals.append(json.loads(out)["total_bytes"])
    assert totals[0] != totals[1]


def test_older_releases_keep_their_ways() -> None:
    """2.x made adapters as the weights are, and knew no all-linear by itself."""
    old = runtime("swift").job(Versions.found_in("torch 2.1.1, transformers 4.36.2, peft 0.7.1"), method="lora")
    assert (old.adapter_dtype, old.checkpointing, old.targets) == ("base", "non-reentrant", "default")
    assert runtime("swift").job().method == "lora"
