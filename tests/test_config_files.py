"""Config files as people have them: what each program's own words mean, what is told of them, what is refused."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from oomph.errors import ConfigError, OomphError, UnsupportedError
from oomph.runtimes import runtime
from oomph.runtimes.config_file import read
from oomph.runtimes.keys import READERS
from tests.test_cli import as_json, run

AXOLOTL = {"base_model": "x", "micro_batch_size": 1}
TORCHTUNE: dict[str, Any] = {
    "tokenizer": {"path": "x"}, "optimizer": {"_component_": "torch.optim.AdamW", "fused": True},
    "loss": {"_component_": "torchtune.modules.loss.LinearCrossEntropyLoss"},
    "checkpointer": {"_component_": "torchtune.training.FullModelHFCheckpointer"},
    "dataset": {"packed": False}, "clip_grad_norm": None,
}  # fmt: skip


def recipe(builder: str, **model: Any) -> dict[str, Any]:
    return {**TORCHTUNE, "model": {"_component_": f"torchtune.models.{builder}", **model}}


@pytest.mark.parametrize(
    ("builder", "model"),
    [
        ("llama3_1.llama3_1_8b", "llama-3.1-8b"),
        ("llama3_2.qlora_llama3_2_1b", "llama-3.2-1b"),
        ("qwen2_5.lora_qwen2_5_14b_instruct", "qwen2.5-14b"),
        ("qwen3.qwen3_0_6b_base", "qwen3-0.6b"),
        ("phi4.lora_phi4_14b", "phi-4"),
        ("mine.my_7b", None),
    ],
)
def test_a_recipe_of_torchtune_names_its_model_by_its_builder(builder: str, model: str | None) -> None:
    """With adapters or without; a builder that is not known leaves the model to the command line."""
    found = read(recipe(builder), "8B.yaml")
    assert (found.model, found.unknown) == (model, ())


def test_every_builder_of_torchtune_is_a_model_of_the_catalogue() -> None:
    """So that a recipe answers without a server."""
    from oomph.runtimes.torchtune_keys import MODELS
    from oomph.sources.catalogue import find

    assert not [name for name in MODELS.values() if find(name) is None]


def test_qlora_of_torchtune_is_a_base_in_four_bits() -> None:
    """Told by the builder or by quantize_base; torchtune prepares nothing as PEFT does."""
    lora = {"lora_rank": 8, "lora_attn_modules": ["q_proj", "output_proj"]}
    for config in (
        recipe("llama3.qlora_llama3_8b", **lora),
        recipe("llama3.lora_llama3_8b", **lora, quantize_base=True),
    ):
        fields = read(config, "a").fields
        job = runtime("torchtune").job(**fields)
        assert (job.method, job.quantization, job.kbit_preparation) == ("lora", "nf4-dq", False)
    assert runtime("torchtune").job(**read(recipe("llama3.lora_llama3_8b", **lora), "a").fields).quantization == "none"


def test_adapters_of_torchtune_are_where_its_switches_say() -> None:
    """output_proj is attention's last map; MLP and head have switches of their own."""
    lora = {"lora_rank": 8, "lora_attn_modules": ["q_proj", "output_proj"]}
    config = recipe("llama3.lora_llama3_8b", **lora, apply_lora_to_mlp=True, apply_lora_to_output=True)
    assert read(config, "a").fields["targets"] == "q_proj,o_proj,gate_proj,up_proj,down_proj,lm_head"
    assert read(recipe("llama3.lora_llama3_8b", **lora), "a").fields["targets"] == "q_proj,o_proj"
    with pytest.raises(UnsupportedError, match="lora_attn_modules 'wq'"):
        read(recipe("llama3.lora_llama3_8b", lora_rank=8, lora_attn_modules=["wq"]), "a")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"quantizer": {"_component_": "x"}}, "fake quantisers"),
        ({"teacher_model": {"_component_": "x"}}, "distillation"),
        ({"custom_sharded_layers": ["output"]}, "one GPU"),
    ],
)
def test_other_recipes_of_torchtune_are_refused(more: dict[str, Any], words: str) -> None:
    """What fine-tunes otherwise, or on several GPUs."""
    with pytest.raises(UnsupportedError, match=words):
        read({**recipe("llama3.llama3_8b"), **more}, "a")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model": "Qwen/Qwen3-0.6B", "train_dataset": "x", "output_dir": "o", "cutoff_len": 9}, "v1 trainer"),
        ({"per_device_train_batch_size": 1, "max_length": 9, "train_type": "lora"}, "knows no train_type"),
        ({"model": {"_component_": "x"}, "tokenizer": {"max_seq_len": 1}, "checkpointer": {}, "output_dir": "o"},
         "torchtune's that fine-tunes no model"),
        ({"policy_model": {}, "checkpointer": {}, "output_dir": "o", "optimizer": {}, "loss": {}, "tokenizer": {}},
         "torchtune's that fine-tunes no model"),
    ],
)  # fmt: skip
def test_configs_of_other_programs_are_not_taken_for_the_trainers(config: dict[str, Any], words: str) -> None:
    """They share output_dir with TrainingArguments, and little else: what they ask for would go unread."""
    with pytest.raises(UnsupportedError, match=words):
        read(config, "a.yaml")


LIGER = {"liger_rope": True, "liger_rms_norm": True, "liger_glu_activation": True}


@pytest.mark.parametrize(
    ("said", "fields"),
    [
        ({"attn_implementation": "flash_attention_2", "sample_packing": True},
         {"attention": "flash_attention_2", "packing": True, "padding_free": True}),
        ({"attn_implementation": "sdpa", "sample_packing": True, "sdpa_varlen": False},
         {"attention": "flash", "packing": True, "padding_free": False}),
        ({"rl": "orpo"}, {"objective": "orpo"}),
        ({"rl": "gdpo", "rl_beta": 0.1}, {"objective": "grpo"}),
        ({"batch_size": 8, "micro_batch_size": 2}, {"accumulation": 4}),
        ({"batch_size": 8, "gradient_accumulation_steps": 2}, {"accumulation": 2}),
        ({"fsdp_version": 2, "cosine_min_lr_ratio": 0.1}, {}),
        ({"rl": "simpo"}, {"objective": "simpo"}),
        ({"reward_model": True}, {"objective": "reward"}),
        ({"adapter": "lora", "lora_modules_to_save": ["embed_tokens", "lm_head"]},
         {"method": "lora", "modules_to_save": "embed_tokens,lm_head"}),
        ({"experts_implementation": "eager"}, {"experts": "eager"}),
        ({"torch_compile": "auto"}, {"compile": True}),
        ({"adapter": "qlora", "load_in_4bit": True, "pad_to_sequence_len": True},
         {"method": "lora", "quantization": "nf4-dq"}),
        ({"adapter": "qlora", "peft_use_dora": True, "lora_target_modules": ["q_proj"],
          "bnb_config_kwargs": {"bnb_4bit_use_double_quant": False}},
         {"method": "dora", "quantization": "nf4", "targets": "q_proj"}),
        ({"adapter": "lora", "load_in_8bit": True}, {"method": "lora", "quantization": "int8"}),
        ({"adapter": "lora", "lora_mlp_kernel": True, "lora_qkv_kernel": True, "lora_o_kernel": True,
          "lora_embedding_kernel": False}, {"kernels": "axolotl"}),
        ({"adapter": "lora", "lora_mlp_kernel": False}, {"kernels": "torch"}),
        ({"adapter": "lora", "lora_mlp_kernel": True, "lora_o_kernel": True}, {"kernel_parts": "mlp,o"}),
        (LIGER, {"kernels": "liger", "kernel_parts": ""}),
        ({**LIGER, "liger_rope": None}, {"kernels": "liger", "kernel_parts": "norm,glu"}),
        ({**LIGER, "adapter": "lora", "lora_qkv_kernel": True}, {"kernel_parts": "qkv,rope,norm,glu"}),
        ({**LIGER, "adapter": "lora", "lora_qkv_kernel": False}, {"kernels": "liger"}),
        ({**LIGER, "adapter": "lora", "rl": "dpo"}, {"kernels": "liger"}),
        ({"adapter": "lora", "trust_remote_code": True}, {"kernels": "torch"}),
    ],
)  # fmt: skip
def test_words_of_axolotl(said: dict[str, Any], fields: dict[str, Any]) -> None:
    """Those of today's examples; what moves no memory is passed over without a word."""
    found = read({**AXOLOTL, **said}, "a")
    assert {name: found.fields[name] for name in fields} == fields
    assert found.unknown == ()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"attn_implementation": "flex_attention"}, "attn_implementation 'flex_attention' is not modelled"),
        ({"xformers_attention": True}, "xformers_attention 'xformers' is not modelled"),
        ({"gradient_checkpointing": "offload"}, "in host memory"),
        ({"adapter": "lora", "load_in_4bit": True}, "load_in_4bit without adapter: qlora"),
        ({"lora_target_parameters": ["mlp.experts.down_proj"]}, "lora_target_parameters is not modelled"),
        ({"plugins": ["axolotl.integrations.spectrum.SpectrumPlugin"]}, "plugins 'axolotl.integrations.spectrum"),
        ({"gptq": True}, "gptq is not modelled"),
        ({"use_eaft": True}, "use_eaft is not modelled: a loss of its own"),
        ({"use_scattermoe": True}, "kernels of experts"),
        ({"llama4_linearized_experts": True}, "experts as linear maps"),
        ({"context_parallel_size": 2}, "context_parallel_size is not modelled: oomph plays one GPU"),
        ({"experts_implementation": "scattermoe"}, "experts_implementation 'scattermoe'"),
    ],
)
def test_what_axolotl_does_otherwise_is_refused(said: dict[str, Any], words: str) -> None:
    """By the name of its key: kernels, offloading and parallelism that move memory."""
    with pytest.raises(UnsupportedError, match=words):
        read({**AXOLOTL, **said}, "a")


def test_llama_factory_makes_what_trains_fp32() -> None:
    """Its table says 18 bytes a parameter of full fine-tuning in bf16, 8 and states in bf16 with pure_bf16."""
    full = {"finetuning_type": "full", "bf16": True}
    job = runtime("llama-factory").job(**read(full, "a").fields)
    assert (job.precision, job.autocast) == ("amp-bf16", False)
    pure = runtime("llama-factory").job(**read({"finetuning_type": "full", "pure_bf16": True}, "a").fields)
    assert (pure.precision, pure.autocast) == ("bf16", False)
    lora = runtime("llama-factory").job(**read({"finetuning_type": "lora", "bf16": True}, "a").fields)
    assert (lora.precision, lora.autocast, lora.adapter_dtype) == ("bf16", True, "fp32")
    assert runtime("llama-factory").job(method="full").precision == "amp-bf16"
    assert read({"finetuning_type": "full"}, "a").fields["precision"] == "fp32"


@pytest.mark.parametrize(
    ("said", "fields"),
    [
        ({"quantization_bit": 4}, {"method": "lora", "quantization": "nf4-dq"}),
        ({"quantization_bit": 4, "double_quantization": False}, {"quantization": "nf4"}),
        ({"quantization_bit": 4, "quantization_type": "fp4"}, {"quantization": "fp4-dq"}),
        ({"quantization_bit": 8}, {"method": "lora", "quantization": "int8"}),
        ({"use_dora": True, "quantization_bit": 4}, {"method": "dora", "quantization": "nf4-dq"}),
        ({"disable_gradient_checkpointing": True, "use_reentrant_gc": False}, {"checkpointing": "none"}),
        ({"use_reentrant_gc": False}, {"checkpointing": "non-reentrant"}),
        ({"use_unsloth_gc": True}, {"checkpointing": "unsloth"}),
        ({"additional_target": "embed_tokens,lm_head"}, {"modules_to_save": "embed_tokens,lm_head"}),
        ({"stage": "pt"}, {"method": "lora"}),
        ({"quantization_bit": 4, "quantization_method": "hqq"}, {"method": "lora", "quantization": "hqq-4bit"}),
        ({"finetuning_type": "oft", "quantization_bit": 4}, {"method": "oft", "block_size": 32}),
        ({"finetuning_type": "freeze", "freeze_trainable_layers": 8}, {"method": "freeze", "active_layers": 8}),
        ({"finetuning_type": "freeze"}, {"method": "freeze", "active_layers": 2}),
        ({"finetuning_type": "full", "use_badam": True, "use_reentrant_gc": True}, {"method": "badam"}),
        ({"finetuning_type": "full", "use_muon": True}, {"optimizer": "muon-llama-factory", "precision": "fp32"}),
        ({"stage": "dpo", "pref_loss": "hinge"}, {"objective": "dpo"}),
        ({"stage": "dpo", "pref_loss": "simpo"}, {"objective": "simpo"}),
        ({"stage": "rm", "enable_liger_kernel": True}, {"objective": "reward", "kernels": "liger"}),
        ({"use_eaft_loss": True}, {"objective": "eaft"}),
        ({"stage": "dpo", "packing": True, "flash_attn": "fa2"}, {"objective": "dpo"}),
        ({"upcast_lmhead_output": True}, {"loss": "hf-fp32"}),
        ({"upcast_layernorm": True, "quantization_bit": 4}, {"kbit_preparation": True, "narrow_tables": True}),
        ({"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
         {"checkpointing": "non-reentrant"}),
        ({"resize_vocab": True, "additional_target": "lm_head"}, {"modules_to_save": "lm_head"}),
        ({"neat_packing": True}, {"packing": True}),
        (
            {"neat_packing": True, "flash_attn": "fa2"},
            {"packing": True, "packed_by": "positions", "attention": "flash_attention_2"},
        ),
    ],
)  # fmt: skip
def test_words_of_llama_factory(said: dict[str, Any], fields: dict[str, Any]) -> None:
    """Its own ways with a quantised base, checkpoints and rows."""
    found = read({"finetuning_type": "lora", **said}, "a")
    assert {name: found.fields[name] for name in fields} == fields
    assert found.unknown == ()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"stage": "ppo"}, "--framework trl --objective ppo"),
        ({"stage": "dpo", "pref_loss": "kto_pair"}, "pref_loss 'kto_pair' is not modelled"),
        ({"stage": "dpo", "ref_model": "x"}, "ref_model is not modelled: a reference that is another model"),
        ({"stage": "dpo", "ld_alpha": 0.5}, "ld_alpha is not modelled"),
        ({"quantization_bit": 3}, "quantization_bit 3 is not modelled. oomph reads 4 or 8"),
        ({"quantization_bit": 8, "quantization_method": "eetq"}, "quantization_method 'eetq'"),
        ({"quantization_bit": 6, "quantization_method": "hqq"}, "quantization_bit 6 is not modelled"),
        ({"finetuning_type": "freeze", "freeze_trainable_layers": -2}, "the first layers"),
        ({"finetuning_type": "freeze", "freeze_trainable_modules": "mlp"}, "oomph trains whole layers"),
        ({"finetuning_type": "freeze", "freeze_extra_modules": "lm_head"}, "parts that train beside layers"),
        ({"finetuning_type": "oft", "oft_rank": 4}, "say oft_block_size"),
        ({"finetuning_type": "full", "use_badam": True, "badam_mode": "ratio"}, "badam_mode other than layer"),
        ({"freeze_multi_modal_projector": False}, "Set freeze_vision_tower alike"),
        ({"resize_vocab": True}, "additional_target: embed_tokens,lm_head"),
        ({"use_dft_loss": True, "enable_liger_kernel": True}, "beside a loss of LLaMA-Factory's own"),
        ({"predict_with_generate": True}, "it generates between steps"),
        ({"upcast_layernorm": True}, "upcast_layernorm is not modelled"),
        ({"tensor_model_parallel_size": 2}, "one GPU"),
    ],
)
def test_what_llama_factory_does_otherwise_is_refused(said: dict[str, Any], words: str) -> None:
    """PPO's loop of its own, references and parts that it alone has, other quantisers; the error says what is near."""
    with pytest.raises(UnsupportedError, match=words):
        read({"finetuning_type": "lora", **said}, "a")


HOSTILE: tuple[Any, ...] = (True, -1, 2**70, float("nan"), "", "\x1b[31m", [], [1], {}, {"a": {"b": [1]}})
LEAST: dict[str, dict[str, Any]] = {
    "axolotl": AXOLOTL, "llama-factory": {"finetuning_type": "lora"}, "trl": {"max_length": 64},
    "trainer": {"output_dir": "x"}, "ppo": {"reward_model_path": "a", "per_device_train_batch_size": 1},
    "torchtune": recipe("llama3.lora_llama3_8b"), "accelerate": {"compute_environment": "x"},
    "swift": {"model": "x", "tuner_type": "lora"},
}  # fmt: skip


@pytest.mark.parametrize("name", LEAST)
def test_any_value_of_any_key_is_read_or_refused(name: str) -> None:
    """A file is hostile: what a reader cannot take is an error of ours, never one of Python's."""
    for key in READERS[name]:
        for value in HOSTILE:
            config = json.loads(json.dumps(LEAST[name]))
            section, _, rest = key.partition(".")
            at = config.setdefault(section, {}) if name == "torchtune" and rest else config
            if isinstance(at, dict):
                at[rest if at is not config else key] = value
            with suppress(OomphError):
                read(config, "a")


def test_what_from_pretrained_is_given_is_read_beside_the_rest() -> None:
    """TRL's model_init_kwargs; names that are none are listed as not read."""
    found = read({"max_length": 64, "model_init_kwargs": {"dtype": "bfloat16", 1: 2}}, "a")
    assert (found.fields["precision"], found.unknown) == ("bf16", ("1",))


def test_a_config_of_grpo_is_told_by_its_rewards() -> None:
    """Its sequences are a prompt and an answer; any loss_type of its own sums the same tokens; beta asks for KL."""
    said = {"num_generations": 8, "max_prompt_length": 512, "max_completion_length": 1024}
    found = read({**said, "reward_funcs": ["format"], "use_vllm": True, "vllm_mode": "server"}, "a")
    assert (found.runtime, found.unknown) == ("trl", ())
    assert {**found.fields} == {"objective": "grpo", "prompt_len": 512, "seq_len": 1536}
    assert read({**said, "beta": 0.04}, "a").fields["objective"] == "grpo-kl"
    assert read({**said, "loss_type": "dr_grpo"}, "a").fields["objective"] == "grpo"
    with pytest.raises(ConfigError, match="max_completion_length is 'x'"):
        read({**said, "max_completion_length": "x"}, "a")


def test_a_beta_without_a_trainer_is_asked_about(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """DPO, KTO, ORPO and CPO share their keys, and none of them is fine-tuning on labels."""
    path = tmp_path / "dpo.yaml"
    path.write_text(json.dumps({"model_name_or_path": "pythia-70m", "max_length": 64, "beta": 0.1}))
    code, out, err = run(capsys, "train", "--config", str(path))
    assert (code, out) == (2, "")
    assert "beta may be of several of TRL's trainers. Say which: --objective dpo" in " ".join(err.split())
    assert run(capsys, "train", "--config", str(path), "--objective", "sft")[0] == 0
    assert read({"max_length": 64, "beta": 0.1, "loss_type": "sigmoid"}, "a").untold == ""


def test_what_is_not_counted_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A key that moves memory in a way that is not played has its effect told, not just its name."""
    path = tmp_path / "a.yaml"
    said = {"base_model": "pythia-70m", "adapter": "lora", "use_kernels": True, "lora_o_kernel": False}
    path.write_text(json.dumps({**AXOLOTL, **said}))
    code, out, _ = run(capsys, "train", "--config", str(path), "--seq", "64", "--json")
    assert code == 0
    warnings = json.loads(out)["warnings"]
    assert [text for text in warnings if "use_kernels: kernels from the hub are not played" in text]
    assert not [text for text in warnings if text.startswith("Not read")]


def test_ligers_kernels_are_beside_axolotls_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """LoRA kernels are on whatever Liger's switches say; where axolotl stops at them, Liger's are left."""
    path = tmp_path / "a.yaml"
    said = {**AXOLOTL, **LIGER, "adapter": "lora", "lora_target_linear": True, "sequence_len": 64}
    for model, kernels in (("qwen3-0.6b", "axolotl"), ("phi-3-mini-4k-instruct", "liger")):
        path.write_text(json.dumps({**said, "base_model": model}))
        job = as_json(capsys, "train", "--config", str(path))["job"]
        assert (job["kernels"], job["kernel_parts"]) == (kernels, "rope,norm,glu")
    typed = as_json(capsys, "train", "--config", str(path), "--kernels", "torch")["job"]
    assert (typed["kernels"], typed.get("kernel_parts", "")) == ("torch", "")


def test_axolotls_kernels_are_off_where_it_stops_at_them(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Its patcher wants lines of Llama's attention: a default that fails is told, one that is said is refused."""
    path = tmp_path / "a.yaml"
    path.write_text(json.dumps({**AXOLOTL, "base_model": "pythia-70m", "adapter": "lora", "sequence_len": 64}))
    answer = as_json(capsys, "train", "--config", str(path))
    assert [text for text in answer["warnings"] if "gpt_neox's attention, and axolotl stops" in text]
    typed = as_json(capsys, "train", "--config", str(path), "--kernels", "torch")
    assert answer["total_bytes"] == typed["total_bytes"]
    assert not [text for text in typed["warnings"] if "axolotl stops" in text]
    assert run(capsys, "train", "--config", str(path), "--kernels", "axolotl")[0] == 3


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("trl", {"max_length": 64, "load_in_4bit": True, "use_bnb_nested_quant": True,
                 "lora_target_modules": "all-linear"}),
        ("axolotl", {**AXOLOTL, "sequence_len": 64, "adapter": "qlora", "lora_target_linear": True}),
        ("llama-factory", {"finetuning_type": "lora", "cutoff_len": 64, "quantization_bit": 4}),
        ("torchtune", {**recipe("llama3.qlora_llama3_8b", lora_rank=8, lora_attn_modules=["q_proj", "v_proj"]),
                       "tokenizer": {"max_seq_len": 64}}),
    ],
)  # fmt: skip
def test_qlora_that_is_typed_is_what_a_frameworks_own_config_says(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, config: dict[str, Any]
) -> None:
    """The same job and bytes: none keeps norms and tables in fp32; PEFT's preparation is there for the asking."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    typed = ("train", "pythia-70m", "--framework", name, "--method", "qlora", "--seq", "64")
    if name in ("torchtune", "axolotl"):  # which know no GPT-NeoX: its maps' names, kernels for its adapters
        typed = (typed[0], "qwen3-0.6b", *typed[2:])
    answers = [as_json(capsys, *words) for words in (typed, ("train", typed[1], "--config", str(path)))]
    assert answers[0]["job"] == answers[1]["job"]
    assert answers[0]["total_bytes"] == answers[1]["total_bytes"]
    assert any(text.startswith(f"{name}: kbit_preparation=False") for text in answers[0]["assumptions"])
    assert as_json(capsys, *typed, "--kbit-preparation")["job"]["kbit_preparation"]


def test_plans_and_maxima_start_from_a_config_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What it leaves unread is in their answers; a program's defaults are; inference has neither."""
    path = tmp_path / "a.yaml"
    path.write_text(json.dumps({**AXOLOTL, "base_model": "pythia-70m", "sequence_len": 64, "shiny": 1}))
    code, out, _ = run(capsys, "plan", "--config", str(path), "--gpu", "24GiB,h100", "--json")
    assert code == 0
    assert [text for text in json.loads(out)["warnings"] if "shiny" in text]
    code, out, _ = run(capsys, "max", "--config", str(path), "--gpu", "1GiB", "--over", "batch", "--json")
    assert (code, json.loads(out)["job"]["autocast"]) == (1, True)
    assert [text for text in json.loads(out)["warnings"] if "shiny" in text]
    code, _, err = run(capsys, "max", "pythia-70m", "serve", "--framework", "axolotl", "--gpu", "h100")
    assert code == 2
    assert "Leave --framework and --config out" in err
    assert run(capsys, "plan", "--gpu", "h100")[0] == 2


def test_a_program_that_says_nothing_of_lengths_takes_no_more_than_a_model_has(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As without a program: GPT-2 is made for 1024 tokens; those that are typed are kept, and refused."""
    code, out, _ = run(capsys, "train", "gpt2", "--framework", "trainer", "--json")
    assert (code, json.loads(out)["job"]["seq_len"]) == (0, 1024)
    assert run(capsys, "train", "gpt2", "--framework", "trainer", "--seq", "2048")[0] == 2
