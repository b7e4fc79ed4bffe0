"""Jobs beyond plain cross entropy whose events were recorded from a library's own code, by its name and version."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

from oomph.compare import Step
from oomph.job import TrainJob
from tests.objectives.embedding_cases import EMBEDDINGS, EMBEDDINGS_OF_5
from tests.objectives.factory_cases import FACTORY

HERE = Path(__file__).parent
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 515,
    "num_hidden_layers": 1,
    "hidden_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
}
JUDGE = LLAMA | {"architectures": ["LlamaForSequenceClassification"], "num_labels": 1, "pad_token_id": 0}
TIED = LLAMA | {"tie_word_embeddings": True}
WIDE = LLAMA | {"vocab_size": 70_001}  # three tiles of columns
PYTHIA: dict[str, Any] = {
    "model_type": "gpt_neox",
    "vocab_size": 515,
    "num_hidden_layers": 2,
    "hidden_size": 48,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
SOFTCAP = LLAMA | {"model_type": "gemma2", "head_dim": 12}
AMP: dict[str, Any] = {"precision": "amp-bf16", "fp32_outputs": True}
Cases = dict[str, tuple[dict[str, Any], TrainJob]]


def fused(batch: int = 2, seq_len: int = 37, **options: Any) -> TrainJob:
    """Return a job with TRL's fused head."""
    return TrainJob(batch, seq_len, **{"loss": "fused-head", "hold_logits": False, **options})


def pairs(batch: int = 2, seq_len: int = 37, **options: Any) -> TrainJob:
    """Return a job of DPO."""
    return TrainJob(batch, seq_len, **{"objective": "dpo", **options})


def chunked(batch: int = 2, seq_len: int = 37, **options: Any) -> TrainJob:
    """Return a job with TRL's chunked_nll."""
    return fused(batch, seq_len, **{"loss": "chunked-nll", **options})


def ppo(batch: int = 2, seq_len: int = 37, **options: Any) -> TrainJob:
    """Return a job of PPO, whose trainer switches dropout off."""
    return TrainJob(batch, seq_len, **{"objective": "ppo", "prompt_len": 10, "dropout": False, **options})


ASKED = LLAMA | {"pad_token_id": 0}  # a model whose tokenizer pads, as PPOTrainer wants it
CASES: dict[str, Cases] = {
    "trl 1.12": {
        "ppo": (ASKED, ppo()),
        "ppo, two layers, amp": (ASKED | {"num_hidden_layers": 2}, ppo(implementation="fused", **AMP)),
        "ppo, tied, fp32, two rollouts": (
            TIED | ASKED,
            ppo(1, 12, precision="fp32", prompt_len=5, accumulation=3, rollout_batch=2),
        ),
        "ppo, lora, two mini-batches, amp": (ASKED, ppo(method="lora", accumulation=2, mini_batches=2, **AMP)),
        "ppo, tied, padding, first step": (
            TIED | ASKED,
            ppo(padding=True, steady=False, optimizer="none", autocast=True, fp32_outputs=True),
        ),
        "ppo, pythia, padding": (PYTHIA, ppo(padding=True, precision="fp32", accumulation=2)),
        "ppo, bounded logits, padding, amp": (SOFTCAP | ASKED | {"model_type": "gemma2"}, ppo(padding=True, **AMP)),
    },
    "trl 1.14": {
        "one chunk": (LLAMA, chunked()),
        "just one chunk": (LLAMA, chunked(1, 257)),
        "four chunks, tied, amp": (TIED, chunked(9, 100, checkpointing="non-reentrant", **AMP)),
        "two chunks of one row, fp32": (LLAMA, chunked(1, 255 + 20, precision="fp32", accumulation=2, prompt_len=9)),
        "lora, amp": (LLAMA, chunked(5, 100, method="lora", checkpointing="non-reentrant", prompt_len=60, **AMP)),
    },
    "trl 1.16": {
        "fused head": (LLAMA, fused()),
        "fused head, tied, fp32": (TIED, fused(precision="fp32", accumulation=2)),
        "packed for flash-attn, amp": (
            LLAMA,
            fused(
                packing=True,
                padding_free=True,
                packed_by="lengths",
                attention="flash_attention_2",
                checkpointing="non-reentrant",
                **AMP,
            ),
        ),
        "padding-free, tied, prompts": (TIED, fused(3, 20, padding_free=True, packed_by="lengths", prompt_len=5)),
        "fused head, three tiles of columns, amp": (WIDE | {"tie_word_embeddings": True}, fused(3, **AMP)),
        "fused head, two tiles of tokens": (WIDE, fused(45, 100, prompt_len=5, **AMP)),
        "fused head, lora, prompt": (LLAMA, fused(method="lora", checkpointing="non-reentrant", prompt_len=9, **AMP)),
        "fused head, bounded logits": (SOFTCAP, fused()),
        "dpo": (LLAMA, pairs(optimizer="none")),
        "dpo, tied, padding": (TIED, pairs(padding=True, prompt_len=10)),
        "dpo, lora, amp": (LLAMA, pairs(method="lora", checkpointing="non-reentrant", **AMP)),
        "dpo, precomputed, amp": (LLAMA, pairs(reference="precomputed", accumulation=2, prompt_len=1, **AMP)),
        "dpo, qlora": (LLAMA, pairs(method="qlora", checkpointing="reentrant", steady=False)),
        "ipo": (LLAMA, pairs(1, objective="ipo", clip_gradients=True)),
        "cpo": (LLAMA, pairs(objective="cpo", prompt_len=5)),
        "cpo, one pair, lora, amp": (LLAMA, pairs(1, objective="cpo", method="lora", checkpointing="reentrant", **AMP)),
        "simpo, tied": (TIED, pairs(objective="simpo", accumulation=2)),
        "simpo, bounded logits, padding, amp": (SOFTCAP, pairs(objective="simpo", padding=True, **AMP)),
        "grpo": (LLAMA, pairs(objective="grpo", prompt_len=10)),
        "grpo, lora, amp": (LLAMA, pairs(3, objective="grpo", prompt_len=1, method="lora", accumulation=2, **AMP)),
        "grpo, tied, padding, amp": (TIED, pairs(objective="grpo", prompt_len=20, padding=True, **AMP)),
        "grpo-kl": (LLAMA, pairs(objective="grpo-kl", prompt_len=10)),
        "grpo-kl, lora, padding, amp": (
            TIED,
            pairs(3, objective="grpo-kl", prompt_len=5, method="lora", padding=True, accumulation=2, **AMP),
        ),
        "rloo": (LLAMA, pairs(objective="rloo", prompt_len=10)),
        "rloo, lora, padding, amp": (
            TIED,
            pairs(1, objective="rloo", method="lora", padding=True, prompt_len=1, **AMP),
        ),
        "orpo": (LLAMA, pairs(objective="orpo")),
        "orpo, tied, padding, amp": (
            TIED,
            pairs(1, objective="orpo", padding=True, accumulation=2, prompt_len=3, **AMP),
        ),
        "orpo, lora": (LLAMA, pairs(1, objective="orpo", method="lora", checkpointing="non-reentrant")),
        "gkd": (LLAMA, pairs(objective="gkd", prompt_len=5)),
        "gkd, padding, amp": (
            TIED,
            pairs(
                objective="gkd", padding=True, prompt_len=5, checkpointing="non-reentrant", teacher_dtype="bf16", **AMP
            ),
        ),
        "gkd, lora": (LLAMA, pairs(1, objective="gkd", method="lora", accumulation=2)),
        "gkd, qlora": (LLAMA, pairs(objective="gkd", method="qlora", checkpointing="reentrant")),
        "gkd as kl, bounded logits": (SOFTCAP, pairs(objective="gkd-kl", padding=True)),
        "distill": (LLAMA, pairs(objective="distill", prompt_len=10)),
        "distill, tied, padding, checkpointed": (
            TIED | {"num_hidden_layers": 2},
            pairs(1, objective="distill", prompt_len=5, padding=True, checkpointing="non-reentrant", accumulation=2),
        ),
        "distill, lora, fp32 teacher": (
            LLAMA,
            pairs(objective="distill", prompt_len=1, method="lora", teacher_dtype="fp32", adapter_dtype="base"),
        ),
        "distill, fp32, two tiles of tokens, three of columns": (
            WIDE,
            pairs(45, 100, objective="distill", prompt_len=5, precision="fp32", optimizer="none"),
        ),
        "distill, bounded logits": (SOFTCAP, pairs(objective="distill", prompt_len=10, optimizer="none")),
        "reward": (JUDGE, pairs(objective="reward")),
        "reward, padding, amp": (JUDGE, pairs(3, objective="reward", padding=True, accumulation=2, **AMP)),
        "kto": (LLAMA, pairs(objective="kto")),
        "kto, lora, padding, amp": (
            TIED,
            pairs(4, objective="kto", method="lora", padding=True, prompt_len=7, checkpointing="non-reentrant", **AMP),
        ),
        "kto, precomputed, amp": (LLAMA, pairs(objective="kto", reference="precomputed", accumulation=2, **AMP)),
        "ipo, bounded logits, first step": (SOFTCAP, pairs(1, objective="ipo", steady=False, prompt_len=3)),
    },
    "sentence-transformers 5.7": EMBEDDINGS_OF_5,
    "sentence-transformers 6.2": EMBEDDINGS,
    "llamafactory 0.9": FACTORY,
}


def golden_file(version: str) -> Path:
    """Return where the events of a version of a library are kept."""
    return HERE / f"{version.replace(' ', '-')}.json"


def packed(events: list[Step]) -> str:
    """Return events as text: bytes of each allocation, -1 - number of each free, compressed."""
    numbers = [one.n_bytes if one.sign > 0 else (-1 - one.number if one.number >= 0 else 0) for one in events]
    return base64.b85encode(zlib.compress(json.dumps(numbers, separators=(",", ":")).encode(), 9)).decode()


def unpacked(text: str) -> list[int]:
    """Return events as numbers, see `packed`."""
    found: list[int] = json.loads(zlib.decompress(base64.b85decode(text)))
    return found
