"""The example configs of LLaMA-Factory's repository: each is estimated, or refused by name for a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oomph.errors import ConfigError, UnsupportedError
from oomph.objectives import OF_FACTORY, kind_of
from oomph.runtimes import runtime
from oomph.runtimes.config_file import read
from oomph.runtimes.llama_factory_keys import REFUSED
from oomph.runtimes.yaml_text import read_mapping
from oomph.score.asking import catalogued
from oomph.steps import step
from tests.test_cli import run

LORA = "finetuning_type: lora\nlora_rank: 8\nlora_target: all\nbf16: true\n"
FULL = "finetuning_type: full\nbf16: true\n"
SFT = "stage: sft\ncutoff_len: 2048\nper_device_train_batch_size: 1\n"
OFT = f"{SFT}finetuning_type: oft\noft_block_size: 32\noft_target: all\nbf16: true\n"
PURE = f"{SFT}finetuning_type: full\npure_bf16: true\n"
KT = f"{SFT}{LORA}use_kt: true\n"
LOW: dict[str, Any] = {"precision": "bf16", "autocast": True, "fp32_outputs": True}
WIDE: dict[str, Any] = {"precision": "amp-bf16", "fp32_outputs": True}
# What decides of memory in each file of examples/ (LLaMA-Factory 0.9.6.dev0, July 2026), and fields that are read.
ESTIMATED: dict[str, tuple[str, dict[str, Any]]] = {
    "train_lora/qwen3_lora_sft.yaml": (f"{SFT}{LORA}", {"method": "lora", "rank": 8, "targets": "all-linear", **LOW}),
    "train_lora/qwen3_lora_sft_ray.yaml": (f"{SFT}{LORA}ray_num_workers: 4\n", {"method": "lora", **LOW}),
    "train_lora/qwen3_preprocess.yaml": (f"{SFT}finetuning_type: lora\ntokenized_path: x\n", {"method": "lora"}),
    "train_lora/qwen3_lora_pretrain.yaml": (f"stage: pt\n{LORA}cutoff_len: 2048\n", {"method": "lora", **LOW}),
    "train_lora/qwen3_lora_dpo.yaml": (
        f"stage: dpo\n{LORA}pref_beta: 0.1\npref_loss: sigmoid\ncutoff_len: 2048\n", {"objective": "dpo", **LOW}),
    "train_lora/qwen3vl_lora_dpo.yaml": (
        f"stage: dpo\n{LORA}image_max_pixels: 262144\nvideo_max_pixels: 16384\npref_loss: sigmoid\n",
        {"objective": "dpo", "method": "lora"}),
    "train_lora/qwen3_lora_kto.yaml": (f"stage: kto\n{LORA}pref_beta: 0.1\n", {"objective": "kto", **LOW}),
    "train_lora/qwen3_lora_reward.yaml": (f"stage: rm\n{LORA}cutoff_len: 2048\n", {"objective": "reward", **LOW}),
    "train_lora/qwen3vl_lora_sft.yaml": (f"{SFT}{LORA}image_max_pixels: 262144\n", {"method": "lora"}),
    "train_lora/mossvl_lora_sft.yaml": (
        f"{SFT}{LORA}freeze_vision_tower: true\nfreeze_multi_modal_projector: true\nfreeze_language_model: false\n"
        "video_fps: 1.0\nvideo_maxlen: 256\npacking: false\n", {"freeze_vision": True}),
    "train_qlora/llama3_lora_sft_aqlm.yaml, _awq, _gptq": (f"{SFT}{LORA}", {"method": "lora"}),
    "train_qlora/qwen3_lora_sft_bnb_npu.yaml": (
        f"{SFT}{LORA}quantization_bit: 4\nquantization_method: bnb\ndouble_quantization: false\n",
        {"quantization": "nf4", "method": "lora"}),
    "train_qlora/qwen3_lora_sft_otfq.yaml": (
        f"{SFT}{LORA}quantization_bit: 4\nquantization_method: bnb\n", {"quantization": "nf4-dq"}),
    "extras/fsdp_qlora/llama3_lora_sft.yaml": (f"{SFT}{LORA}quantization_bit: 4\n", {"quantization": "nf4-dq"}),
    "extras/loraplus/llama3_lora_sft.yaml": (f"{SFT}{LORA}loraplus_lr_ratio: 16.0\n", {"method": "lora"}),
    "extras/pissa/llama3_lora_sft.yaml": (
        f"{SFT}{LORA}pissa_init: true\npissa_iter: 16\npissa_convert: true\n", {"method": "lora"}),
    "extras/adam_mini/qwen2_full_sft.yaml": (f"{SFT}{FULL}use_adam_mini: true\n", {"optimizer": "adam-mini", **WIDE}),
    "extras/muon/qwen2_full_sft.yaml": (f"{SFT}{FULL}use_muon: true\n", {"optimizer": "muon-llama-factory", **WIDE}),
    "extras/apollo/llama3_full_sft.yaml": (
        f"{PURE}use_apollo: true\napollo_layerwise: true\napollo_target: all\napollo_rank: 128\napollo_scale: 32.0\n"
        "apollo_scale_type: channel\n",
        {"optimizer": "apollo_adamw_layerwise", "optim_rank": 128, "precision": "bf16", "autocast": False}),
    "extras/galore/llama3_full_sft.yaml": (
        f"{PURE}use_galore: true\ngalore_layerwise: true\ngalore_target: all\ngalore_rank: 128\ngalore_scale: 2.0\n",
        {"optimizer": "galore_adamw_layerwise", "optim_rank": 128}),
    "extras/badam/llama3_full_sft.yaml": (
        f"{SFT}finetuning_type: full\nuse_badam: true\nbadam_mode: layer\nbadam_switch_mode: ascending\n"
        "badam_switch_interval: 50\nbadam_verbose: 2\n", {"method": "badam"}),
    "extras/dft/qwen2_full_sft.yaml": (f"{SFT}{FULL}use_dft_loss: true\n", {"objective": "dft", **WIDE}),
    "extras/eaft/qwen25_05b_eaft_full.yaml": (f"{SFT}{FULL}use_eaft_loss: true\n", {"objective": "eaft", **WIDE}),
    "extras/oft/llama3_oft_sft.yaml": (OFT, {"method": "oft", "block_size": 32, **LOW}),
    "extras/oft/qwen2_5vl_oft_sft.yaml": (f"{OFT}image_max_pixels: 262144\n", {"method": "oft"}),
    "extras/qoft/llama3_oft_sft_bnb_npu.yaml": (
        f"{OFT}quantization_bit: 4\nquantization_method: bnb\ndouble_quantization: false\n",
        {"method": "oft", "quantization": "nf4"}),
    "ascend/qwen3_5moe_lora_sft_fsdp2.yaml": (
        f"{SFT}{LORA}use_v1_kernels: false\nflash_attn: fa2\npacking: false\nmax_steps: 2000\n"
        "disable_gradient_checkpointing: true\n", {"checkpointing": "none", "attention": "flash_attention_2"}),
}  # fmt: skip
Z3 = "deepspeed: examples/deepspeed/ds_z3_config.json\n"
REFUSALS: dict[str, tuple[str, str]] = {
    "train_full/qwen3_full_sft.yaml, qwen3vl": (f"{SFT}{FULL}{Z3}", "deepspeed names .* which is not there"),
    "train_full/mossvl_full_sft.yaml": (
        f"{SFT}{FULL}{Z3}use_reentrant_gc: false\ngradient_checkpointing: true\n", "deepspeed names"),
    "train_lora/qwen3_lora_sft_ds3.yaml": (f"{SFT}{LORA}{Z3}", "deepspeed names"),
    "extras/asft/llama2_full_asft.yaml, qwen2": (
        f"{SFT}{FULL}deepspeed: examples/deepspeed/ds_z0_config.json\nuse_asft_loss: true\nasft_alpha: 0.1\n",
        "deepspeed names .*ds_z0_config"),
    "extras/fp8/llama3_fp8_deepspeed_sft.yaml": (f"{SFT}{FULL}fp8: true\nfp8_backend: torchao\n", "products in fp8"),
    "extras/fp8/llama3_fp8_fsdp_sft.yaml": (
        f"{SFT}{FULL}fp8: true\nfp8_enable_fsdp_float8_all_gather: true\nfsdp:\n- full_shard\n- auto_wrap\n", "fp8"),
    "extras/llama_pro/llama3_freeze_sft.yaml": (
        f"{SFT}finetuning_type: freeze\nfreeze_trainable_layers: 8\nfreeze_trainable_modules: all\n"
        "use_llama_pro: true\nbf16: true\n", "use_llama_pro is not modelled: blocks that are added"),
    "extras/mod/llama3_full_sft.yaml": (
        f"{PURE}mixture_of_depths: convert\noptim: paged_adamw_8bit\n", "layers that pass tokens by"),
    "extras/nlg_eval/llama3_lora_predict.yaml": (
        "stage: sft\nfinetuning_type: lora\ndo_predict: true\npredict_with_generate: true\n", "it generates"),
    "ascend/qwen3_full_sft_fsdp2.yaml and others": (
        f"{SFT}{FULL}use_v1_kernels: true\nflash_attn: fa2\n", "most of them for Ascend"),
    "ktransformers/train_lora/*.yaml": (KT, "KTransformers' experts in host memory"),
    "megatron/qwen2_vl_full.yaml": (
        f"{SFT}{FULL}tensor_model_parallel_size: 4\nsequence_parallel: true\n", "oomph plays one GPU"),
    "megatron_bridge/llama3_sft.yaml": (
        f"{SFT}{LORA}tensor_model_parallel_size: 1\nuse_distributed_optimizer: true\n", "Megatron's own code runs"),
    "merge_lora/*.yaml": ("model_name_or_path: x\nexport_dir: y\nexport_size: 5\n", "that trains nothing"),
    "inference/*.yaml": ("model_name_or_path: x\ntemplate: qwen3\ninfer_backend: huggingface\n", "trains nothing"),
    "accelerate/fsdp_config.yaml and others": (
        "compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\nmixed_precision: bf16\n", "oomph plays one GPU"),
    "v1/train_full/*.yaml and others": ("model: x\nmodel_class: llm\ntrain_dataset: y\n", "LLaMA-Factory's v1"),
    "deepspeed/ds_z3_config.json": ("zero_optimization:\n  stage: 3\n", "stage"),
}  # fmt: skip


def mapping(tmp_path: Path, text: str) -> dict[str, Any]:
    """Return what a text of YAML says."""
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return read_mapping(path)


@pytest.mark.parametrize("name", ESTIMATED)
def test_every_example_that_runs_on_one_gpu_is_read(tmp_path: Path, name: str) -> None:
    """All its keys are read or move no memory, and what they say makes a job."""
    text, fields = ESTIMATED[name]
    found = read(mapping(tmp_path, text), name)
    assert (found.runtime, found.unknown, found.notes) == ("llama-factory", (), ())
    said = dict(found.fields) | ({"batch": 2} if "batch" not in found.fields else {})
    job = runtime("llama-factory").job(**said)
    assert {field: getattr(job, field) for field in fields} == fields


@pytest.mark.parametrize("name", REFUSALS)
def test_every_other_example_is_refused_by_name(tmp_path: Path, name: str) -> None:
    """Several GPUs, code of others, blocks and products that are not modelled, files that train nothing."""
    text, words = REFUSALS[name]
    with pytest.raises((UnsupportedError, ConfigError), match=words):
        read(mapping(tmp_path, text), name)


@pytest.mark.parametrize("name", [name for name in ESTIMATED if "qwen3vl" not in name and "aqlm" not in name])
def test_examples_are_estimated(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    """From the file to an answer, of a small model in the place of the example's."""
    path = tmp_path / "config.yaml"
    path.write_text(ESTIMATED[name][0])
    code, out, err = run(capsys, "train", "qwen3-0.6b", "--config", str(path), "--seq", "128", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["total_bytes"] > 0


def test_its_own_trainers_are_taken_for_what_it_trains() -> None:
    """Dropout is off where they switch it off; a reference that is loaded keeps the checkpoint's dtype."""
    factory = runtime("llama-factory")
    for objective in OF_FACTORY:
        method = "lora" if objective != "asft" else "full"
        job = factory.job(objective=objective, method=method, batch=2)
        assert (job.objective_code, job.loss) == ("llama-factory", kind_of(job).loss)
        assert job.dropout == (objective in ("reward", "dft", "eaft", "asft"))
    assert factory.job(objective="dpo").compares_with == "adapters-off"
    whole = factory.job(objective="dpo", method="full")
    assert (whole.compares_with, whole.teacher_dtype, whole.precision) == ("loaded", "bf16", "amp-bf16")
    with pytest.raises(UnsupportedError, match="--framework trl"):
        factory.job(objective="grpo", prompt_len=4)


def test_logits_of_its_dpo_are_there_twice_for_all_tokens() -> None:
    """fp32 logits and their log-softmax of both answers, where TRL's fused head has neither: its peak is higher."""
    given: dict[str, Any] = {"objective": "dpo", "method": "lora", "batch": 2, "seq_len": 512, "precision": "bf16"}
    model = catalogued("qwen3-0.6b").model
    own, trls = (int(step(model, runtime(name).job(**given)).peak) for name in ("llama-factory", "trl"))
    logits = 4 * 2 * 2 * 512 * 151_936
    assert own - trls > 2 * logits


def test_what_is_refused_says_why() -> None:
    """Each reason is a phrase, which the error puts behind the key."""
    for key, why in REFUSED.items():
        with pytest.raises(UnsupportedError, match=key):
            read({"finetuning_type": "lora", key: "x" if key != "fp8" else True}, "a")
        assert not why.endswith(".")
