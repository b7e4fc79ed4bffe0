"""Folding: a deep model's step from two shallow ones equals the step played in full."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from oomph.blocks.attention import Attention
from oomph.blocks.base import Module, Stack
from oomph.blocks.basic import Embedding, Head, Norm
from oomph.blocks.mlp import GatedMLP
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.model import Model
from oomph.play import play, train_step
from oomph.steps import grid, step
from oomph.structure import decoder_stack
from oomph.tape.tape import Place
from tests.configs import LLAMA_3_8B
from tests.tape.grid import config, infer_job

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gpt2")
N_FAST, N_SLOW, N_INFER = 12, 420, 30
PERIODS = 7  # what is repeated often enough to be folded


def random_case(seed: int) -> tuple[Model, TrainJob, Place]:
    """Return a small model of 5 layers to some periods of its checkpoints, a job, and whose events are played."""
    rng = random.Random(seed)
    family, heads = rng.choice(FAMILIES), rng.choice([2, 4, 6, 10])
    kernel = "flash" if family == "gpt2" else rng.choice(["flash", "eager"])
    raw: dict[str, Any] = {
        "model_type": family,
        "vocab_size": rng.choice([64, 515, 4000, 50000]),
        "hidden_size": heads * rng.choice([8, 16, 32, 40]),
        "num_attention_heads": heads,
        "tie_word_embeddings": rng.random() < 0.5,
    }
    if family != "gpt2":
        raw |= {"num_key_value_heads": rng.choice([1, 2, heads]), "intermediate_size": rng.choice([17, 331, 700])}
    if family == "qwen3":
        raw["head_dim"] = rng.choice([8, 40])
    job = TrainJob(
        batch=rng.choice([1, 2, 3]),
        seq_len=rng.choice([1, 8, 37, 100]),
        precision=rng.choice(["bf16", "amp-bf16", *["fp32"] * (kernel == "eager")]),
        attention=kernel,
        dropout=rng.random() < 0.5,
        checkpointing=rng.choice(["none", "non-reentrant", "reentrant"]),
        checkpoint_every=rng.choice([1, 1, 2, 3, 5]),
        fp32_outputs=rng.random() < 0.3,
        hold_logits=rng.random() < 0.5,
        keep_outputs=rng.random() < 0.2,
        accumulation=rng.choice([1, 1, 2]),
        clip_gradients=rng.random() < 0.5,
        optimizer=rng.choice(["adamw", "sgd", "sgd-momentum", "none"]),
        implementation=rng.choice(["foreach", "fused", "loop"]),
        steady=rng.random() < 0.5,
        set_to_none=rng.random() < 0.5,
        packing=rng.random() < 0.2,
        zero_grad=rng.choice(["after-step", "before-forward", "before-backward"]),
    )
    period = job.checkpoint_every if job.checkpointing != "none" else 1
    raw["num_hidden_layers"] = rng.randint(5, 5 + PERIODS * period)
    return model_from_config(raw), job, rng.choice(["gpu", "cpu", "trace"])


def check(seed: int) -> None:
    model, job, on = random_case(seed)
    folded = step(model, job, on=on)
    full = train_step(model, job, on=on)
    found = (folded.peak, folded.resident, folded.forward_end, folded.end)
    period = job.checkpoint_every if job.checkpointing != "none" else 1
    assert folded.folded or model.num_layers < 5 * period, f"seed {seed} did not fold: {job}"
    expected = (full.peak, full.resident, full.live[full.forward_end], full.live[-1])
    assert found == expected, f"seed {seed}: {job}"


@pytest.mark.parametrize("seed", range(N_FAST))
def test_folded_step_equals_the_step_played_in_full(seed: int) -> None:
    """Peak, resident, end-of-forward and end bytes are those of the full play."""
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(N_FAST, N_FAST + N_SLOW))
def test_many_folded_steps_equal_the_step_played_in_full(seed: int) -> None:
    """The same for over 400 random jobs over all families and inputs of a job."""
    check(seed)


def patterned(seed: int) -> tuple[Model, TrainJob, Place]:
    """Return a random case whose layers are of two or three kinds in a random pattern."""
    rng = random.Random(seed)
    model, job, on = random_case(seed)
    path, stack = decoder_stack(model)
    kinds = [stack.layers[0], *(with_ffn(stack.layers[0], rng.choice([19, 300])) for _ in range(rng.choice([1, 2])))]
    before, period, after = (
        [rng.choice(kinds) for _ in range(rng.choice(most))] for most in ((0, 0, 1, 3), (1, 2, 3, 6), (0, 0, 1, 2))
    )
    body = rng.randint(2, 30)
    layers = (*before, *(period * body)[:body], *after)
    parts = {**model.parts, path: Stack(layers)}
    return replace(model, parts=parts, num_layers=len(layers)), job, on


def with_ffn(layer: Any, width: int) -> Module:
    """Return a layer with a feed-forward block of another width."""
    return Module({**layer.parts, "mlp": replace(layer.parts["mlp"], ffn_size=width)})


def check_pattern(seed: int) -> bool:
    """Hold a patterned model's folded step against the full play; tell whether it was folded."""
    model, job, on = patterned(seed)
    folded, full = step(model, job, on=on), train_step(model, job, on=on)
    found = (folded.peak, folded.resident, folded.forward_end, folded.end)
    assert found == (full.peak, full.resident, full.live[full.forward_end], full.live[-1]), f"seed {seed}: {job}"
    starts = [(name, full.live[at]) for at, name in full.recorder.marks]
    ours = [(one.name, one.start) for one in folded.stretches if one.name.startswith("layer ") and one.repeats == 1]
    assert set(ours) <= set(starts), f"seed {seed}: {job}"
    return folded.folded


@pytest.mark.parametrize("seed", range(N_FAST))
def test_a_pattern_of_layers_folds_to_its_full_play(seed: int) -> None:
    """Layers before, a period of several kinds, layers after: all bytes are those of the full play."""
    check_pattern(seed)


@pytest.mark.slow
def test_many_patterns_of_layers_fold_to_their_full_play() -> None:
    """The same for 150 random patterns; most of them are deep enough to be folded."""
    assert sum(check_pattern(seed) for seed in range(N_FAST, N_FAST + 150)) > 75


@pytest.mark.parametrize("seed", range(6))
def test_more_micro_batches_repeat_the_ones_before(seed: int) -> None:
    """A step of seven micro-batches, of which three are played, has the heights of seven played one by one."""
    model, job, on = random_case(seed)
    job = replace(job, accumulation=7)
    found, full = step(model, job, on=on), train_step(model, job, on=on)
    assert (found.peak, found.resident, found.end) == (full.peak, full.resident, full.live[-1])


@pytest.mark.parametrize("seed", range(N_INFER))
def test_a_folded_inference_equals_the_one_played_in_full(seed: int) -> None:
    """Prefill and decoding with every cache: peak, resident and end bytes are those of the full play."""
    rng = random.Random(seed)
    raw = config(rng, rng.choice(FAMILIES)) | {"num_hidden_layers": rng.randint(5, 12)}
    model, job = model_from_config(raw), infer_job(rng)
    folded, full = step(model, job), play(model, job)
    assert (folded.peak, folded.resident, folded.end) == (full.peak, full.resident, full.live[-1]), f"{raw} {job}"


def test_first_layers_that_are_frozen_stand_for_no_others() -> None:
    """What DeepSpeed flattens is all that trains, in the layers behind them too."""
    model, job = llama_8b(9, vocab_size=64, hidden_size=64), TrainJob(1, 16, freeze_layers=3, zero_stage=2)
    found, full = step(model, job), train_step(model, job)
    assert (found.resident, found.peak, found.end) == (full.resident, full.peak, full.live[-1])


def llama_8b(layers: int, **options: Any) -> Model:
    return model_from_config(
        {
            "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
            "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": layers, **options,
        }
    )  # fmt: skip


def test_an_80_layer_model_folds_to_its_full_play() -> None:
    """At 80 layers the peak, its place and every segment's bytes are those of the full play."""
    model, job = llama_8b(80), TrainJob(2, 2048, checkpointing="non-reentrant")
    folded, full = step(model, job), train_step(model, job)
    assert (folded.folded, folded.peak) == (True, full.peak)
    marks = full.recorder.marks
    assert folded.peak_name == next(name for at, name in reversed(marks) if at <= full.live.index(full.peak))
    starts = {name: full.live[at] for at, name in marks}
    assert all(starts[one.name] == one.start for one in folded.stretches if one.repeats == 1)
    assert sum(one.repeats for one in folded.stretches) == len(marks) - 1


@pytest.mark.parametrize("layers", range(1, 7))
def test_shallow_models_are_played_in_full(layers: int) -> None:
    """Up to four layers there is nothing to fold; the answer is the full play's at every depth."""
    model, job = llama_8b(layers), TrainJob(1, 128)
    folded = step(model, job)
    assert folded.peak == train_step(model, job).peak
    assert folded.folded == (layers > 4)


@pytest.mark.parametrize("on", ["gpu", "trace"])
@pytest.mark.parametrize(
    ("job", "sizes"),
    [
        (TrainJob(2, 2048, clip_gradients=True, optimizer="none"), {}),
        (TrainJob(2, 2048, padding=True, checkpointing="non-reentrant"), {}),
        (TrainJob(1, 130, precision="fp32", padding=True), {"num_key_value_heads": 32}),
        (TrainJob(1, 64, attention="math"), {}),
        (TrainJob(1, 130), {"hidden_size": 3200, "num_key_value_heads": 32}),
    ],
    ids=["flash and clipping", "efficient", "efficient in fp32", "math", "padded heads"],
)
def test_what_kernels_allocate_folds(job: TrainJob, sizes: dict[str, Any], on: Place) -> None:
    """Buffers inside operations, sorted embeddings and norms of gradients included, at every height of the step."""
    model = llama_8b(9, **sizes)
    folded, full = step(model, job, on=on), train_step(model, job, on=on)
    assert folded.folded
    starts = {name: full.live[at] for at, name in full.recorder.marks}
    assert all(starts[one.name] == one.start for one in folded.stretches if one.repeats == 1)
    marks = [*full.recorder.marks, (full.end, "")]
    peaks = {name: max(full.live[at : end + 1]) for (at, name), (end, _) in pairwise(marks)}
    assert all(peaks[one.name] == one.peak for one in folded.stretches[1:] if one.repeats == 1)


def test_depth_can_be_given_apart_from_the_model() -> None:
    """A model of 2 layers folded to 33 is the model of 33 layers."""
    job = TrainJob(2, 512, clip_gradients=True, optimizer="none")
    assert step(llama_8b(2), job, 33).peak == step(llama_8b(33), job).peak


def test_an_odd_layer_among_equal_ones_is_not_folded_away() -> None:
    """It is played, and the bytes are those of the full play."""
    model, job = llama_8b(8), TrainJob(1, 64)
    stack = model.parts["model.layers"]
    assert isinstance(stack, Stack)
    odd = llama_8b(1, intermediate_size=512).parts["model.layers"]
    assert isinstance(odd, Stack)
    mixed = replace(model, parts={**model.parts, "model.layers": Stack((*stack.layers[1:], odd.layers[0]))})
    assert step(mixed, job).peak == train_step(mixed, job).peak < step(model, job).peak


@pytest.mark.parametrize("pattern", ["abcdefg", "abacada"])
def test_layers_without_a_pattern_are_played_in_full(pattern: str) -> None:
    """Where no period comes twice there is nothing to fold."""
    model, job = llama_8b(7), TrainJob(1, 64)
    kinds = {name: llama_8b(1, intermediate_size=512 + ord(name)).parts["model.layers"].layers[0] for name in pattern}
    mixed = replace(model, parts={**model.parts, "model.layers": Stack(tuple(kinds[name] for name in pattern))})
    played = step(mixed, job)
    assert (played.folded, played.peak) == (False, train_step(mixed, job).peak)


def llama_like(layers: Any, **sizes: Any) -> Model:
    """Build a Llama from sizes that may stand for many jobs; `layers` stays an int."""
    hidden, norm = sizes["hidden_size"], Norm(sizes["hidden_size"])
    layer = Module(
        {
            "self_attn": Attention(hidden, sizes["num_heads"], sizes["num_kv_heads"], sizes["head_dim"]),
            "mlp": GatedMLP(hidden, sizes["ffn_size"]),
            "input_layernorm": norm,
            "post_attention_layernorm": norm,
        }
    )
    parts = {
        "model.embed_tokens": Embedding(sizes["vocab_size"], hidden),
        "model.layers": Stack.of(layer, layers),
        "model.norm": norm,
        "lm_head": Head(hidden, sizes["vocab_size"]),
    }
    return Model(parts, hidden, layers, sizes["vocab_size"], model_type="llama")


def random_grid(count: int, seed: int = 0) -> dict[str, Any]:
    """Return sizes of `count` jobs, all axes varying, small ones and odd ones included."""
    rng = np.random.default_rng(seed)
    heads = rng.choice([2, 4, 8, 16, 32, 64], count)
    return {
        "hidden_size": heads * rng.choice([16, 40, 128], count),
        "num_heads": heads,
        "num_kv_heads": heads // rng.choice([1, 2], count),
        "head_dim": rng.choice([16, 40, 128], count),
        "ffn_size": rng.integers(17, 30000, count),
        "vocab_size": rng.integers(64, 150000, count),
        "layers": rng.integers(1, 100, count),
        "batch": rng.integers(1, 9, count),
        "seq_len": rng.integers(1, 5000, count),
    }


def grid_equals_scalars(options: dict[str, Any], count: int, samples: int) -> None:
    columns = random_grid(count)

    def build(batch: Any, seq_len: Any, layers: Any, **sizes: Any) -> tuple[Model, TrainJob, Any]:
        return llama_like(1, **sizes), TrainJob(batch, seq_len, **options), layers

    peaks = grid(build, columns)
    for index in random.Random(1).sample(range(count), samples):
        sizes = {name: int(column[index]) for name, column in columns.items()}
        batch, seq_len, layers = (sizes.pop(name) for name in ("batch", "seq_len", "layers"))
        full = train_step(llama_like(layers, **sizes), TrainJob(batch, seq_len, **options))
        assert peaks[index] == full.peak, (sizes, batch, seq_len, layers)


def test_a_grid_equals_full_plays_one_by_one() -> None:
    """A few sampled points of a grid over nine axes are the scalar, full-depth answers."""
    grid_equals_scalars({}, 300, 5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"checkpointing": "non-reentrant"},
        {"precision": "amp-bf16", "hold_logits": False},
        {"attention": "eager", "optimizer": "sgd", "steady": False},
        {"implementation": "loop", "accumulation": 2},
    ],
    ids=str,
)
def test_large_grids_equal_full_plays_one_by_one(options: dict[str, Any]) -> None:
    """Eight points each of five grids are the scalar, full-depth answers."""
    grid_equals_scalars(options, 1_000, 8)


def test_folding_one_job_loads_neither_numpy_nor_torch() -> None:
    """A single estimate needs nothing but Python."""
    code = "import sys, oomph.fold; assert not {'numpy', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("job", [
    TrainJob(1, 2560, checkpointing="unsloth"),
    TrainJob(1, 2560, checkpointing="unsloth", method="qlora"),
    TrainJob(1, 2560, checkpointing="unsloth", method="lora", kernels="unsloth", loss="unsloth"),
])  # fmt: skip
def test_layers_before_the_last_of_unsloths_checkpoints(job: TrainJob) -> None:
    """The last layer's input stays on the device, so that two layers at the end are not like the others."""
    small = {"hidden_size": 512, "intermediate_size": 96, "vocab_size": 999, "num_attention_heads": 4}
    model = model_from_config({**LLAMA_3_8B, **small, "num_key_value_heads": 2, "num_hidden_layers": 9})
    folded, full = step(model, job), train_step(model, job)
    assert folded.folded
    assert (folded.peak, folded.resident) == (full.peak, full.resident)
