"""estimate == trace with the packages flash-attn 2 and 3, and what of a job changes what they take.

transformers' own way to the packages runs in the trace; their compiled kernels are stood for by functions that allocate
what their C++ does (oomph.referee.flash_attn).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from oomph.attention_workspaces import key_splits
from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import InferJob, TrainJob
from oomph.job_words import Kernel
from oomph.play import play, train_step
from oomph.programs.attention_kernels import flash_note, kernel_note, kernel_of
from oomph.steps import step
from tests.tape.grid import compare

LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
}  # fmt: skip
MISTRAL = {**LLAMA, "model_type": "mistral", "sliding_window": 8, "head_dim": 12, "attention_dropout": 0.1}
GEMMA2 = {**LLAMA, "model_type": "gemma2", "head_dim": 64, "sliding_window": 8, "num_key_value_heads": 4}
LATENT = {
    "model_type": "deepseek_v3", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "q_lora_rank": None, "kv_lora_rank": 16, "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8, "v_head_dim": 8, "first_k_dense_replace": 1, "max_position_embeddings": 64,
}  # fmt: skip
GPT2 = {"model_type": "gpt2", "vocab_size": 64, "n_embd": 32, "n_head": 4, "n_layer": 1, "n_positions": 64}
FALCON = {
    "model_type": "falcon", "vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1,
    "multi_query": True, "alibi": False, "parallel_attn": True, "new_decoder_architecture": False,
}  # fmt: skip
GPT_OSS = {
    **LLAMA, "model_type": "gpt_oss", "head_dim": 64, "sliding_window": 8, "num_local_experts": 4,
    "num_experts_per_tok": 2, "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip
TWO, THREE = "flash_attention_2", "flash_attention_3"
PLAIN = TrainJob(batch=2, seq_len=37, optimizer="none", attention=TWO)
CASES = {
    "heads padded to 8, a window, dropout": (MISTRAL, replace(PLAIN, checkpointing="non-reentrant")),
    "padding": (MISTRAL, replace(PLAIN, padding=True, checkpointing="reentrant")),
    "three packed in a row": (LLAMA, replace(PLAIN, batch=1, packing=True, sequences=3)),
    "padding-free, cu_seq_lens": (
        MISTRAL,
        replace(PLAIN, batch=3, padding_free=True, packed_by="lengths", checkpointing="non-reentrant"),
    ),
    "padding-free, a class that is told none": (FALCON, replace(PLAIN, padding_free=True, packed_by="lengths")),
    "padding-free for torch": (LLAMA, replace(PLAIN, padding_free=True, attention="flash")),
    "a collator's own mask": (MISTRAL, replace(PLAIN, packing=True, packed_by="mask", attention="flash")),
    "fp32 states, positions that are looked at": (LLAMA, replace(PLAIN, batch=1, precision="amp-bf16")),
    "few blocks, keys split": (GPT2, replace(PLAIN, batch=1, seq_len=600)),
    "values narrower than queries, packed": (LATENT, replace(PLAIN, batch=1, packing=True, attention=THREE)),
    "capped scores, window and none": (GEMMA2, replace(PLAIN, attention=THREE)),
    "padding for the third": (LLAMA, replace(PLAIN, padding=True, attention=THREE, checkpointing="non-reentrant")),
    "4 bits under fp32 norms, gradients that nobody wants": (
        LLAMA,
        replace(PLAIN, method="qlora", checkpointing="reentrant"),
    ),
    "sinks": (
        GPT_OSS,
        replace(PLAIN, padding=True, precision="amp-bf16", checkpointing="reentrant", optimizer="adamw"),
    ),
    "Falcon's own class": (FALCON, replace(PLAIN, padding=True, checkpointing="reentrant")),
    "tokens one by one": (LLAMA, InferJob(seq_len=29, decode=2, attention=TWO)),
}
CASES["few blocks, keys split"][0]["n_positions"] = 600


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_event_equals_the_trace(name: str) -> None:
    """Copies, saved tensors and accumulators of both packages: same allocations, frees, order and peak."""
    parting, ours, theirs = compare(*CASES[name])
    assert parting is None, str(parting)
    assert ours == theirs


def saved_by_attention(job: TrainJob) -> int:
    """Return the bytes that all layers' attention keeps for backward, each storage once."""
    recorder = play(model_from_config(LLAMA), job).recorder
    why = {ordinal for ordinal, reason in recorder.why.items() if reason == "saved for FlashAttnFunc"}
    return sum(size for ordinal, size in recorder.stream().events if ordinal in why and size > 0)


def test_what_is_saved_is_said_by_the_package() -> None:
    """save_for_backward of FlashAttnFunc, by hand: q, k, v and output of 16 bits, fp32 log-sum-exp, a random state; the
    third has no state."""
    job = replace(PLAIN, steady=False)
    q, kv, lse, state = 2 * 37 * 4 * 8 * 2, 2 * 37 * 2 * 8 * 2, 2 * 4 * 37 * 4, 2 * 8
    assert saved_by_attention(job) == 2 * (2 * q + 2 * kv + lse + state)
    assert saved_by_attention(replace(job, attention=THREE)) == 2 * (2 * q + 2 * kv + lse)


def test_older_classes_keep_keys_and_values_of_all_heads() -> None:
    """MistralFlashAttention2 of transformers 4.45 repeats them before the package sees them: k and v as large as q."""
    job = replace(PLAIN, steady=False, repeats_keys=True)
    q, lse, state = 2 * 37 * 4 * 8 * 2, 2 * 4 * 37 * 4, 2 * 8
    assert saved_by_attention(job) == 2 * (4 * q + lse + state)
    with pytest.raises(UsageError, match="flash-attn"):
        replace(job, attention="flash")


def test_more_sequences_in_a_row_take_more_rows() -> None:
    """mha_varlen_bwd keeps sequences 128 rows apart: softmax_d and dq_accum grow by so much for each, and its place."""
    peaks = []
    for sequences in (2, 3):
        recorder = play(model_from_config(LLAMA), replace(PLAIN, batch=1, packing=True, sequences=sequences)).recorder
        made = recorder.allocations
        peaks.append({one.op: one.shape for one in made if one.op in ("softmax_d", "dq_accum", "cat")})
    assert peaks[0]["softmax_d"][-1] == 37 + 2 * 128
    assert peaks[1]["dq_accum"][0] == 37 + 3 * 128
    assert peaks[1]["cat"] == (4,)


@pytest.mark.parametrize("attention", [TWO, THREE])
@pytest.mark.parametrize("batch", ["padding", "packing", "plain", "padding-free"])
def test_a_recipe_holds_for_other_sizes(attention: Kernel, batch: str) -> None:
    """A deep model's step from few layers, and another length from the same recipe, are those played in full."""
    model = model_from_config({**LLAMA, "num_hidden_layers": 9})
    for length in (37, 64, 700):
        job = TrainJob(
            batch=1 if batch == "packing" else 2, seq_len=length, attention=attention, padding=batch == "padding",
            packing=batch == "packing", padding_free=batch == "padding-free", checkpointing="non-reentrant",
        )  # fmt: skip
        folded, full = step(model, job), train_step(model, job)
        assert (folded.peak, folded.forward_end) == (full.peak, full.live[full.forward_end])


def test_splits_are_those_of_the_heuristic() -> None:
    """num_splits_heuristic by hand, on 2 · 132 blocks: 10 of queries and 3 of keys take 3 parts, 250 take none."""
    assert key_splits(1, 1, 600, 8, 600) == 3
    assert key_splits(5, 5, 600, 8, 600) == 1


def test_gemma_2_is_no_longer_eager() -> None:
    """The package bounds scores by a tanh itself: no note, and no table of scores on the tape."""
    model = model_from_config(GEMMA2)
    assert kernel_note(model, TWO) == ()
    assert any("eager" in note for note in kernel_note(model, "flash"))
    made = play(model, PLAIN).recorder.allocations
    assert not any(one.shape == (2, 4, 37, 37) for one in made)


def test_what_is_not_known_takes_torchs_flash_attention_and_says_so() -> None:
    """How Unsloth calls the package is not played: plain batches take the kernel that saves the same, others none."""
    llama, bloom = (model_from_config({**LLAMA, "model_type": name, "n_head": 4}) for name in ("llama", "bloom"))
    job = replace(PLAIN, kernels="unsloth", method="lora")
    assert kernel_of(llama, job) == "flash"
    assert "torch's own" in flash_note(llama, job)[0]
    compiled = replace(PLAIN, compile=True)
    assert kernel_of(llama, compiled) == "flash"
    with pytest.raises(UnsupportedError, match="llama"):
        kernel_of(llama, replace(compiled, padding=True))
    with pytest.raises(UnsupportedError, match="knows no flash-attn"):
        kernel_of(bloom, PLAIN)


def test_sinks_get_no_gradient_of_vllms_flash_attn() -> None:
    """Its backward returns None for them (vllm_flash_attn3, flash_attn_interface.py), which a warning says; no fp16."""
    model, job = model_from_config(GPT_OSS), replace(PLAIN, optimizer="adamw")
    assert kernel_of(model, job) == THREE
    assert "no gradients" in flash_note(model, job)[0]
    for attention, count in ((THREE, 0), ("eager", 2 * 3)):  # of two layers: gradient and moments
        recorder = play(model, replace(job, attention=attention)).recorder
        kept = [one for one, why in recorder.why.items() if why in ("gradient", "optimizer state")]
        assert sum("sinks" in recorder.allocations[one].scope for one in kept) == count
    with pytest.raises(UnsupportedError, match="bf16 alone"):
        kernel_of(model, replace(job, precision="fp16"))


def test_packed_rows_of_a_batch_are_warned_of() -> None:
    """_is_packed_sequence looks at batches of one row alone; in others sequences see each other."""
    model = model_from_config(LLAMA)
    assert flash_note(model, replace(PLAIN, batch=1, packing=True)) == ()
    assert "--padding-free" in flash_note(model, replace(PLAIN, packing=True))[0]
    assert flash_note(model, replace(PLAIN, packing=True, padding_free=True)) == ()


def test_what_the_packages_refuse_is_refused() -> None:
    """fp32, and for the third heads of no multiple of 8."""
    with pytest.raises(UsageError, match="fp32"):
        replace(PLAIN, precision="fp32")
    with pytest.raises(UsageError, match="fp32"):
        InferJob(precision="fp32", attention=THREE)
    with pytest.raises(UnsupportedError, match="multiple of 8"):
        play(model_from_config({**LLAMA, "head_dim": 12}), replace(PLAIN, attention=THREE))
