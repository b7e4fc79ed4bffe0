"""Each schema's rows become the jobs they describe, or a refusal that names what is missing."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.constants import rule
from oomph.devices import find
from oomph.errors import SourceError, UnsupportedError
from oomph.job import InferJob, TrainJob
from oomph.score.asking import catalogued
from oomph.score.readers import training, xmem
from oomph.score.readers.engines import transformers
from oomph.score.readers.training_words import named, versions_of
from oomph.score.reading import MUST_NOT_FIT
from oomph.score.scoring import Outcome, score
from oomph.units import GIB
from tests.score.rows import GENERATE, INFERENCE, JOB, MEASURED, TRAINING, XMEM, changed


def scored(row: dict[str, Any]) -> dict[str, Outcome]:
    """The outcomes of one row by quantity."""
    return {one.quantity: one for one in score([("Line 1 of rows.jsonl", row)])}


def reasons(row: dict[str, Any]) -> set[str | None]:
    """Why the quantities of one row are refused; None for one that is not."""
    return {one.refused for one in scored(row).values()}


@pytest.mark.parametrize(
    ("name", "version", "attention", "repeats"),
    [
        ("mistral-7b", "transformers 4.45.2", "flash_attention_2", True),
        ("mistral-7b", "transformers 4.48.1", "flash_attention_2", False),
        ("llama-2-7b", "transformers 4.45.2", "flash_attention_2", False),
        ("gpt-oss-20b", "transformers 4.56.0", "flash_attention_2", False),
        ("chatglm3-6b", "transformers 4.56.0", "flash", False),
    ],
)
def test_flash_attn_is_called_as_the_class_of_a_version_does(
    name: str, version: str, attention: str, repeats: bool
) -> None:
    """MistralFlashAttention2 copied key heads until 4.48 had one way for all classes; Llama's never did."""
    job, _ = training.job_of(TRAINING)
    found, taken = training.as_called(job, catalogued(name).model, versions_of(version, ""))
    assert (found.attention, found.repeats_keys) == (attention, repeats)
    assert bool(taken) == (attention == "flash")


def test_a_training_row_is_the_job_it_describes() -> None:
    """The Trainer's defaults are in the job: gradients clipped, logits dropped, reentrant checkpointing."""
    job, assumed = training.job_of(TRAINING)
    assert job == TrainJob(
        batch=4, seq_len=4096, attention="flash_attention_2", loss="hf-4.46", checkpointing="reentrant",
        hold_logits=False, clip_gradients=True, adapter_dropout=0.1,
    )  # fmt: skip
    assert any("transformers 4.48.1" in text for text in assumed)
    assert any("reentrant" in text for text in assumed)


def test_a_classifier_of_old_torch_is_the_job_it_was() -> None:
    """A row of HF's performance guide: scores are kept, gradients zeroed, states in 8 bit for the embedding too."""
    row = {
        **TRAINING, "framework": "HF Trainer", "framework_version": "transformers 4.2x, torch ~1.10, Jan 2022",
        "model": "bert-large-uncased (sequence classification)", "weight_dtype": "fp32", "precision_mode": "fp32",
        "optimizer": "bnb Adam8bit", "optimizer_dtype": "int8", "seq_len": 512, "attention_impl": "eager",
        "checkpointing": "none", "loss_impl": "eager (2-class)", "packing": "fixed 512", "gpu": "V100-16GB",
        "measured": {"nvidia_smi_gib": 12.7783},
    }  # fmt: skip
    job, _ = training.job_of(row)
    assert (job.task, job.optimizer, job.embedding_32bit) == ("sequence-classification", "adamw_bnb_8bit", False)
    assert (job.keeps_softmax_inputs, job.set_to_none, job.attention) == (True, False, "eager")
    assert abs(scored(row)["nvidia_smi_gib"].relative_error or 1) < 0.01


def test_full_fine_tuning_of_mistral_equals_what_was_measured() -> None:
    """Bf16 weights, gradients, two states and the foreach step's copy: 10 bytes for 7,241,732,096 parameters."""
    found = scored(TRAINING)
    peak, resident = found["peak_allocated_gib"], found["resident_alloc_gib"]
    assert peak.predicted == pytest.approx(10 * 7241732096 / GIB, rel=1e-3)
    assert resident.predicted == pytest.approx(6 * 7241732096 / GIB, rel=1e-3)
    assert abs(peak.relative_error or 1) < 1e-4
    assert abs(resident.relative_error or 1) < 1e-4


@pytest.mark.parametrize(("batch", "before", "since"), [(4, 13953, 15116), (8, 16939, 18102)])
def test_an_edition_of_ibm_s_table_loaded_all_kernels(batch: int, before: int, since: int) -> None:
    """Two editions of the file, MiB of nvidia-smi for the same job and the same peaks: the newer has 1.1 GiB more."""
    refs = "fms-acceleration/blob/{}/scripts/benchmarks/refs/a100_80gb.csv"
    base = changed(TRAINING, model="bigcode/gpt_bigcode-santacoder", micro_batch=batch)
    smi = [
        scored(changed(base, source_url=refs.format(edition), measured={"nvidia_smi_gib": mib / 1024}))[
            "nvidia_smi_gib"
        ]
        for edition, mib in (("9239802", before), ("main", since))
    ]
    for found in smi:
        assert found.safe is not None
        assert found.measured is not None
        assert abs(found.relative_error or 1) < 0.04
        assert found.measured < found.safe


GPTQ: dict[str, Any] = {
    "model": "TheBloke/Llama-2-70B-GPTQ",
    "framework": "HF Trainer/TRL SFT (fms-hf-tuning) + fms-acceleration accelerated-peft-autogptq",
    "method": "gptq-lora",
    "lora": {"rank": 16, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"], "adapter_dtype": None},
    "weight_dtype": "gptq-int4, rest fp16",
    "precision_mode": "amp fp16, params loaded in float16",
}


def test_a_gptq_base_is_a_checkpoint_and_a_kernel() -> None:
    """fms-acceleration computes with its Triton kernel in fp16; TheBloke's 70B has one group per column."""
    job, _ = training.job_of({**TRAINING, **GPTQ})
    assert (job.quantization, job.gptq_kernel) == ("gptq-4bit-column", "triton")
    assert (job.precision, job.autocast, job.fp32_outputs, job.adapter_dtype) == ("fp16", True, True, "fp32")
    with pytest.raises(UnsupportedError, match="weights gptq-int3"):
        training.job_of({**TRAINING, **GPTQ, "weight_dtype": "gptq-int3"})


def test_qwen_s_script_on_one_gpu_runs_under_deepspeed() -> None:
    """Without autocast, adapters in fp16, with the buckets of its config file; old transformers, exllama off."""
    row = {**TRAINING, **GPTQ}
    row |= {
        "model": "Qwen-7B-Chat-Int4", "framework": "Qwen finetune.py (HF Trainer + PEFT + DeepSpeed)",
        "weight_dtype": "gptq-int4", "precision_mode": "amp fp16 via DeepSpeed ZeRO-2",
        "parallel": {"fsdp_zero": "ZeRO-2 config (single GPU)"},
    }  # fmt: skip
    job, _ = training.job_of(row)
    assert (job.zero_bucket, job.autocast, job.adapter_dtype) == (200_000_000, False, "base")
    assert (job.quantization, job.gptq_kernel) == ("gptq-4bit-g128", "cuda-old")


QWEN: dict[str, Any] = {
    "framework": "Qwen finetune.py (HF Trainer + PEFT)", "framework_version": "torch 2.0, CUDA 11.8, transformers 4.32",
    "metric": "not stated (GPU memory)", "precision_mode": "amp bf16 (HF --bf16, params bf16)", "method": "lora",
    "lora": {"rank": 64, "targets": ["c_attn", "c_proj", "w1", "w2"], "adapter_dtype": None}, "grad_accum": 8,
    "micro_batch": 1, "packing": "padded to max length", "attention_impl": "flash-attn 2 (Qwen remote code)",
    "loss_impl": "eager HF remote code (CrossEntropyLoss on logits)", "checkpointing": "full (HF)",
    "gpu": "A100-SXM4-80GB", "unit_ambiguous": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("model", "seq_len", "printed"),
    [("Qwen-1.8B-Chat", 512, 7.4), ("Qwen-7B-Chat", 4096, 29.7), ("Qwen-14B-Chat", 8192, 55.2)],
)
def test_qwen_s_table_is_read_off_nvidia_smi(model: str, seq_len: int, printed: float) -> None:
    """G are thousands of MiB with all kernels loaded: 7.4G and 55.2G leave the same beside what torch reserves."""
    row = changed(TRAINING, **QWEN, model=model, seq_len=seq_len, measured={"peak_reserved_gib": printed})
    found = scored(row)["peak_reserved_gib"]
    assert found.predicted is not None
    assert 0 < printed - found.predicted < 0.35  # the contexts known are those of smaller GPUs
    assert any("thousands of nvidia-smi's MiB" in text for text in found.assumed)


def test_ms_swift_runs_with_the_versions_it_requires() -> None:
    """A row that names neither transformers nor PEFT ran what ms-swift's requirements of its time allow."""
    row = changed(TRAINING, framework="ms-swift 2.x (HF Trainer)", framework_version="torch 2.1.1, bnb 0.41.3")
    assert training.job_of(row)[0].loss == "hf-4.45"
    narrow = changed(
        row, method="qlora", weight_dtype="bnb nf4", precision_mode="amp bf16 (params bf16)",
        lora={"rank": 8, "targets": "DEFAULT (attention qkv)", "adapter_dtype": "AUTO"},
    )  # fmt: skip
    assert not training.job_of(narrow)[0].kbit_preparation  # nothing in it calls prepare_model_for_kbit_training


@pytest.mark.parametrize(("model", "mib"), [("qwen-7b-chat", 13616), ("qwen-14b-chat", 19278)])
def test_checkpointing_of_ms_swift_does_not_see_what_old_bitsandbytes_keeps(model: str, mib: int) -> None:
    """It is not reentrant, so inputs of 4-bit maps stay: MiB of its edition of December 2023, samples of one length."""
    row = changed(
        TRAINING, framework="ms-swift 2.x (HF Trainer)", framework_version="torch 2.1.1, flash_attn 2.3.4, bnb 0.41.3",
        model=model, method="qlora", weight_dtype="bnb nf4", precision_mode="amp bf16 (HF bf16, params bf16)",
        lora={"rank": 8, "targets": "DEFAULT (c_attn)", "adapter_dtype": "AUTO"}, optimizer="AdamW (adamw_torch)",
        seq_len=2048, micro_batch=1, grad_accum=16, attention_impl="flash_attn 2", checkpointing="full",
        loss_impl="eager HF", packing=False, notes="", measured={"peak_reserved_gib": mib / 1024},
    )  # fmt: skip
    assert training.job_of(row)[0].checkpointing == "non-reentrant"
    assert training.job_of(changed(row, framework="HF Trainer"))[0].checkpointing == "reentrant"
    assert abs(scored(row)["peak_reserved_gib"].relative_error or 1) < 0.015


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"method": "galore"}, "method galore: not modelled yet"),
        ({"method": "full + dpo"}, "objective dpo: not modelled as this framework runs it yet"),
        ({"method": "full + dpo", "n_gpus": 4}, "n_gpus=4: one GPU only"),
        ({"method": "full + gkd"}, "objective gkd: not modelled as this framework runs it yet"),
        ({"method": "lora"}, "lora: not said"),
        ({"method": "lora", "lora": {"rank": 8}}, "lora targets: unknown"),
        (
            {"method": "lora", "lora": {"rank": "8", "targets": ["q_proj"]}},
            "rank: 8 is not a whole number from 1 to 2147483648",
        ),
        ({"n_gpus": 8}, "n_gpus=8: one GPU only"),
        ({"n_gpus": None}, "n_gpus=unknown: one GPU only"),
        ({"n_gpus": True}, "n_gpus=True: one GPU only"),
        ({"model": "nobody/nothing"}, "not in the catalogue: nobody/nothing"),
        ({"loss_impl": "liger"}, "loss liger: not modelled yet"),
        ({"optimizer": "adamw_8bit"}, "optimizer adamw_8bit: not modelled yet"),
        ({"optimizer_dtype": "int8"}, "optimizer_dtype int8: torch keeps states like the weights"),
        ({"precision_mode": None}, "precision_mode: not said"),
        ({"precision_mode": "amp", "weight_dtype": "fp16"}, "precision amp over fp16: not modelled yet"),
        ({"attention_impl": None}, "attention_impl: not said"),
        ({"checkpointing": "unsloth offloaded"}, "checkpointing unsloth offloaded: not modelled yet"),
        ({"compile": True}, "compile: compiled code is not modelled"),
        ({"cpu_offload": "true"}, "cpu_offload: not modelled yet"),
        ({"seq_len": None}, "seq_len: not said"),
        ({"seq_len": "4096"}, "seq_len: 4096 is not a whole number from 1 to 2147483648"),
        ({"micro_batch": -1}, "micro_batch: -1 is not a whole number from 1 to 2147483648"),
        ({"packing": None}, "packing: not said, so whether there is a mask"),
        ({"parallel": {"fsdp_zero": "zero2"}}, "parallel fsdp_zero=zero2: not modelled yet"),
        (
            {"notes": "Lengths depend on dataset unless packing=true."},
            "seq_len: a limit; the lengths of the real batches are not recorded",
        ),
        (
            {"framework": "Megatron"},
            "framework Megatron: its model code or its engine is not modelled yet",
        ),
        ({"status": "crashed", "notes": "power cut"}, "status crashed: power cut"),
    ],
)
def test_a_training_row_says_what_it_lacks(change: dict[str, Any], reason: str) -> None:
    """Whatever is not a job of ours is refused by name, for each quantity once."""
    found = scored(changed(TRAINING, **change))
    assert set(found) == {"peak_allocated_gib", "resident_alloc_gib"}
    assert {one.refused for one in found.values()} == {reason}


def test_what_a_row_leaves_open_is_said() -> None:
    """A unit that may be GB, a memory that may be nvidia-smi's: estimated, with the assumption named."""
    row = changed(
        TRAINING, unit_ambiguous=True, metric="not stated", measured={"peak_reserved_gib": 70.0}, grad_accum=16
    )
    job, assumed = training.job_of(row)
    assert job.accumulation == 16
    assert any("taken as GiB" in text for text in assumed)
    assert any("which memory is not stated" in text for text in assumed)
    stated = scored(changed(row, metric="max_memory_reserved"))["peak_reserved_gib"].predicted
    assert stated is not None
    assert (scored(row)["peak_reserved_gib"].predicted or 0) > stated  # the CUDA context comes on top


def test_adapters_of_a_published_row_take_what_was_measured() -> None:
    """LoRA r=16 on Mistral's attention: adapters and states in fp32, activations of one layer at a time."""
    row = changed(
        TRAINING, method="lora", lora={"rank": 16, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]},
        framework_version="torch 2.4.1, transformers 4.48.1, peft 0.13.2",
        measured={"peak_allocated_gib": 24.8706, "resident_alloc_gib": 13.6574},
    )  # fmt: skip
    for outcome in scored(row).values():
        assert abs(outcome.relative_error or 1) < 2e-3, outcome.quantity


def test_a_quantised_base_takes_what_was_measured() -> None:
    """QLoRA as PEFT and TRL prepare it: norms in fp32, and so the residual stream; tables back in bf16."""
    row = changed(
        TRAINING, method="qlora", lora={"rank": 16, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]},
        framework="HF Trainer/TRL SFT (fms-hf-tuning) + fms-acceleration baseline-peft-bnb",
        framework_version="torch 2.4.1, transformers 4.48.1, peft 0.13.2, bnb 0.43.3",
        weight_dtype="nf4 (bnb), rest bf16", precision_mode="amp bf16, params loaded in bfloat16",
        measured={"peak_allocated_gib": 19.2498, "resident_alloc_gib": 4.0112},
    )  # fmt: skip
    for outcome in scored(row).values():
        assert abs(outcome.relative_error or 1) < 2e-3, outcome.quantity


LITGPT: dict[str, Any] = {
    **TRAINING,
    "framework": "litgpt",
    "framework_version": "config_hub README (2024, torch 2.2-2.4)",
    "model": "gemma-2b",
    "method": "qlora",
    "lora": {"rank": 16, "targets": ["lora_query", "lora_head"], "adapter_dtype": "bf16 (bf16-true)"},
    "weight_dtype": "bnb.nf4",
    "precision_mode": "pure bf16 (bf16-true)",
    "optimizer": "torch.optim.AdamW",
    "optimizer_dtype": "bf16",
    "attention_impl": "torch SDPA",
    "checkpointing": "none",
    "loss_impl": "chunked_cross_entropy + lm_head_chunk 128",
    "packing": False,
}


def test_a_row_of_litgpt_is_a_job_of_its_own_code() -> None:
    """Its targets, its release by the torch named, its optimizer of quantised models whatever the row says."""
    job, _ = training.job_of(LITGPT)
    assert (job.model_code, job.targets, job.method) == ("litgpt-0.3", "lora_query,lora_head", "lora")
    assert (job.optimizer, job.quantization, job.padding) == ("paged_adamw_32bit", "nf4", False)


def test_the_config_that_a_row_quotes_names_its_model() -> None:
    """LitGPT's table calls gemma-2-2b gemma-2b; a row of a method of LitGPT's own has no lora."""
    assert named("gemma-2b", "| gemma2-2b/lora.yaml | gemma-2b | 2 |").source.name.startswith("gemma-2-2b")
    assert named("gemma-2b", "None").source.name == "gemma-2b"
    adapter = {**LITGPT, "method": "adapter", "lora": None}
    assert training.job_of(adapter)[0].method == "adapter"


def test_phases_of_a_step_are_scored() -> None:
    """A notebook that prints what is allocated: weights, after forward, after backward with outputs still held."""
    row = changed(
        TRAINING, framework="HF transformers (notebook profile)", framework_version="early 2024",
        model="LlamaForCausalLM random-init: hidden 2048, 24 layers, 16 heads/16 kv, inter 4096, vocab 32000",
        optimizer="none (fwd+bwd only, loss=logits.mean())", loss_impl="logits.mean() (HF logits upcast to fp32)",
        precision_mode="pure bf16", seq_len=512, micro_batch=1, checkpointing="none", packing="fixed length",
        measured={"weights_gib": 2.1523, "allocated_after_backward_gib": 4.4368},
    )  # fmt: skip
    found = scored(row)
    for name in ("weights_gib", "allocated_after_backward_gib"):
        assert abs(found[name].relative_error or 1) < 2e-2, name


def test_a_sequence_is_no_longer_than_learned_positions() -> None:
    """Santacoder has 2048 positions: a limit of 4096 tokens is one of 2048, and the row's peak comes out."""
    row = changed(TRAINING, model="bigcode/gpt_bigcode-santacoder", measured={"peak_allocated_gib": 10.4939})
    assert abs(scored(row)["peak_allocated_gib"].relative_error or 1) < 1e-3


def test_a_job_that_ran_out_of_memory_must_not_fit() -> None:
    """Of an oom row only the verdict counts: Mistral's 67 GiB do not fit an A100-40GB, but they do fit an H200."""
    row = changed(TRAINING, status="oom", measured={"nvidia_smi_gib": 39.1}, confidence="medium")
    small = scored({**row, "gpu": "A100-40GB"})
    assert set(small) == {MUST_NOT_FIT}
    outcome = small[MUST_NOT_FIT]
    assert outcome.status == "too_big"
    assert outcome.measured == find("a100-40gb").capacity_bytes / GIB
    assert outcome.relative_error is None
    assert scored({**row, "gpu": "H200-141GB"})[MUST_NOT_FIT].status == "fits"
    unknown = scored({**row, "gpu": "a card"})[MUST_NOT_FIT]
    assert unknown.refused == "gpu a card: not a GPU that oomph knows"


def test_weights_of_a_serving_row() -> None:
    """Llama-3.1-8B has 8,030,261,248 parameters and 131,072 x 128 angles: 2 bytes each in bf16, 4 in fp32."""
    found = scored(INFERENCE)
    elements = 8030261248 + 131072 * 128
    assert found["weights_gib"].predicted == round(2 * elements / GIB, 2)
    assert found["kv_tokens"].refused == "kv_tokens: the row logs no GiB for keys and values to start from"
    assert set(found) == {"weights_gib", "kv_tokens"}
    assert scored(changed(INFERENCE, dtype="float32"))["weights_gib"].predicted == round(4 * elements / GIB, 2)


def test_tokens_of_a_serving_row_follow_from_the_gib_it_logged() -> None:
    """4 GiB of Llama-3.1-8B's keys and values are 2048 blocks of 16 tokens, 131,072 bytes each."""
    row = changed(
        INFERENCE, max_model_len=8192, measured={"kv_cache_gib": 4.0, "kv_tokens": 32768, "max_concurrency": 4}
    )
    found = scored(row)
    assert (found["kv_tokens"].predicted, found["max_concurrency"].predicted) == (32768, 4.0)


def test_rows_of_quantised_copies_are_of_the_model_they_copy() -> None:
    """Tokens do not depend on weights: a copy whose format is not said exactly still has them."""
    measured = {"weights_gib": 5.6, "kv_cache_gib": 2.39, "kv_blocks": 1224}
    row = changed(INFERENCE, model="unsloth/meta-llama-3.1-8b-instruct-unsloth-bnb-4bit (local)", quant="bnb-nf4",
                  measured=measured, max_model_len=1024)  # fmt: skip
    found = scored(row)
    assert found["weights_gib"].refused == "quant bnb-nf4: which format that is, is not said exactly"
    assert found["kv_blocks"].predicted == pytest.approx(1224, rel=2e-3)


def test_a_row_of_an_unknown_gpu_has_no_room_from_its_configuration() -> None:
    """An A100 has 40 or 80 GB: weights come out, what is left of the memory does not."""
    measured = {"weights_gib": 14.99, "kv_cache_gib": 19.24}
    row = changed(INFERENCE, gpu="NVIDIA A100", gpu_memory_utilization=0.9, measured=measured)
    assert "which GPU is not said exactly" in str(scored(row)["kv_cache_gib"].refused)
    known = scored({**row, "gpu": "A100 40GB", "max_num_batched_tokens": 2048, "engine_version": "0.11.0"})
    assert known["kv_cache_gib"].predicted == pytest.approx(19.24, rel=0.05)


def test_drafts_of_a_row_are_read_from_its_notes() -> None:
    """Qwen3.6-35B-A3B in 74.22 GiB with three tokens guessed ahead: 12.84 requests of 262,144 (vLLM 0.25.1)."""
    row = changed(
        INFERENCE, model="RedHatAI/Qwen3.6-35B-A3B-NVFP4", quant="compressed-tensors", engine_version="0.25.1",
        max_model_len=262144, measured={"kv_cache_gib": 74.22, "max_concurrency": 12.84},
        notes="speculative decoding enabled: SpeculativeConfig(method='mtp', model='x', num_spec_tokens=3)",
    )  # fmt: skip
    assert scored(row)["max_concurrency"].predicted == 12.84


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tp": -2}, "tp: -2 is not a whole number from 1 to 2147483648"),
        ({"engine": "exllama"}, "engine exllama: not modelled yet"),
        ({"quant": "hqq"}, "quant hqq: which format that is, is not said exactly"),
        ({"quant": ["fp8"]}, "quant: ['fp8'] is not text"),
        ({"dtype": "int3"}, "dtype int3: not a dtype of weights that oomph knows"),
        ({"dtype": ["bfloat16"]}, "dtype ['bfloat16']: not a dtype of weights that oomph knows"),
        (
            {"notes": "Unsloth fast_inference"},
            "weights with Unsloth: slots for adapters are counted in it, of a rank that the program chose and the row"
            " does not say",
        ),
        ({"notes": ["do not score weights_gib"]}, "weights_gib: the row's notes say not to score it"),
        ({"measured": {"weights_gib": -1}}, "weights_gib: -1 is no measurement of memory"),
        ({"measured": {"weights_gib": "14.99"}}, "weights_gib: 14.99 is no measurement of memory"),
        ({"measured": {"weights_gib": 10**400}}, "weights_gib: 1" + "0" * 56 + "... is no measurement of memory"),
        ({"confidence": "low"}, "confidence low: not asked for"),
        ({"confidence": 7}, "confidence low: not asked for"),
    ],
)
def test_a_serving_row_says_what_it_lacks(change: dict[str, Any], reason: str) -> None:
    """Refusals name the setting, the engine or the field."""
    assert scored(changed(INFERENCE, **change))["weights_gib"].refused == reason


def test_a_published_format_is_the_models_own() -> None:
    """gpt-oss is published in MXFP4, so quant=mxfp4 is as published; none would be another model."""
    row = changed(INFERENCE, model="openai/gpt-oss-20b", quant="mxfp4")
    hidden, experts, layers, vocab, block = 2880, 32, 24, 201088, 32
    mxfp4 = experts * 3 * hidden * (hidden // block) * (block // 2 + 1)  # codes of 4 bits and a scale byte per block
    attention = 2 * 4096 * hidden + 4096 + hidden + 2 * 512 * (hidden + 1) + 64  # q, o, k, v with biases; sinks
    others = experts * 3 * hidden + experts * (hidden + 1) + 2 * hidden  # experts' biases, router, norms
    by_hand = layers * (mxfp4 + 2 * (attention + others)) + 2 * (2 * vocab * hidden + hidden)
    padded = 3072 / 2880 * 2944 / 2880  # Marlin's multiples of 256 and 128
    found = scored(row)["weights_gib"].predicted
    assert found is not None
    assert found == pytest.approx((by_hand + layers * mxfp4 * (padded - 1)) / GIB, rel=5e-3)
    row["quant"] = "BF16"
    assert scored(row)["weights_gib"].refused == "quant BF16: the model is published in mxfp4"


def test_generating_is_a_prefill_and_a_last_token() -> None:
    """8192 tokens with 6144 read at once: the last of the cache's 8191 is read alone."""
    found = catalogued(GENERATE["model"])
    assert transformers.jobs_of(GENERATE, found) == (InferJob(1, 6144), InferJob(1, 8190, decode=1))
    outcome = scored(GENERATE)["peak_gib"]
    assert outcome.refused is None
    assert abs(outcome.relative_error or 1) < 0.01


def test_a_row_of_what_stands_at_the_end_is_scored_as_that() -> None:
    """QwenLM's table of Qwen3: weights and 1+2047 cached tokens of 2 x 28 x 8 x 128 numbers, no prefill in it."""
    row = changed(
        GENERATE, model="Qwen/Qwen3-0.6B", input_len=1, total_len=2049, notes="treat as steady-state, not true peak"
    )
    outcome = scored(row)["peak_gib"]
    assert outcome.predicted is not None
    by_hand = 2 * 596049920 + 2 * 2 * 28 * 8 * 128 * 2048
    assert by_hand < outcome.predicted * GIB < by_hand + 40 * 2**20  # two cuBLAS workspaces, tables of rotary angles


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"quant": "EXL2"}, "quant EXL2: how such weights are kept is not known here"),
        ({"quant": ["AWQ"]}, "quant ['AWQ']: how such weights are kept is not known here"),
        ({"total_len": 6145}, "total_len: not two tokens more than input_len"),
        ({"n_gpus": 2000}, "n_gpus: 2000 is not a whole number from 1 to 64"),
    ],
)
def test_a_row_of_generating_says_what_it_lacks(change: dict[str, Any], reason: str) -> None:
    """Versions, formats and lengths that no job says are refused."""
    assert reasons(changed(GENERATE, **change)) == {reason}


@pytest.mark.parametrize(
    ("change", "by_hand", "above"),
    [
        # Logits of every token in bf16 and fp32, weights, cache, tables of sines: 26 of 27.6 GiB are logits.
        (
            {"model": "Qwen/Qwen2-0.5B-Instruct", "engine_version": "4.38.2", "input_len": 30720, "total_len": 32768},
            30720 * (151936 * 6 + 12288) + 2 * 494032768 + 24 * 2 * 32768 * 64 * 2,
            0.004,
        ),
        # AutoAWQ's files hold the head beside the embedding it is tied to: more than 2048 tokens take.
        (
            {"quant": "AWQ", "input_len": 1, "total_len": 2049},
            2 * 151936 * 896 * 2 + 24 * (2 * 896 * 896 + 2 * 896 * 128 + 3 * 896 * 4864) * (0.5 + 2.5 / 128),
            0.002,
        ),
        # Two GPUs: weights and cache once, three tensors of the MLP and what stands beside them twice.
        (
            {"model": "Qwen/Qwen2.5-72B-Instruct", "n_gpus": 2},
            2 * 72706203648 + 6144 * (80 * 2 * 8 * 128 * 2 + 2 * (3 * 29568 + 2 * 8192) * 2),
            0.004,
        ),
    ],
)
def test_rows_of_other_versions_formats_and_gpus(change: dict[str, Any], by_hand: float, above: float) -> None:
    """What makes up most of a peak, by hand; what comes on top is little."""
    outcome = scored(changed(GENERATE, **change))["peak_gib"]
    assert outcome.refused is None
    assert outcome.predicted is not None
    assert by_hand < outcome.predicted * GIB < by_hand * (1 + above) + 24 * 2**20


def test_an_xmem_row_is_the_job_of_its_script() -> None:
    """fp32, a padding mask, efficient attention, outputs held; Adam is AdamW without decay, Adafactor that of torch."""
    wanted = TrainJob(
        batch=47, seq_len=128, precision="fp32", attention="efficient", padding=True, use_cache=True, keep_outputs=True,
        heads_of_4_51=True, zero_grad="before-forward",
    )  # fmt: skip
    assert xmem.job_of(XMEM) == wanted
    assert xmem.job_of(changed(XMEM, optimizer="Adam")) == wanted
    assert xmem.job_of(changed(XMEM, optimizer="SGD")).optimizer == "sgd"
    assert xmem.job_of(changed(XMEM, optimizer="Adafactor")).optimizer == "adafactor-torch"
    assert xmem.job_of(changed(XMEM, zero_grad_mode=1)).zero_grad == "before-backward"
    assert xmem.job_of(changed(XMEM, zero_grad_mode=2)).zero_grad == "after-step"


def test_an_xmem_row_is_scored_on_reserved_memory() -> None:
    """NVML saw 18 MiB more than torch reserved; how much of a context is in that is not known, so it is not scored."""
    found = scored(XMEM)
    outcome = found["torch_reserved_peak_gib_est"]
    assert abs(outcome.relative_error or 1) < 0.02
    assert set(found) == {"torch_reserved_peak_gib_est", "nvml_peak_gib"}
    assert "CUDA context" in (found["nvml_peak_gib"].refused or "")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"optimizer": "Lion"}, "optimizer Lion: not modelled yet"),
        ({"seq_len": None}, "seq_len: not said"),
        ({"zero_grad_mode": 3}, "zero_grad_mode=3: 0, 1 and 2 are known"),
        ({"zero_grad_mode": [0]}, "zero_grad_mode=[0]: 0, 1 and 2 are known"),
        ({"dtype": "float16"}, "dtype or checkpointing: only fp32 without checkpointing is known of this script"),
    ],
)
def test_an_xmem_row_says_what_it_lacks(change: dict[str, Any], reason: str) -> None:
    """What the script did in another way is refused."""
    assert reasons(changed(XMEM, **change)) == {reason}


def test_a_measured_row_needs_no_catalogue() -> None:
    """Its config is in it. SGD keeps no states: what stays are 13,107,200 bytes of bf16 weights by hand and tables."""
    found = scored(MEASURED)
    assert set(found) == {"peak_allocated_gib", "peak_reserved_gib", "nvidia_smi_gib", "resident_alloc_gib"}
    assert all(one.refused is None for one in found.values())
    hidden, ffn, vocab, layers = 512, 1024, 1024, 4
    per_layer = 4 * hidden * hidden + 3 * hidden * ffn + 2 * hidden
    weights = 2 * (layers * per_layer + 2 * vocab * hidden + hidden)
    workspaces = 2 * rule("cublas_workspace", find("h100")).n_bytes
    resident = round((found["resident_alloc_gib"].predicted or 0) * GIB)
    assert weights <= resident - workspaces <= weights + 2 * 512  # two tables of 32 frequencies
    assert found["peak_allocated_gib"].measured == 100 * 2**20 / GIB  # the exact bytes, not the rounded GiB


def test_a_measured_row_of_inference() -> None:
    """Kind infer makes an InferJob; a quantity is read from the figure of its name."""
    job = {
        "batch": 1, "seq_len": 64, "decode": 1, "precision": "bf16", "attention": "flash", "padding": False,
        "cache": "dynamic", "max_cache_len": 0, "logits_to_keep": 1,
    }  # fmt: skip
    row = {**MEASURED, "kind": "infer", "job": job}
    assert reasons(row) == {None}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"job": {"seq_len": "64"}}, "job.seq_len: 64 is not int"),
        ({"job": {"padding": 1}}, "job.padding: 1 is not bool"),
        ({"job": {"batch": True}}, "job.batch: True is not int"),
        ({"job": {"attention": None}}, "job.attention: unknown is not str"),
        ({"job": {"attention": "warp"}}, "attention cannot be 'warp'"),
        ({"job": {"batch": 0}}, "batch cannot be 0"),
        ({"job": {"new": 1}}, "job.new: no input of a job that this oomph has"),
        ({"kind": "dream"}, "kind dream: neither train nor infer"),
        ({"config": {"model_type": "phi99"}}, None),
        ({"config": {"hidden_size": -1}}, None),
        ({"config": {"num_hidden_layers": 10**9}}, None),
        ({"status": "error", "reason": "Boom"}, "status error: Boom"),
    ],
)
def test_a_measured_row_says_what_it_lacks(change: dict[str, Any], reason: str | None) -> None:
    """Wrong inputs and impossible configs are refused; None stands for the config reader's own words."""
    found = reasons(changed(MEASURED, **change))
    assert None not in found
    assert reason is None or found == {reason}


def test_an_input_that_came_later_has_its_default() -> None:
    """A row written before jobs could say `keep_outputs` is estimated as if it had said no, and says so."""
    row = {**MEASURED, "job": {name: value for name, value in JOB.items() if name != "keep_outputs"}}
    old, new = scored(row)["peak_allocated_gib"], scored(MEASURED)["peak_allocated_gib"]
    assert old.predicted == new.predicted
    assert (old.assumed, new.assumed) == (("not said, so the default: keep_outputs",), ())


def test_a_job_that_is_none_is_refused() -> None:
    """Job and config must be objects."""
    assert reasons({**MEASURED, "job": []}) == {"job: not an object"}
    assert reasons({**MEASURED, "config": "tiny"}) == {"config: not an object"}


def test_an_allocator_told_otherwise_is_scored_on_tensors_only() -> None:
    """Expandable segments change reserved memory, not what is allocated."""
    row = {**MEASURED, "environment": {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}}
    found = scored(row)
    assert found["peak_allocated_gib"].refused is None
    assert "PYTORCH_CUDA_ALLOC_CONF" in (found["peak_reserved_gib"].refused or "")
    assert "PYTORCH_CUDA_ALLOC_CONF" in (found["nvidia_smi_gib"].refused or "")


def test_a_measured_row_that_ran_out_uses_the_memory_its_gpu_said() -> None:
    """device.total_bytes replaces the table's figure; no job fits a GPU of 64 MiB."""
    row = {**MEASURED, "status": "oom", "device": {"total_bytes": 64 * 2**20}}
    outcome = scored(row)[MUST_NOT_FIT]
    assert (outcome.measured, outcome.status) == (64 * 2**20 / GIB, "too_big")


def test_an_unknown_gpu_leaves_what_needs_none() -> None:
    """Allocated and reserved memory are estimated without a device, what a driver shows is not."""
    found = scored({**MEASURED, "gpu": None, "device": None})
    assert found["peak_allocated_gib"].refused is None
    assert found["nvidia_smi_gib"].refused == "gpu: not known, and device memory depends on it"


@pytest.mark.parametrize("row", [{}, {"a": 1}, {"engine": "vllm"}, {"schema": None, "measured": {}}])
def test_a_row_without_a_schema_is_an_error_that_shows_what_is_expected(row: dict[str, Any]) -> None:
    """Nothing can be told of such a row, so it is no refusal."""
    with pytest.raises(SourceError, match="has no schema that oomph knows") as error:
        scored(row)
    for words in ("training: framework, method, measured", "inference: engine, model, measured"):
        assert words in error.value.fix


def test_a_later_schema_is_an_error_that_says_which_is_read() -> None:
    """oomph-measure-2 may mean anything."""
    with pytest.raises(SourceError, match="oomph-measure-2") as error:
        scored({**MEASURED, "schema": "oomph-measure-2"})
    assert "oomph-measure-1" in error.value.fix


@pytest.mark.parametrize("measured", [None, [], "14 GiB", {}, {"per_device": {"model": 1}}, {"weights_gib": None}])
def test_a_row_that_measured_nothing_is_one_refusal(measured: Any) -> None:
    """It is counted, under the quantity "nothing"."""
    found = scored({**INFERENCE, "measured": measured})
    assert list(found) == ["nothing"]
    assert found["nothing"].refused


@pytest.mark.parametrize("ident", [None, 7, "", {"a": 1}])
def test_a_row_without_an_id_is_named_by_its_line(ident: Any) -> None:
    """An outcome always says which row it is of."""
    assert {one.id for one in scored({**INFERENCE, "id": ident}).values()} == {"Line 1 of rows.jsonl"}


def test_a_pool_that_gave_a_constant_is_not_scored_with_it() -> None:
    """Memory beside torch on two T4 is what such pools left over: no check of anything."""
    row = changed(INFERENCE, gpu="Tesla T4", tp=2, gpu_memory_utilization=0.85, measured={"kv_cache_gib": 3.9})
    refused = scored(row)["kv_cache_gib"].refused
    assert refused is not None
    assert "judged by" in refused
