"""Programs' defaults and their config files: what a job becomes, what is listed, what is refused."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from oomph.errors import ConfigError, UnsupportedError, UsageError
from oomph.job import TrainJob
from oomph.runtimes import RUNTIMES, runtime
from oomph.runtimes.base import Versions
from oomph.runtimes.config_file import load, read
from oomph.runtimes.yaml_text import MAX_BYTES, MAX_DEPTH, parse_mapping
from tests.test_cli import as_json, run

AXOLOTL = """
base_model: meta-llama/Meta-Llama-3-8B
sequence_len: 512
micro_batch_size: 2
gradient_accumulation_steps: 4
adapter: lora
lora_r: 16
lora_target_linear: true
bf16: auto
flash_attention: true
sample_packing: true
gradient_checkpointing: true
optimizer: adamw_torch_fused
learning_rate: 0.0002
shiny: 7
"""


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_runtime_makes_a_job_and_says_why(name: str) -> None:
    """Defaults are fields of a job, each with a reason, and make one that can be."""
    found = runtime(name).defaults(Versions())
    assert set(found) <= {field.name for field in fields(TrainJob)}
    assert all(default.why for default in found.values())
    assert isinstance(runtime(name).job(), TrainJob)


def test_defaults_depend_on_versions() -> None:
    """The loss of transformers changed in 4.46 and 4.50, the Trainer's optimizer with torch 2.8."""
    old, new = Versions.found_in("transformers 4.45.2, torch 2.4.1"), Versions()
    trainer = runtime("trainer")
    assert (trainer.job(old).loss, trainer.job(new).loss) == ("hf-4.45", "hf")
    assert (trainer.job(old).implementation, trainer.job(new).implementation) == ("foreach", "fused")


def test_unsloth_is_nf4_with_its_own_forward_pass_and_loss() -> None:
    """load_in_4bit, get_peft_model and SFTTrainer; nothing but adapters is made fp32, and losses changed."""
    job = runtime("unsloth").job()
    assert (job.method, job.quantization, job.kbit_preparation, job.adapter_dtype) == ("qlora", "nf4-dq", False, "fp32")
    assert {job.kernels, job.checkpointing, job.loss} == {"unsloth"}
    plain = runtime("unsloth").job(kernels="torch")
    assert not plain.kbit_preparation
    losses = [
        runtime("unsloth").job(Versions.found_in(f"unsloth {one}")).loss for one in ("2024.8", "2025.3", "2025.9")
    ]
    assert losses == ["unsloth-2024", "cut", "unsloth"]


def test_trl_prepared_quantised_bases_once() -> None:
    """No program's default, where it prepares as qlora stands for: an older TRL, and a bare Trainer with PEFT."""
    trl = runtime("trl")
    old = trl.job(Versions.found_in("trl 0.12.0"), method="qlora")
    made = (old, trl.job(method="qlora"), runtime("trainer").job(method="qlora"))
    assert [(job.method, job.kbit_preparation) for job in made] == [("qlora", True), ("lora", False), ("qlora", True)]


def test_adamw_of_torch_2_0_makes_denominators_apart() -> None:
    """The one release between that for which foreach became the default and that in which it works in place."""
    trainer = runtime("trainer")
    made = [trainer.job(Versions.found_in(f"torch {one}")).denominators_apart for one in ("1.13.1", "2.0", "2.1.0")]
    assert made == [False, True, False]
    assert trainer.job(Versions.found_in("torch 1.13.1")).implementation == "loop"


def test_an_implementation_goes_with_its_optimizer() -> None:
    """A program's fused AdamW says nothing of a paged optimizer, which has one way of its own."""
    job = runtime("trl").job(optimizer="paged_adamw_8bit")
    assert job.implementation == "foreach"
    assert not [
        words
        for words in runtime("trl").taken(Versions(), {"optimizer": "paged_adamw_8bit"})
        if "implementation" in words
    ]


@pytest.mark.parametrize(
    ("typed", "name"),
    [("LLaMA-Factory", "llama-factory"), ("llamafactory", "llama-factory"), ("ms-swift", "swift"), ("HF", "trainer"),
     ("accelerate", "trainer"), ("TRL", "trl"), ("LitGPT", "litgpt"), ("lit-gpt", "litgpt"), ("torch", "pytorch")],
)  # fmt: skip
def test_a_framework_is_known_by_its_letters_and_other_names(typed: str, name: str) -> None:
    """As its own page writes it, or by the library beneath."""
    assert runtime(typed).name == name


def test_an_unknown_framework_is_refused_with_close_matches() -> None:
    """A slip of the keyboard is answered with the name that was meant."""
    with pytest.raises(UsageError, match="axolotl"):
        runtime("axolotle")


@pytest.mark.parametrize("name", ["trainer", "trl", "axolotl", "llama-factory", "peft"])
@pytest.mark.parametrize("optimizer", ["galore_adamw_layerwise", "apollo_adamw_layerwise", "lomo"])
def test_clipping_by_default_gives_way_to_updates_within_backward(name: str, optimizer: str) -> None:
    """clip_grad_norm_ is called then, and finds no gradient; only who asks for it is told that it does not go."""
    assert not runtime(name).job(optimizer=optimizer, method="full").clip_gradients
    with pytest.raises(UsageError, match="clipping"):
        runtime(name).job(optimizer=optimizer, method="full", clip_gradients=True)


def test_axolotl_has_kernels_for_what_it_adapts() -> None:
    """They switch themselves on for LoRA and QLoRA, and not beside 8 bits, DoRA, preferences or PEFT's preparation."""
    axolotl = runtime("axolotl")
    assert axolotl.job(method="lora").kernels == axolotl.job(method="lora", quantization="nf4-dq").kernels == "axolotl"
    for job in (
        {"method": "full"}, {"method": "lora", "quantization": "int8"}, {"method": "dora"},
        {"method": "lora", "kbit_preparation": True},
        {"method": "lora", "objective": "dpo"},
    ):  # fmt: skip
        assert axolotl.job(**job).kernels == "torch"
    assert axolotl.job(method="lora", kernels="liger").kernels == "liger"
    qlora = axolotl.job(method="qlora")
    assert (qlora.kernels, qlora.quantization, qlora.kbit_preparation) == ("axolotl", "nf4-dq", False)


def test_an_axolotl_config_is_a_job() -> None:
    """Its keys are fields; what moves no byte is left alone, what nobody reads is listed."""
    found = read(parse_mapping(AXOLOTL.encode(), "a.yaml"), "a.yaml")
    assert (found.runtime, found.model, found.unknown) == ("axolotl", "meta-llama/Meta-Llama-3-8B", ("shiny",))
    job = runtime("axolotl").job(**found.fields)
    assert (job.batch, job.seq_len, job.accumulation, job.rank, job.targets) == (2, 512, 4, 16, "all-linear")
    assert (job.method, job.precision, job.autocast, job.attention) == ("lora", "bf16", True, "flash_attention_2")
    assert (job.packing, job.padding_free, job.shape) == (True, True, (1, 1024))
    assert (job.checkpointing, job.implementation) == ("non-reentrant", "fused")


@pytest.mark.parametrize(
    ("config", "runtime", "fields"),
    [
        ({"finetuning_type": "full", "cutoff_len": 64, "per_device_train_batch_size": 3}, "llama-factory",
         {"method": "full", "seq_len": 64, "batch": 3}),
        ({"max_length": 128, "per_device_train_batch_size": 1, "fp16": True, "dtype": "float16"}, "trl",
         {"seq_len": 128, "precision": "fp16", "autocast": True}),
        ({"tokenizer": {"max_seq_len": 99}, "model": {"_component_": "x", "lora_rank": 4}, "batch_size": 2,
          "optimizer": {"_component_": "torch.optim.AdamW", "fused": True},
          "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"}}, "torchtune",
         {"seq_len": 99, "rank": 4, "batch": 2, "implementation": "fused", "loss": "torchtune"}),
        ({"base_model": "mistralai/Mixtral-8x7B-v0.1", "micro_batch_size": 1, "adapter": "qlora", "load_in_4bit": True,
          "quantize_moe_experts": True, "lora_target_modules": ["q_proj", "o_proj"]}, "axolotl",
         {"method": "lora", "quantization": "nf4-dq", "quantised_experts": True, "targets": "q_proj,o_proj"}),
        ({"compute_environment": "LOCAL_MACHINE", "mixed_precision": "bf16", "num_processes": 1}, "trainer",
         {"precision": "amp-bf16"}),
        ({"finetuning_type": "full", "use_galore": True, "optim": "adamw_8bit", "galore_layerwise": True,
          "galore_target": "all"}, "llama-factory",
         {"optimizer": "galore_adamw_8bit_layerwise", "optim_rank": 16}),
        ({"finetuning_type": "full", "use_apollo": True, "apollo_rank": 4}, "llama-factory",
         {"optimizer": "apollo_adamw", "optim_rank": 4}),
        ({"output_dir": "x", "optim": "galore_adamw", "optim_args": "rank=64, scale=2",
          "optim_target_modules": ["attn", "mlp"]}, "trainer", {"optimizer": "galore_adamw", "optim_rank": 64}),
        ({"output_dir": "x", "optim": "apollo_adamw", "optim_args": "rank=1,scale_type=tensor"}, "trainer",
         {"optimizer": "apollo-mini"}),
        ({"tokenizer": {"path": "x"}, "model": {"_component_": "x"}, "optimizer": {"_component_": "torch.optim.SGD"},
          "loss": {"_component_": "torch.nn.CrossEntropyLoss"}, "optimizer_in_bwd": True,
          "enable_activation_offloading": True}, "torchtune",
         {"optimizer_in_backward": True, "activation_offload": "torchtune"}),
        ({"base_model": "x", "micro_batch_size": 1, "optimizer": "ao_adamw_4bit"}, "axolotl",
         {"optimizer": "torchao-adamw-4bit"}),
        ({"base_model": "x", "micro_batch_size": 1, "optimizer": "q_galore_adamw8bit", "qgalore_proj_bits": 4,
          "optim_target_modules": ["attn", "mlp"]}, "axolotl", {"optimizer": "q_galore_adamw8bit", "optim_rank": 256}),
        ({"base_model": "x", "micro_batch_size": 1, "optimizer": "q_galore_adamw8bit", "qgalore_rank": 64},
         "axolotl", {"optimizer": "q_galore_adamw8bit", "optim_rank": 64}),
        ({"output_dir": "x", "use_peft": True, "lora_modules_to_save": ["lm_head"]}, "trainer",
         {"method": "lora", "modules_to_save": "lm_head"}),
        ({"finetuning_type": "lora", "pissa_init": True}, "llama-factory", {"method": "lora"}),
        ({"base_model": "x", "micro_batch_size": 1, "optimizer": "adopt_adamw"}, "axolotl", {"optimizer": "adopt"}),
        ({"base_model": "x", "micro_batch_size": 1, "lisa_n_layers": 4, "lisa_step_interval": 20}, "axolotl",
         {"method": "lisa", "active_layers": 4}),
        ({"finetuning_type": "full", "use_adam_mini": True, "optim": "adamw_torch"}, "llama-factory",
         {"optimizer": "adam-mini", "implementation": "foreach"}),
        ({"finetuning_type": "lora", "quantization_bit": 4, "use_unsloth": True, "bf16": True}, "llama-factory",
         {"method": "lora", "quantization": "nf4-dq", "kernels": "unsloth", "checkpointing": "unsloth",
          "loss": "unsloth"}),
        ({"per_device_train_batch_size": 2, "max_grad_norm": 0.0, "use_liger_kernel": True}, "trainer",
         {"clip_gradients": False, "loss": "liger", "kernels": "liger"}),
        ({"base_model": "x", "micro_batch_size": 1, "liger_rope": True, "liger_rms_norm": True,
          "liger_glu_activation": True}, "axolotl", {"kernels": "liger"}),
    ],
)  # fmt: skip
def test_configs_are_told_by_their_keys(config: dict[str, Any], runtime: str, fields: dict[str, Any]) -> None:
    """Each framework's own words end in the same fields."""
    found = read(config, "config")
    assert found.runtime == runtime
    assert found.unknown == ()
    assert {name: found.fields[name] for name in fields} == fields


ZERO_2 = {
    "zero_optimization": {"stage": 2, "reduce_bucket_size": "5e8", "overlap_comm": False, "contiguous_gradients": True},
    "bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto", "loss_scale": 0}, "gradient_clipping": "auto",
    "train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto",
}  # fmt: skip
OFFLOADED = {"stage": 1, "reduce_bucket_size": "auto", "overlap_comm": True, "offload_optimizer": {"device": "cpu"}}


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        ({"output_dir": "x", "bf16": True, "deepspeed": ZERO_2},
         {"zero_stage": 2, "zero_bucket": 500_000_000, "zero_overlap": False, "precision": "bf16", "autocast": False}),
        ({"finetuning_type": "lora", "fp16": True, "deepspeed": {**ZERO_2, "zero_optimization": OFFLOADED}},
         {"zero_stage": 1, "zero_bucket": 0, "zero_overlap": True, "zero_offload": "optimizer", "precision": "fp16",
          "adapter_dtype": "base"}),
        ({"zero_optimization": {"stage": 1}, "bf16": {"enabled": True}, "optimizer": {"type": "AdamW"},
          "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 8},
         {"zero_stage": 1, "batch": 4, "accumulation": 8, "precision": "bf16", "optimizer": "adamw"}),
        ({"zero_optimization": {"stage": 1}}, {"precision": "fp32"}),
        ({"compute_environment": "LOCAL_MACHINE", "distributed_type": "DEEPSPEED", "mixed_precision": "bf16",
          "num_processes": 1, "deepspeed_config": {"zero_stage": 2, "offload_optimizer_device": "cpu"}},
         {"zero_stage": 2, "zero_offload": "optimizer", "precision": "bf16"}),
    ],
)  # fmt: skip
def test_configs_of_deepspeed_are_read(config: dict[str, Any], fields: dict[str, Any]) -> None:
    """Inline, by themselves, or as accelerate has them; "auto" is what the Trainer's arguments say."""
    found = read(config, "config").fields
    assert {name: found[name] for name in fields} == fields


def test_a_config_of_deepspeed_is_found_where_another_names_it(tmp_path: Path) -> None:
    """Beside it or below; nothing elsewhere is opened."""
    (tmp_path / "ds").mkdir()
    (tmp_path / "ds" / "z2.json").write_text(json.dumps(ZERO_2))
    args = tmp_path / "args.json"
    args.write_text(json.dumps({"output_dir": "x", "bf16": True, "deepspeed": "ds/z2.json"}))
    assert load(args).fields["zero_stage"] == 2
    for name in ("../z2.json", str(tmp_path / "ds" / "z2.json"), "ds", ""):
        args.write_text(json.dumps({"output_dir": "x", "deepspeed": name}))
        if name:
            with pytest.raises(ConfigError, match="which is not there"):
                load(args)
        else:
            assert "zero_stage" not in load(args).fields


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"deepspeed": "zero3.json"}, ConfigError, "deepspeed names 'zero3.json', which is not there"),
        (
            {"deepspeed": {"zero_optimization": {"stage": 3}}},
            UnsupportedError,
            "ZeRO stage 3 is not played: it gathers",
        ),
        (
            {"deepspeed": {"zero_optimization": {"stage": 2, "reduce_bucket_size": 1e99}}},
            ConfigError,
            "reduce_bucket_size",
        ),
        ({"deepspeed": {"zero_optimization": {"stage": True}}}, UnsupportedError, "stage True is"),
        (
            {"deepspeed": {"zero_optimization": {"stage": 1, "offload_optimizer": {"device": "nvme"}}}},
            UnsupportedError,
            "offload_optimizer to 'nvme' is not modelled",
        ),
        ({"deepspeed": {"zero_optimization": {"stage": 1}, "optimizer": {"type": "Lamb"}}}, UnsupportedError, "Lamb"),
        (
            {"deepspeed": {"zero_optimization": {"stage": 1}, "torch_autocast": {"enabled": True}}},
            UnsupportedError,
            "torch_autocast is not modelled",
        ),
        ({"per_device_train_batch_size": "4"}, ConfigError, "per_device_train_batch_size is '4'"),
        ({"per_device_train_batch_size": 0}, ConfigError, "per_device_train_batch_size is 0"),
        ({"gradient_checkpointing": "yes"}, ConfigError, "gradient_checkpointing is 'yes'"),
        ({"lora_dropout": 1}, ConfigError, "lora_dropout is 1"),
        ({"optim": "adamw_torhc"}, UnsupportedError, "optim 'adamw_torhc' is not modelled"),
        ({"lora_target_modules": 3}, ConfigError, "lora_target_modules is no list of names"),
        ({"optim_args": "rank"}, ConfigError, "optim_args is 'rank'"),
        ({"optim_args": "rank=0"}, ConfigError, "rank in optim_args is '0'"),
        ({"optim_args": "proj=svd"}, UnsupportedError, "proj other than random in optim_args"),
        ({"optim_target_modules": "all-linear"}, UnsupportedError, "optim_target_modules 'all-linear'"),
        ({"auto_find_batch_size": True}, UnsupportedError, "auto_find_batch_size is not modelled"),
        ({"finetuning_type": "full", "use_galore": True, "galore_target": "q_proj"}, UnsupportedError, "galore_target"),
        (
            {"finetuning_type": "full", "use_galore": True, "optim": "adafactor", "galore_layerwise": True},
            UnsupportedError,
            "galore_adafactor layer by layer is not modelled: galore-torch refuses",
        ),
        (
            {"base_model": "x", "micro_batch_size": 1, "optimizer": "q_galore_adamw8bit", "qgalore_proj_quant": False},
            UnsupportedError,
            "qgalore_proj_quant other than True",
        ),
    ],
)
def test_what_a_config_may_not_say_is_named(change: dict[str, Any], error: type[Exception], words: str) -> None:
    """Values of the wrong kind, and what oomph does not model."""
    with pytest.raises(error, match=words.replace("(", ".")):
        read({"output_dir": "out", **change}, "args.json")


def test_single_kernels_of_liger_are_parts() -> None:
    """axolotl switches them one by one."""
    said = {"base_model": "x", "micro_batch_size": 1, "liger_rope": True, "liger_rms_norm": False}
    found = read(said, "a").fields
    assert (found["kernels"], found["kernel_parts"]) == ("liger", "rope")


def test_a_config_of_no_framework_is_refused() -> None:
    """The error says which keys each framework is told by."""
    with pytest.raises(ConfigError, match="keys of no framework"):
        read({"a": 1}, "x.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x [1, 2]\nb: *x", "refers to a part of itself"),
        ("a: 1\na: 2", "says 'a' twice"),
        ("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2), "deeper or longer"),
        ("- 1", "no mapping"),
        ("a: !!python/object/apply:os.system [ls]", "no YAML"),
        ("a: [", "no YAML"),
        ("1: 2", "no mapping of names"),
        ("x: " + "a" * MAX_BYTES, "larger than"),
        ("", "no mapping"),
    ],
)
def test_hostile_yaml_is_refused(text: str, words: str) -> None:
    """References, doubled keys, depth, size, objects, and what is no YAML at all."""
    with pytest.raises(ConfigError, match=words):
        parse_mapping(text.encode(), "x.yaml")


def test_a_config_file_answers_on_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The model comes from the file, defaults that were taken and keys that were not read are in the answer; what is
    typed wins."""
    path = tmp_path / "train.yaml"
    path.write_text(AXOLOTL.replace("meta-llama/Meta-Llama-3-8B", "qwen2.5-0.5b"))
    code, out, err = run(capsys, "train", "--config", str(path), "--batch", "1", "--json")
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert (answer["job"]["model"], answer["job"]["batch"], answer["job"]["seq_len"]) == ("qwen2.5-0.5b", 1, 512)
    assert any("shiny" in text for text in answer["warnings"])
    assert any(text.startswith("axolotl: clip_gradients=True") for text in answer["assumptions"])


def test_litgpt_runs_the_code_of_its_time() -> None:
    """The release named, else that of the time of the torch named, else the newest."""
    texts = ("litgpt 0.5.13", "litgpt 0.4.13", "torch 2.2.1", "commit 8641822, torch 2.1.0+cu121", "")
    codes = [runtime("litgpt").job(Versions.found_in(text)).model_code for text in texts]
    assert codes == ["litgpt", "litgpt-0.4", "litgpt-0.3", "lit-gpt", "litgpt"]


def test_litgpt_trains_a_quantised_base_with_a_paged_optimizer() -> None:
    """Whatever its config asks for; nothing is prepared as PEFT does, and the optimizer has no foreach."""
    litgpt = runtime("litgpt")
    job = litgpt.job(method="qlora")
    assert (job.optimizer, job.kbit_preparation, job.quantization) == ("paged_adamw_32bit", False, "nf4-dq")
    assert litgpt.job(method="lora").optimizer == "adamw"
    assert not [words for words in litgpt.taken(Versions(), {"method": "qlora"}) if "foreach" in words]


def test_dora_is_read_with_the_base_it_goes_with() -> None:
    """On 4 bits where they are said; rsLoRA, a number that LoRA is scaled by, moves no byte."""
    trl = {"max_length": 512, "use_peft": True, "use_rslora": True}
    assert read({**trl, "use_dora": True}, "a").fields["method"] == "dora"
    narrow = read({**trl, "use_dora": True, "load_in_4bit": True, "use_bnb_nested_quant": True}, "a")
    assert (narrow.fields["method"], narrow.fields["quantization"], narrow.unknown) == ("dora", "nf4-dq", ())
    assert read({**trl, "use_dora": False}, "a").fields["method"] == "lora"


TRL = {"max_length": 512, "use_peft": True}
AXO = {"base_model": "x", "micro_batch_size": 1}
FULL, LORA = {"finetuning_type": "full"}, {"finetuning_type": "lora"}


@pytest.mark.parametrize(
    ("config", "job"),
    [
        # TRL prepares no base, and its scales stay fp32; axolotl casts what PEFT's preparation made fp32 back.
        ({**TRL, "load_in_4bit": True}, {"quantization": "nf4", "kbit_preparation": False, "targets": "default"}),
        ({**TRL, "load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "use_bnb_nested_quant": True},
         {"quantization": "fp4-dq"}),
        ({**TRL, "load_in_4bit": True, "dtype": "bfloat16", "bf16": True},
         {"precision": "bf16", "autocast": True, "adapter_dtype": "base"}),
        ({**TRL, "load_in_8bit": True}, {"quantization": "int8", "kbit_preparation": False}),
        ({**AXO, "adapter": "qlora", "load_in_4bit": True},
         {"quantization": "nf4-dq", "kbit_preparation": False}),
        ({**AXO, "adapter": "qlora", "bnb_config_kwargs": {"bnb_4bit_use_double_quant": False}},
         {"quantization": "nf4"}),
        ({**LORA, "quantization_bit": 4, "bf16": True, "quantization_method": "bnb"},
         {"quantization": "nf4-dq", "kbit_preparation": False, "adapter_dtype": "fp32", "targets": "all-linear"}),
        ({**LORA, "quantization_bit": 8, "double_quantization": False}, {"quantization": "int8"}),
        # LLaMA-Factory makes fp32 what trains, which is all in full fine-tuning, unless pure_bf16.
        ({**FULL, "bf16": True}, {"precision": "amp-bf16", "fp32_outputs": True}),
        ({**LORA, "bf16": True}, {"precision": "bf16", "autocast": True, "adapter_dtype": "fp32"}),
        ({**FULL, "pure_bf16": True}, {"precision": "bf16", "autocast": False, "fp32_outputs": False}),
        ({**FULL, "disable_gradient_checkpointing": True}, {"checkpointing": "none"}),
        ({**FULL, "use_reentrant_gc": False, "disable_gradient_checkpointing": False},
         {"checkpointing": "non-reentrant"}),
        ({**FULL, "use_unsloth_gc": True, "torch_compile": False}, {"checkpointing": "unsloth", "compile": False}),
        ({**LORA, "additional_target": "embed_tokens, lm_head"}, {"modules_to_save": "embed_tokens,lm_head"}),
        ({**AXO, "lora_modules_to_save": ["lm_head"], "adapter": "lora"}, {"modules_to_save": "lm_head"}),
        ({**TRL, "lora_modules_to_save": ["lm_head"]}, {"modules_to_save": "lm_head"}),
        ({"output_dir": "x", "activation_checkpointing": True,
          "activation_checkpointing_kwargs": {"use_reentrant": True}}, {"checkpointing": "reentrant"}),
        # What from_pretrained is given; bf16 is on in TRL whatever the weights are.
        ({**TRL, "model_init_kwargs": {"dtype": "bfloat16", "attn_implementation": "flash_attention_2"}},
         {"precision": "bf16", "autocast": True, "attention": "flash_attention_2"}),
        ({**TRL, "dtype": "auto", "bf16": False}, {"precision": "bf16", "autocast": False, "fp32_outputs": False}),
        ({**TRL, "dtype": "auto", "bf16": True}, {"precision": "bf16", "autocast": True}),
        ({**TRL, "bf16": False}, {"precision": "fp32"}),
        ({**TRL, "fp16": True, "dtype": "float32"}, {"precision": "amp-fp16"}),
        ({**TRL, "loss_type": "dapo", "max_prompt_length": 200, "max_completion_length": 300, "use_vllm": True,
          "vllm_mode": "server", "num_generations": 8}, {"prompt_len": 200, "seq_len": 500, "objective": "grpo"}),
        ({**AXO, "plugins": ["axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin"], "bf16": True},
         {"loss": "cut"}),
        # transformers 5 gives a model the Trainer's use_cache, which is off; TRL passes it by.
        ({"output_dir": "x"}, {"use_cache": False}),
        ({"output_dir": "x", "use_cache": True}, {"use_cache": True}),
        ({**TRL, "use_cache": True}, {"use_cache": False}),
    ],
)  # fmt: skip
def test_keys_mean_what_their_framework_makes_of_them(config: dict[str, Any], job: dict[str, Any]) -> None:
    """Fields of the job with the program's defaults, read in its sources; no key is left over."""
    found = read(config, "config")
    assert found.unknown == ()
    made = runtime(found.runtime).job(**found.fields)
    assert {name: getattr(made, name) for name in job} == job


def test_the_trainer_left_caches_to_models_before_transformers_5() -> None:
    """Trainer.__init__ sets config.use_cache since 5.0."""
    old = Versions.found_in("transformers 4.57.6")
    assert (runtime("trainer").job(old).use_cache, runtime("trainer").job().use_cache) == (True, False)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({**TRL, "use_vllm": True}, "use_vllm is not modelled: vLLM takes its share of the same GPU"),
        ({**TRL, "label_smoothing_factor": 0.1}, "label_smoothing_factor is not modelled"),
        ({**TRL, "model_init_kwargs": {"quantization_config": {"bits": 4}}}, "quantization_config is not modelled"),
        ({**TRL, "load_in_4bit": True, "bnb_4bit_quant_type": "int3"}, "bnb_4bit_quant_type 'int3'"),
        ({**AXO, "plugins": ["axolotl.integrations.kd.KDPlugin"]}, "KDPlugin"),
        ({**LORA, "use_llama_pro": True}, "blocks that are added"),
        ({**LORA, "additional_target": 3}, "additional_target is no list"),
        ({**AXO, "adapter": "qlora", "bnb_config_kwargs": 3}, "bnb_config_kwargs is 3"),
        ({**AXO, "plugins": "x"}, "plugins is 'x'"),
    ],
)
def test_keys_that_move_memory_are_refused_by_name(config: dict[str, Any], words: str) -> None:
    """What is not modelled, and what no framework takes."""
    with pytest.raises((UnsupportedError, ConfigError), match=words):
        read(config, "config")


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_framework_is_named_on_the_command_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing but its name: its defaults are taken, and told with their reasons."""
    model = "llama-3.2-1b" if name == "unsloth" else "pythia-70m"  # it has a forward pass of its own for few types
    found = as_json(capsys, "train", model, "--framework", name, "--seq", "64")
    assert any(text.startswith(f"{name}: ") for text in found["assumptions"])


@pytest.mark.parametrize(
    ("model", "typed", "mixers"),
    [("qwen3.5-0.8b", (), "fla"), ("qwen3.5-0.8b", ("--mixers", "torch"), "torch"), ("pythia-70m", (), "torch")],
)
def test_packages_that_come_with_a_framework_are_taken_by_hybrids(
    model: str, typed: tuple[str, ...], mixers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """axolotl requires flash-linear-attention; models without such layers do without, and what is typed wins."""
    words = ("train", model, "--framework", "axolotl", "--seq", "64", "--kernels", "torch", *typed)
    found = as_json(capsys, *words)
    assert found["job"]["mixers"] == mixers
    assert any(text.startswith("axolotl: mixers=fla") for text in found["assumptions"]) == (mixers == "fla")


def test_a_trl_config_names_a_teacher_and_where_activations_go() -> None:
    """GKDConfig's teacher is distillation; beta says which divergence; activation offloading is each trainer's own."""
    taught = {"max_length": 512, "teacher_model_name_or_path": "a/b", "lmbda": 0.0}
    fields = read(taught, "a").fields
    assert (fields["objective"], fields["teacher"]) == ("gkd", "a/b")
    assert read({**taught, "beta": 0.0}, "a").fields["objective"] == "gkd-kl"
    assert read({"max_length": 512, "activation_offloading": True}, "a").fields["activation_offload"] == "trl"
    for wrong in ({"beta": 1}, {"teacher_model_name_or_path": 7}):
        with pytest.raises((UnsupportedError, ConfigError)):
            read({**taught, **wrong}, "a")
