"""Packed and padding-free batches: what config files mean, held against what the frameworks' own collators return."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oomph.errors import ConfigError, UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.objectives.sft import told_apart
from oomph.play import play, train_step
from oomph.runtimes import runtime
from oomph.runtimes.base import Versions
from oomph.runtimes.config_file import read
from oomph.steps import step

COLLATORS = json.loads((Path(__file__).parent / "collators.json").read_text())["batches"]
TRL = {"max_length": 64, "per_device_train_batch_size": 2}
AXOLOTL = {"base_model": "x", "sequence_len": 64, "micro_batch_size": 2}
FACTORY = {"finetuning_type": "full", "cutoff_len": 64, "per_device_train_batch_size": 2, "bf16": True}
CONFIGS: dict[str, list[dict[str, Any]]] = {
    "trl packing": [{**TRL, "packing": True, "eval_packing": False, "packing_strategy": "bfd_split"}],
    "trl padding_free": [
        {**TRL, "padding_free": True},
        {**TRL, "padding_free": True, "packing": True, "packing_strategy": "wrapped"},
    ],
    "trl wrapped": [{**TRL, "packing": True, "packing_strategy": "wrapped"}, TRL],
    "flattening": [{**AXOLOTL, "batch_flattening": "auto", "attn_implementation": "kernels-community/flash-attn2@v1"}],
    "axolotl sample_packing": [
        {**AXOLOTL, "sample_packing": True, "flash_attention": True, "pad_to_sequence_len": True},
        {**AXOLOTL, "sample_packing": True, "attn_implementation": "flash_attention_3", "batch_flattening": False},
    ],
    "axolotl rows": [
        {**AXOLOTL, "sample_packing": True, "eager_attention": True},
        {**AXOLOTL, "sample_packing": True, "sdp_attention": True, "sdpa_varlen": False},
        {**AXOLOTL, "sample_packing": True, "flash_attention": True, "multipack_real_batches": True},
    ],
    "axolotl pad_to_sequence_len": [
        {**AXOLOTL, "pad_to_sequence_len": True, "flash_attention": True},
        {**AXOLOTL, "sample_packing": True},
    ],
    "llama-factory neat_packing, fa2": [
        {**FACTORY, "neat_packing": True, "flash_attn": "fa2", "per_device_train_batch_size": 1}
    ],
    "llama-factory neat_packing": [
        {**FACTORY, "neat_packing": True},
        {**FACTORY, "neat_packing": True, "packing": True},
    ],
}
DTYPES = {"bfloat16": "bf16"}


def job_of(config: dict[str, Any]) -> TrainJob:
    """Return the job that a config means."""
    found = read(config, "config")
    assert found.unknown == ()
    return runtime(found.runtime).job(**found.fields)


@pytest.mark.parametrize("name", CONFIGS)
def test_batches_are_those_of_the_frameworks_collators(name: str) -> None:
    """Shapes and dtypes of ids, positions, lengths and masks; two samples in a row, a mask without holes left out."""
    batch = {key: tuple(value) for key, value in COLLATORS[name].items() if isinstance(value, list)}
    if name == "trl wrapped":
        del batch["attention_mask"]
    for config in CONFIGS[name]:
        job = job_of(config)
        tokens = (job.shape, "int64")
        ours = dict.fromkeys(("input_ids", "labels"), tokens) | (told_apart(job) if job.packs else {})
        ours |= {"attention_mask": tokens} if job.padding else {}
        assert {key: (list(shape), dtype) for key, (shape, dtype) in ours.items()} == {
            key: (shape, DTYPES.get(dtype, dtype)) for key, (shape, dtype) in batch.items()
        }


@pytest.mark.parametrize(
    ("name", "options", "versions", "expected"),
    [
        ("trl", {"packing": True}, "", (True, "lengths")),
        ("trl", {"packing": True}, "trl 1.4.0", (True, "positions")),
        ("trl", {"packing": True}, "trl 0.18.2", (False, "positions")),
        ("trl", {"packing": True, "padding_free": False, "packed_by": "positions"}, "", (False, "positions")),
        ("axolotl", {"packing": True, "attention": "flash_attention_2"}, "", (True, "positions")),
        ("axolotl", {"packing": True}, "", (False, "positions")),
        ("llama-factory", {"packing": True}, "", (False, "mask")),
        ("llama-factory", {"packing": True, "attention": "flash_attention_2"}, "", (False, "positions")),
        ("swift", {"packing": True, "attention": "flash_attention_2"}, "", (True, "positions")),
        ("trl", {}, "", (False, "positions")),
    ],
)
def test_a_frameworks_collator_goes_with_packing(
    name: str, options: dict[str, Any], versions: str, expected: tuple[bool, str]
) -> None:
    """What is typed beside --framework wins; older releases of TRL hand on less."""
    job = runtime(name).job(Versions.found_in(versions), **options)
    assert (job.padding_free, job.packed_by) == expected


def test_packing_of_llama_factory_is_found_by_flash_attn_in_one_row() -> None:
    """Its rows bring position ids beside a mask without holes; transformers looks at them in batches of one row."""
    packed = {**FACTORY, "packing": True, "flash_attn": "fa2"}
    assert job_of({**packed, "per_device_train_batch_size": 1}).packing
    assert not job_of(packed).packs
    assert not job_of({**FACTORY, "packing": True, "stage": "pt"}).packs


def test_a_config_of_dpo_is_padded_whatever_it_says() -> None:
    """DPOTrainer warns of padding_free and goes on without it (trl 1.16, dpo_trainer.py)."""
    assert not job_of({**TRL, "loss_type": "sigmoid", "padding_free": True}).packs


def test_torchtunes_packed_rows_save_what_flash_saves() -> None:
    """Flex attention takes tables of blocks for a mask."""
    config = {"tokenizer": {"max_seq_len": 64}, "model": {"_component_": "x"}, "loss": None, "optimizer": None}
    assert not job_of({**config, "dataset": {"packed": True}}).packs


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({**FACTORY, "neat_packing": True, "flash_attn": "fa2"}, ConfigError, "one row at a time"),
        ({**AXOLOTL, "sample_packing": True, "sdp_attention": True}, UnsupportedError, "varlen_attn"),
        ({**AXOLOTL, "flex_attention": True}, UnsupportedError, "flex_attention"),
        ({**AXOLOTL, "attn_implementation": 3}, UnsupportedError, "attn_implementation '3' is not modelled"),
        ({**AXOLOTL, "batch_flattening": "yes"}, ConfigError, "batch_flattening is 'yes'"),
        ({**TRL, "packing": True, "packing_strategy": "bfs"}, UnsupportedError, "packing_strategy 'bfs'"),
        ({**TRL, "packing": "yes"}, ConfigError, "packing is 'yes'"),
    ],
)
def test_what_batches_may_not_be_is_named(config: dict[str, Any], error: type[Exception], words: str) -> None:
    """What a framework refuses, what is not modelled, and values of the wrong kind."""
    with pytest.raises(error, match=words):
        job_of(config)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"packed_by": "lengths", "packing": True, "batch": 2}, "several rows"),
        ({"packed_by": "mask", "packing": True, "attention": "flash_attention_2"}, "mask of the collator's own"),
        ({"padding_free": True, "padding": True}, "not both"),
        ({"padding_free": True, "lengths": "500±300"}, "all of one length"),
        ({"padding_free": True, "task": "sequence-classification"}, "a label for each row"),
        ({"packing": True, "seq_len": 8, "prompt_len": 4, "loss": "fused-head"}, "holds no 2 sequences"),
    ],
)
def test_what_does_not_go_with_packed_batches_is_refused(options: dict[str, Any], words: str) -> None:
    """By name, before anything is played."""
    with pytest.raises(UsageError, match=words):
        TrainJob(**options)


def test_plain_torch_mixers_refuse_cu_seq_lens() -> None:
    """As transformers' own do: without their packages they cannot keep sequences apart."""
    raw = {
        "model_type": "lfm2", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2,
        "num_key_value_heads": 1, "num_hidden_layers": 2, "layer_types": ["conv", "full_attention"],
        "block_multiple_of": 16,
    }  # fmt: skip
    job = TrainJob(seq_len=16, padding_free=True, packed_by="lengths")
    with pytest.raises(UnsupportedError, match="causal-conv1d"):
        play(model_from_config(raw), job)


def test_cu_seq_lens_spare_every_layer_a_look_at_positions() -> None:
    """One table of beginnings for all layers (TRL since 1.16), where each made its own."""
    raw = {"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
           "num_attention_heads": 4, "num_hidden_layers": 3, "max_position_embeddings": 64}  # fmt: skip
    job = TrainJob(batch=4, seq_len=16, padding_free=True, attention="flash_attention_2")
    made = [
        sum(one.op == "nonzero" for one in play(model_from_config(raw), each).recorder.allocations)
        for each in (job, TrainJob(**{**vars(job), "packed_by": "lengths"}))
    ]
    assert made == [3, 0]


@pytest.mark.parametrize("packed_by", ["positions", "lengths"])
def test_a_deep_mixture_packs_as_one_played_in_full(packed_by: Any) -> None:
    """Its experts are counted although their number is left open."""
    raw = {"model_type": "mixtral", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
           "num_attention_heads": 8, "num_hidden_layers": 9, "num_local_experts": 4}  # fmt: skip
    model, job = model_from_config(raw), TrainJob(batch=3, seq_len=16, padding_free=True, packed_by=packed_by)
    found = step(model, job)
    assert (found.folded, found.peak) == (True, train_step(model, job).peak)
