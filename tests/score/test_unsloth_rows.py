"""Unsloth's published rows: notebooks that print what was reserved before training, the longest lengths of a card."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.score.scoring import Outcome, score

NOTEBOOK: dict[str, Any] = {
    "id": "a", "framework": "Unsloth notebook (TRL SFTTrainer)", "framework_version": "2024-2026",
    "model": "unsloth/tinyllama-bnb-4bit", "method": "qlora", "lora": {"rank": 32}, "weight_dtype": "nf4 (bnb)",
    "precision_mode": "amp", "optimizer": "adamw_8bit", "seq_len": None, "micro_batch": 2, "grad_accum": 4,
    "attention_impl": "xformers/SDPA/FA2", "checkpointing": "False", "loss_impl": "unsloth fused/CCE", "packing": True,
    "n_gpus": 1, "gpu": "Tesla T4 (14.748 GiB)", "cpu_offload": False, "status": "ok", "confidence": "high",
    "measured": {"peak_reserved_gib": 13.508, "reserved_before_train_gib": 0.879},
    "metric": "torch.cuda.max_memory_reserved()/1024**3", "notes": "max_seq_length cap 4096; more",
}  # fmt: skip
LONGEST: dict[str, Any] = NOTEBOOK | {
    "framework": "Unsloth", "framework_version": "Dec 2024", "model": "Llama-3.1-8B-Instruct", "weight_dtype": "nf4",
    "seq_len": 78475, "micro_batch": 1, "grad_accum": None, "attention_impl": "flash-attn 2",
    "checkpointing": "unsloth offloaded", "loss_impl": "cut cross entropy (unsloth)", "packing": "padded to length",
    "gpu": "24GB card", "metric": "longest sequence that fits", "measured": {"fits_in_vram_gb": 24},
}  # fmt: skip


def outcomes(row: dict[str, Any]) -> dict[str, Outcome]:
    """What became of a row, by quantity."""
    return {one.quantity: one for one in score([("Line 1", row)])}


def test_what_was_reserved_before_training_is_the_model() -> None:
    """TinyLlama in nf4 with adapters in fp32, as its notebook printed it."""
    found = outcomes(NOTEBOOK)["reserved_before_train_gib"]
    assert abs(found.relative_error or 1) < 0.02


def test_the_length_of_packed_rows_is_their_limit_others_are_not_known() -> None:
    """A notebook that does not pack says how long rows may be, not how long they were; its weights are scored still."""
    assert outcomes(NOTEBOOK)["peak_reserved_gib"].predicted
    unpacked = outcomes(NOTEBOOK | {"packing": False})
    assert unpacked["peak_reserved_gib"].refused == "seq_len: a limit; the lengths of the real batches are not recorded"
    assert unpacked["reserved_before_train_gib"].predicted


def test_the_longest_length_of_a_card_fits_it() -> None:
    """Llama 3.1 8B on 24 GB, by Unsloth's own table: what is estimated fits too, and leaves less than a fifth."""
    found = outcomes(LONGEST)["fits_in_vram_gb"]
    assert 0.8 * 24 < (found.predicted or 0) <= 24
    assert any("read off a line" in text for text in found.assumed)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"n_gpus": 2}, "n_gpus=2: one GPU only"),
        ({"n_gpus": True}, "n_gpus=True: one GPU only"),
        ({"cpu_offload": True}, "cpu_offload: not modelled yet"),
        ({"method": "full"}, "method full: trained on classes that Unsloth compiles, not modelled yet"),
        ({"lora": {"rank": -1}}, "rank: -1 is not a whole number from 1 to 2147483648"),
        ({"optimizer": "lion"}, "optimizer lion: not modelled yet"),
        ({"loss_impl": 7}, "loss_impl: 7 is not text"),
        ({"checkpointing": "some"}, "checkpointing some: not modelled yet"),
        ({"model": "unsloth/gpt-oss-20b"}, "experts: which of them Unsloth quantises is not modelled yet"),
        ({"model": "unsloth/nothing-bnb-4bit"}, "not in the catalogue: nothing"),
    ],
)
def test_what_a_row_does_not_say_or_nobody_plays_is_the_reason(change: dict[str, Any], why: str) -> None:
    """A refusal names the key and its value."""
    assert why in {one.refused for one in outcomes(NOTEBOOK | change).values()}
