"""LitGPT's config files, as its config_hub has them: what its words mean, what it refuses itself."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from oomph.errors import ConfigError, OomphError, UnsupportedError
from oomph.runtimes import runtime
from oomph.runtimes.config_file import read
from tests.test_cli import as_json

# config_hub/finetune/phi-2/qlora.yaml of litgpt 0.5.13, without what is null.
QLORA: dict[str, Any] = {
    "checkpoint_dir": "checkpoints/microsoft/phi-2", "out_dir": "out/finetune/qlora-phi-2", "precision": "bf16-true",
    "quantize": "bnb.nf4", "devices": 1, "num_nodes": 1, "lora_r": 32, "lora_alpha": 16, "lora_dropout": 0.05,
    "lora_query": True, "lora_key": False, "lora_value": True, "lora_projection": False, "lora_mlp": False,
    "lora_head": False,
    "data": {"class_path": "litgpt.data.Alpaca2k", "init_args": {"mask_prompt": False, "seed": 42}},
    "train": {"save_interval": 800, "global_batch_size": 8, "micro_batch_size": 4, "max_seq_length": 512,
              "max_norm": None, "min_lr": 6e-05, "epochs": 1},
    "eval": {"interval": 100, "initial_validation": False}, "logger_name": "csv", "seed": 1337,
    "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.0002, "betas": [0.9, 0.95]}},
}  # fmt: skip
FULL = {key: value for key, value in QLORA.items() if not key.startswith(("lora_", "quantize"))}


def test_a_config_of_the_hub_says_all_of_a_job() -> None:
    """Its model by the checkpoint's folder, batches of a step by the sizes of both, maps by their switches."""
    found = read(QLORA, "qlora.yaml")
    assert (found.runtime, found.model, found.unknown) == ("litgpt", "microsoft/phi-2", ())
    assert dict(found.fields) == {
        "precision": "bf16", "quantization": "nf4", "method": "lora", "targets": "query,value", "rank": 32,
        "adapter_dropout": 0.05, "batch": 4, "accumulation": 2, "seq_len": 512,
    }  # fmt: skip
    job = runtime("litgpt").job(**found.fields)
    assert (job.optimizer, job.model_code) == ("paged_adamw_32bit", "litgpt")


@pytest.mark.parametrize(
    ("said", "fields"),
    [
        ({"lora_mlp": True, "lora_query": False}, {"targets": "value,mlp"}),
        ({"quantize": None}, {"optimizer": "adamw", "implementation": "foreach"}),
        ({"quantize": None, "optimizer": "SGD"}, {"optimizer": "sgd"}),
        ({"quantize": "bnb.fp4-dq"}, {"quantization": "fp4-dq"}),
        ({"precision": None}, {"precision": "amp-bf16"}),
        ({"precision": "32-true"}, {"precision": "fp32"}),
    ],
)
def test_words_of_litgpt(said: dict[str, Any], fields: dict[str, Any]) -> None:
    """Those of its functions' arguments; nothing said of a precision is a mixed one."""
    found = read({**QLORA, **said}, "a").fields
    assert {name: found.get(name) for name in fields} == fields


def test_a_recipe_without_adapters_trains_all_weights() -> None:
    """finetune_full has no words for LoRA."""
    found = read(FULL, "full.yaml").fields
    assert "method" not in found
    assert runtime("litgpt").job(**found).method == "full"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"devices": 4}, "devices is not modelled: oomph plays one GPU"),
        ({"quantize": "bnb.int8-training"}, "quantize 'bnb.int8-training'"),
        ({"optimizer": "SGD"}, "a quantised base with AdamW alone"),
        ({"train": {**QLORA["train"], "max_norm": 1.0}}, "takes no train.max_norm"),
        ({"train": {"global_batch_size": 2, "micro_batch_size": 4}}, "which is not one batch"),
        ({"lora_query": False, "lora_value": False}, "none of LoRA's maps is on"),
        ({"precision": "bf16"}, "precision 'bf16'"),
    ],
)
def test_what_litgpt_refuses_too_is_refused(said: dict[str, Any], words: str) -> None:
    """By the name of its key; what needs several GPUs too."""
    with pytest.raises((ConfigError, UnsupportedError), match=words):
        read({**QLORA, **said}, "a")


def test_a_config_of_pretraining_is_told_apart() -> None:
    """It shares its sections with those of fine-tuning."""
    with pytest.raises(UnsupportedError, match="LitGPT's pretraining"):
        read({"model_name": "pythia-14m", "train": {}, "eval": {}, "out_dir": "x"}, "a")


@pytest.mark.parametrize("value", [True, -1, 2**70, float("nan"), "", "\x1b[31m", [], [1], {}, {"a": {"b": [1]}}])
def test_any_value_is_read_or_refused(value: Any) -> None:
    """What a reader cannot take is an error of ours, never one of Python's."""
    for config in (
        *({**QLORA, key: value} for key in QLORA),
        *({**QLORA, "train": {**QLORA["train"], key: value}} for key in QLORA["train"]),
    ):
        with suppress(OomphError):
            read(config, "a")


def test_a_config_is_the_job_that_is_typed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The same bytes; its maps are quantised, all of Falcon's too, of which transformers' own are not."""
    path = tmp_path / "a.json"
    said = {**QLORA, "checkpoint_dir": "checkpoints/tiiuae/falcon-7b", "lora_r": 8}
    path.write_text(json.dumps(said))
    answer = as_json(capsys, "train", "--config", str(path))
    typed = ("--framework", "litgpt", "--method", "lora", "--quantization", "nf4", "--batch", "4", "--seq", "512")
    same = as_json(capsys, "train", "falcon-7b", *typed, "--accumulation", "2")
    assert answer["total_bytes"] == same["total_bytes"]
    assert not [text for text in answer["warnings"] if "does not let bitsandbytes" in text]
