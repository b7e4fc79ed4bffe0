"""The words of published training rows, and what they mean: programs, methods, losses, kernels, names of models."""

from __future__ import annotations

import re
from typing import Any, Literal

from oomph.answer import Subject
from oomph.job_words import Checkpointing, Implementation, Kernel
from oomph.runtimes.base import Versions
from oomph.score.asking import catalogued, configured
from oomph.score.reading import refuse, shown

# Which runtime a framework's name means, by its start; the first that fits.
FRAMEWORKS: tuple[tuple[str, str], ...] = (
    ("HF Trainer/TRL SFT (fms-hf-tuning)", "fms"),
    ("Qwen finetune.py", "qwen"),
    ("ms-swift", "swift"),
    ("HF transformers (notebook profile)", "pytorch"),
    ("litgpt", "litgpt"),
    ("torchtune", "torchtune"),
    ("TRL SFTTrainer", "trl"),
    ("HF Trainer", "trainer"),
)
# What a framework's own requirements say of versions that no row names: ms-swift's framework.txt of January 2024 has
# transformers below 4.37 and peft from 0.7.1 up to 0.8.
REQUIRED = {"ms-swift 2.x": "transformers 4.36, peft 0.7"}
FULL = ("full", "full SFT")
BESIDE = " + "  # between a method and an objective: "lora + dpo"
ADAPTERS = ("adapter", "adapter_v2")  # LitGPT's
LORA = ("lora", "lora+emb/head full")
QLORA = ("qlora",)
GPTQ = ("gptq-lora",)
NARROW = {  # dtype of what is not quantised
    "nf4 (bnb), rest bf16": "bf16", "bnb.nf4": "bf16", "bnb.nf4-dq": "bf16", "bnb nf4": "bf16", "nf4": "bf16",
    "nf4 (no double quant), lm_head bf16": "bf16", "nf4 (torchao NF4Tensor, double quant)": "bf16",
    "gptq-int4, rest fp16": "fp16", "gptq-int4": "fp16", "gptq-int8": "fp16",
}  # fmt: skip
PACKED = (("gptq-int4", "gptq-4bit"), ("gptq-int8", "gptq-8bit"))
# Checkpoints whose groups are as long as a column: the main branch of TheBloke's 70B models.
PER_COLUMN = ("TheBloke/Llama-2-70B",)
SINGLE = ("bnb.nf4", "nf4 (no double quant), lm_head bf16")  # without quantised scales
LOSSES: dict[str, str] = {  # "" is the program's own
    "eager": "",
    "eager (HF)": "",
    "eager HF": "",
    "eager HF remote code (CrossEntropyLoss on logits)": "",
    "eager (2-class)": "",
    "fused triton cross-entropy (foak FastCrossEntropy), logits materialised": "fused",
    "liger fused linear CE": "liger-fms",
    "chunked_cross_entropy": "",
    "chunked_cross_entropy + lm_head_chunk 128": "",
    "chunked_cross_entropy (chunk 128 over logits; lm_head_chunk_size=128 for LoRA)": "",
    "CEWithChunkedOutputLoss": "",
    "CrossEntropyLoss (unchunked)": "hf-4.45",
    "logits.mean() (HF logits upcast to fp32)": "mean",
}
CLASSIFIER = re.compile(r"(.+) \(sequence classification\)")  # how rows name a model under another head
OPTIMIZERS: dict[str, dict[str, Any]] = {  # all but AdamW of torch.optim
    "AdamW (adamw_hf)": {"optimizer": "adamw_hf"},
    "Adafactor": {"optimizer": "adafactor"},
    "bnb Adam8bit": {"optimizer": "adamw_bnb_8bit", "embedding_32bit": False},
}
IMPLEMENTATIONS: dict[str, Implementation] = {
    "AdamW (HF adamw_torch default)": "foreach",
    "AdamW (HF adamw_torch)": "foreach",
    "AdamW (adamw_torch)": "foreach",
    "torch.optim.AdamW": "foreach",
    "AdamW": "foreach",
    "adamw_torch": "foreach",
    "adamw_torch_fused": "fused",
}
ATTENTION: dict[str, Kernel] = {
    "flash_attention_2": "flash_attention_2",
    "flash_attention_3": "flash_attention_3",
    "flash_attn": "flash_attention_2",
    "flash_attn 2": "flash",
    "flash attention": "flash",
    "flash-attn 2 (Qwen remote code)": "flash",
    "flash": "flash",
    "torch SDPA": "flash",
    "torch SDPA / FlexAttention when packed": "flash",
    "HF llama default of the time (sdpa/eager not stated)": "flash",
    "eager": "eager",
    "eager (flash off)": "eager",
}
# How layers are checkpointed; True where that is its program's way, or transformers'.
CHECKPOINTING: dict[str, Checkpointing | Literal[True]] = {
    "none": "none",
    "none (single device)": "none",
    "full": True,
    "full (HF)": True,
    "full (HF gradient_checkpointing)": True,
    "full (HF gradient_checkpointing=True)": True,
    "full (HF, use_reentrant=False)": "non-reentrant",
}
UNSTATED_LENGTHS = ("Lengths depend on dataset", "token count per batch unknown", "batch lengths unknown")
UNSTATED_METRIC = "not stated"
# Tables whose G are thousands of nvidia-smi's MiB, of processes that loaded all kernels at once: docs/accuracy.md.
SMI_TABLES = ("Qwen finetune.py",)
# Editions of tables whose processes loaded all kernels at once, by the end of their address: jobs of equal peaks took
# 1.1 to 1.3 GiB less in the edition before, and weigh what they should there. docs/accuracy.md.
EAGER_TABLES = ("fms-acceleration/blob/main/scripts/benchmarks/refs/a100_80gb.csv",)
# What rows call models that the catalogue has under another name.
MODELS: dict[str, str] = {
    "NousResearch/Llama-2-70b-hf": "llama-2-70b",
    "TheBloke/Llama-2-70B-GPTQ": "llama-2-70b",
    "Llama 2 7 B": "llama-2-7b",
    "Llama 2 13 B": "llama-2-13b",
    "Falcon 40 B": "falcon-40b",
    "mistral-7b-v0.2": "mistral-7b-instruct-v0.2",
    "Qwen-1.8B": "qwen-1-8b-chat",
    "Qwen-1.8B-Chat": "qwen-1-8b-chat",
    "Qwen-1.8B-Chat-Int4": "qwen-1-8b-chat",
    "Qwen-7B": "qwen-7b-chat",
    "Qwen-7B-Chat-Int4": "qwen-7b-chat",
    "Qwen-14B": "qwen-14b-chat",
    "Qwen-14B-Chat-Int4": "qwen-14b-chat",
    "Qwen-72B-Chat-Int4": "qwen-72b-chat",
    "yi-6b-chat": "yi-6b",
    "openbuddy-zephyr-7b-chat": "zephyr-7b-beta",
    "baichuan2-7b-chat": "baichuan2-7b-base",
    "tiny-llama": "tinyllama-1.1b-chat-v1.0",
    "StableLM Alpha 3 B": "stablelm-base-alpha-3b",
    "StableLM Alpha 3B": "stablelm-base-alpha-3b",
    "phi-1.5 1.3 B": "phi-1.5",
}
CONFIGS = {"gemma2-2b": "gemma-2-2b", "gemma2b": "gemma-2-2b"}  # of LitGPT's table, whose column says gemma-2b
_CONFIG = re.compile(r"\| *([\w.-]{1,60})/\w{1,20}\.yaml *\|")
DEFAULT_TARGETS = (("qwen", "c_attn"), ("baichuan", "W_pack"), ("chatglm", "query_key_value"))  # ms-swift's, by name
TARGETS = {  # torchtune's words
    "q": "q_proj", "k": "k_proj", "v": "v_proj", "output_proj": "o_proj", "mlp": "gate_proj,up_proj,down_proj",
}  # fmt: skip
LAZY_SINCE = (1, 13)  # torch from which on CUDA loads kernels when they are first called
QKV = "q_proj,k_proj,v_proj"
_LENGTHS = re.compile(r"\btokens (\d{1,9}±\d{1,9}) ", re.ASCII)
_RANDOM = re.compile(
    r"LlamaForCausalLM random-init: hidden (\d{1,6}), (\d{1,3}) layers, (\d{1,3}) heads/(\d{1,3}) kv, "
    r"inter (\d{1,6}), vocab (\d{1,7})"
)


def versions_of(said: str, framework: str) -> Versions:
    """Return the versions of libraries that a row names, and those that its framework asked for.

    >>> versions_of("torch 2.1.1", "ms-swift 2.x (HF Trainer)").of("transformers")
    (4, 36)
    """
    required = (text for start, text in REQUIRED.items() if framework.startswith(start))
    return Versions.found_in(", ".join((said, *required)))


def lengths(said: str) -> dict[str, str]:
    """Return how long the samples are, where a row says so."""
    found = _LENGTHS.search(said)
    return {"lengths": found[1]} if found else {}


def described(model: str) -> Subject | None:
    """Return the model that a row spells out instead of naming it, None for a name."""
    found = _RANDOM.fullmatch(model)
    if found is None:
        return None
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
            "vocab_size")  # fmt: skip
    sizes = dict(zip(keys, map(int, found.groups()), strict=True))
    return configured(model, {"model_type": "llama", "tie_word_embeddings": False, **sizes})


def named(model: str, quote: str) -> Subject:
    """Return the model a row names, under whatever head, or that of the config file that its quote begins with."""
    classifies, config = CLASSIFIER.fullmatch(model), _CONFIG.match(quote[:100])
    model = classifies[1] if classifies else model
    return catalogued(CONFIGS.get(config[1] if config else "", MODELS.get(model, model)))


def quantisation(said: str, framework: str) -> dict[str, Any]:
    """Return how a base is quantised and prepared: fms-acceleration's own path, ms-swift and LitGPT prepare nothing."""
    if said not in NARROW:
        raise refuse(f"weights {shown(said)}", "not modelled yet")
    by_trl = "baseline-peft-bnb" in framework
    return {
        "quantization": "nf4" if said in SINGLE else "nf4-dq",
        "kbit_preparation": by_trl,
        "narrow_tables": by_trl,
    }


def packed(said: str, model: str, framework: str) -> dict[str, Any]:
    """Return which GPTQ checkpoint a base is and what computes with it, which is fp16 whatever a table's header says.

    fms-acceleration has its own copy of auto_gptq with a Triton kernel; Qwen's and ms-swift's scripts load by
    transformers 4 with exllama off, and no checkpoint of Qwen's is in order of activation.
    """
    bits = next((name for start, name in PACKED if said.startswith(start)), None)
    if bits is None:
        raise refuse(f"weights {shown(said)}", "not modelled yet")
    return {
        "quantization": f"{bits}-{'column' if model.startswith(PER_COLUMN) else 'g128'}",
        "gptq_kernel": "triton" if "autogptq" in framework else "cuda-old",
        "precision": "fp16",
        "adapter_dtype": "fp32",  # PEFT makes them so, and moves them to a dtype only where the map has one
    }


def there(found: Subject, targets: str) -> str:
    """Return those of the names that the model has: PEFT takes one list for many models, as long as one name fits."""
    modules = {name.split(".")[-2] for name in (weight.name for weight in found.model.weights) if "." in name}
    kept = [name for name in targets.split(",") if name in modules]
    return ",".join(kept) or targets


def positions(found: Subject) -> int:
    """Return how many positions a model has learned vectors for; 0 where it computes them."""
    kinds = {weight.kind: weight.shape[0] for weight in found.model.weights}
    return kinds.get("position_embedding", 0)


def default_targets(model: str, said: Any) -> str:
    """Return which modules a program's default means for a model; refused where a row says nothing of them."""
    if not isinstance(said, str):
        raise refuse("lora targets", shown(said))
    if said.startswith("PEFT llama default"):
        return "q_proj,v_proj"
    if said.startswith("DEFAULT"):
        return next((names for start, names in DEFAULT_TARGETS if model.lower().startswith(start)), QKV)
    if said.startswith("ALL"):
        return "all-linear"
    raise refuse("lora targets", shown(said))
