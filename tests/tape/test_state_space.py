"""State-space families: the tape's step equals the real code's, event by event.

The real code is transformers' own in torch, which a user without mamba_ssm and causal_conv1d gets.
"""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import Any

import pytest

from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import InferJob, TrainJob
from oomph.play import play, train_step
from oomph.programs.mixer_packages import mixer_note
from oomph.steps import step
from tests.referee.test_trace_profile import PLAIN, SCALARS
from tests.tape.grid import compare
from tests.tape.state_space import CONFIGS, deep, grid

TRAINING, INFERENCE = 1, 1  # jobs of each family
LLAMA = {
    "model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 1,
    "num_attention_heads": 2,
}  # fmt: skip
LORA = TrainJob(
    batch=2, seq_len=20, precision="bf16", padding=True, method="lora", targets="all-linear",
    checkpointing="non-reentrant",
)  # fmt: skip
DORA = TrainJob(batch=2, seq_len=20, precision="bf16", method="dora", targets="lm_head,in_proj")
GRID = [*grid(TRAINING, INFERENCE), (deep("granitemoehybrid", 4), LORA), (deep("mamba2", 1), DORA)]
LENGTHS = (150, 100)  # of sequences; both end within a chunk


@pytest.mark.slow
@pytest.mark.parametrize(("raw", "job"), GRID, ids=[f"{i}-{raw['model_type']}" for i, (raw, _) in enumerate(GRID)])
def test_every_event_of_a_mixer_equals_the_trace(raw: dict[str, Any], job: TrainJob | InferJob) -> None:
    """Scans in chunks and token by token, states in a cache: same allocations, same frees, same order, same peak."""
    parting, ours, theirs = compare(raw, job)
    assert parting is None, str(parting)
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_a_run_without_any_mode_differs_in_the_convolution_alone(name: str) -> None:
    """torch.profiler's events of a real CPU run, gradients summed in place: a CPU's convolution takes buffers, nothing
    else does, and nothing is missing. See test_in_place.
    """
    from oomph.referee.profile import profile

    raw, job = deep(name, 1), TrainJob(**{**PLAIN, "seq_len": 37})
    found = train_step(model_from_config(raw), job, on="cpu")
    stream = found.recorder.stream()
    before = {event.ordinal for event in stream.events[: found.start]}
    ours = [event for event in stream.events[found.start : found.end] if event.ordinal not in before]
    ours, run = ([one for one in events if abs(one.n_bytes) > SCALARS] for events in (ours, profile(raw, job).events))
    ops = [stream.labels[event.ordinal].op for event in ours]
    sizes = [[event.n_bytes for event in events] for events in (ours, run)]
    edits = [edit for edit in SequenceMatcher(None, *sizes, autojunk=False).get_opcodes() if edit[0] != "equal"]
    assert edits
    for kind, at, *_ in edits:
        assert kind == "insert"
        assert "convolution" in ops[at] + ops[at - 1]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_folded_step_is_the_step_played_in_full(name: str) -> None:
    """Of many layers, and of a length other than the one it was played with."""
    model = model_from_config(deep(name, 8))
    for seq_len in LENGTHS:
        job = TrainJob(batch=2, seq_len=seq_len, precision="bf16", optimizer="sgd", checkpointing="reentrant")
        assert step(model, job).peak == train_step(model, job).peak


def test_a_scan_of_very_many_tokens_is_refused() -> None:
    """Each is played by itself; the message says up to how many."""
    with pytest.raises(UnsupportedError, match="at most 2048 tokens"):
        play(model_from_config(deep("mamba", 2)), TrainJob(seq_len=2049))


@pytest.mark.parametrize(
    ("name", "targets", "why"),
    [("mamba2", "all-linear", "no LoRA on out_proj"), ("mamba", "in_proj,out_proj", "no LoRA on out_proj"),
     ("jamba", "all-linear", "never train")],
)  # fmt: skip
def test_adapters_that_cannot_be_or_do_nothing_are_refused(name: str, targets: str, why: str) -> None:
    """PEFT refuses the first two itself; the third it takes, but no gradient would reach it."""
    job = TrainJob(seq_len=8, method="lora", targets=targets)
    with pytest.raises(UsageError, match=why):
        play(model_from_config(deep(name, 4)), job)


def test_it_is_said_that_no_kernels_are_played() -> None:
    """What a user with the packages gets is another number."""
    notes = mixer_note(model_from_config(deep("bamba", 4)), "torch")
    assert len(notes) == 1
    assert "without the packages mamba-ssm and causal-conv1d" in notes[0]
    assert mixer_note(model_from_config(LLAMA), "torch") == ()


def test_a_quantised_time_step_is_refused() -> None:
    """Jamba computes it otherwise then."""
    job = TrainJob(seq_len=8, method="qlora", quantization="nf4", targets="in_proj")
    with pytest.raises(UnsupportedError, match="quantised Mamba-1"):
        play(model_from_config(deep("jamba", 4)), job)


def test_a_hybrid_without_attention_is_refused() -> None:
    """transformers makes rotary tables for none of the layers, whose width no layer tells."""
    raw = deep("bamba", 4) | {"attn_layer_indices": []}
    with pytest.raises(UnsupportedError, match="without attention"):
        play(model_from_config(raw), TrainJob())
