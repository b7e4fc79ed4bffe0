"""A job's ledger: the peak's bytes by name, the instants, and the same answer from Python and from the command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import oomph
from oomph.answer import Subject, resolve
from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.header import Source
from oomph.job import InferJob, TrainJob
from oomph.job_ledger import BEFORE, job_ledger, timeline
from oomph.play import train_step
from oomph.steps import step
from oomph.units import GIB
from tests.configs import DEEPSEEK_V3, LLAMA_3_8B
from tests.test_cli import as_json, run
from tests.test_fold import random_case

SOURCE = Source("random", "config", {})
ROOT = Path(__file__).parents[1]


def ledger_of(job: TrainJob, layers: int = 32) -> oomph.Ledger:
    return job_ledger(resolve(Source("llama", "config", {**LLAMA_3_8B, "num_hidden_layers": layers})), job)


@pytest.mark.parametrize(
    ("job", "gib", "peak"),
    [
        (TrainJob(1, 2048), 74.79, "optimizer step"),
        (TrainJob(1, 2048, implementation="fused"), 60.62, "loss backward"),
        (TrainJob(1, 8192, implementation="fused", checkpointing="non-reentrant"), 62.61, "layer 0 backward"),
        (TrainJob(1, 32768, implementation="fused", checkpointing="non-reentrant"), 108.69, "loss backward"),
    ],
    ids=["foreach", "fused", "checkpointed", "long"],
)
def test_the_peak_has_a_place(job: TrainJob, gib: float, peak: str) -> None:
    """Where the traced peaks of Llama-3-8B lie: the optimizer's copy, the loss, or the last layers of backward.

    No kernel's buffer is alive there, so that on a GPU they are the same.
    """
    ledger = ledger_of(job)
    traced = step(model_from_config(LLAMA_3_8B), job, on="trace").peak
    assert round(traced / GIB, 2) == gib
    assert ledger.peak is not None
    assert ledger.peak.peak_bytes == traced
    assert ledger.peak.name == peak
    assert peak in ledger.why


@pytest.mark.parametrize("seed", range(8))
def test_every_byte_at_the_peak_has_a_name(seed: int) -> None:
    """Items add up to the allocated peak of the full play; parameters and states are all of the model's."""
    model, job, _ = random_case(seed)
    ledger = job_ledger(Subject(SOURCE, model, "config"), job)
    full = train_step(model, job)
    assert sum(item.n_bytes for item in ledger.tensors) == full.peak
    assert all(item.name and item.group and item.evidence for item in ledger.items)
    assert ledger.groups["weights"] == full.kept("parameter")
    assert ledger.groups["buffers"] == full.kept("buffer")


@pytest.mark.parametrize("seed", range(6))
def test_a_timeline_has_the_heights_of_the_full_play(seed: int) -> None:
    """The drawing's points are the step's: the same peak, the same start and end, groups that add up."""
    model, job, _ = random_case(seed)
    drawn, full = timeline(Subject(SOURCE, model, "config"), job), train_step(model, job)
    assert drawn.peak_bytes == full.peak
    assert drawn.points[-1].total_bytes == full.live[-1]
    if job.checkpointing != "none" and job.checkpoint_every > 1:
        return  # layers between two checkpointed ones share an instant
    names = [instant.name for instant in drawn.instants()]
    marks = [name for _, name in full.recorder.marks[1:-1]]
    assert [name for at, name in enumerate(names) if at == 0 or name != names[at - 1]] == [
        name for at, name in enumerate(marks) if at == 0 or name != marks[at - 1]
    ]


def test_train_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The answer names the peak's instant, why, and the largest tensors; JSON follows the committed schema."""
    from jsonschema import validate

    code, out, _ = run(capsys, "train", "llama-3-8b", "--seq", "2048", "--implementation", "fused")
    assert code == 0
    for text in ("60.62 GiB", "loss backward", "layers.*.mlp.gate_proj", "batch=1"):
        assert text in out
    found = as_json(capsys, "train", "llama-3-8b", "--seq", "2048", "--implementation", "fused")
    validate(found, json.loads((ROOT / "docs" / "ledger.schema.json").read_text()))
    assert found["peak"] == "loss backward"
    assert found["job"]["kind"] == "train"
    assert found["job"]["seq_len"] == 2048
    same = oomph.estimate("llama-3-8b", job=TrainJob(1, 2048, implementation="fused"))
    assert found["figures"] == [figure.to_dict() for figure in same.figures]


def test_what_cannot_be_played_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A family without a program, several GPUs, a format beside a job: each says what to do instead."""
    code, _, err = run(capsys, "train", "jamba-v0.1", "--seq", "4k")
    assert code == 3
    assert "oomph trace" in err
    code, _, err = run(capsys, "train", "llama-3-8b", "--gpu", "2xh100")
    assert code == 3
    with pytest.raises(UsageError):
        oomph.estimate("llama-3-8b", job=TrainJob(), format="nf4")
    with pytest.raises(UnsupportedError):
        job_ledger(resolve(Source("deepseek", "config", {**DEEPSEEK_V3, "model_type": "deepseek"})), TrainJob())
    code, _, err = run(capsys, "train", "llama-3-8b", "--attention", "flsh")
    assert code == 2
    assert "flash" in err


def test_names_of_the_package_stay_what_they_are() -> None:
    """oomph.estimate is a function also after other names were used; a module of that name once took its place."""
    code = "import oomph; oomph.load('gpt2'); [oomph.estimate('gpt2').total_bytes for _ in range(2)]"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_job_in_python_has_the_head_and_the_models_that_it_names() -> None:
    """A classifier's head and a teacher, as on the command line."""
    plain, classifier, taught = (
        oomph.estimate("pythia-70m", job=TrainJob(1, 64, **more)).model["params"]
        for more in (
            {},
            {"task": "sequence-classification", "labels": 3},
            {"objective": "gkd", "teacher": "pythia-410m"},
        )
    )
    assert (classifier, taught) == (plain - 512 * (50304 - 3), plain)
    with pytest.raises(UsageError, match="no model 'nowhere'"):
        oomph.estimate("pythia-70m", job=TrainJob(1, 64, objective="gkd", teacher="nowhere"))


@pytest.mark.parametrize(
    "given",
    [
        {"batch": "4"},
        {"batch": 1.5},
        {"batch": True},
        {"seq_len": None},
        {"targets": ["q_proj"]},
        {"adapter_dropout": "x"},
        {"lengths": 500},
        {"padding": "yes"},
        {"teacher": 3},
    ],
)
def test_values_of_another_kind_are_refused(given: dict[str, Any]) -> None:
    """A program in Python hands over anything: the error names the field and what belongs there."""
    (name,) = given
    with pytest.raises(UsageError, match=f"{name} cannot be .* Give "):
        TrainJob(**given)


@pytest.mark.parametrize("ref", [None, {"model_type": "llama"}, 5])
def test_a_model_is_named_by_text(ref: Any) -> None:
    """Anything else is no model."""
    with pytest.raises(UsageError, match="not a model"):
        oomph.load(ref)
    for wrong in ({"gpu": 5}, {"job": "train"}):
        with pytest.raises(UsageError, match="cannot be"):
            oomph.estimate("pythia-70m", **wrong)


@pytest.mark.parametrize("gpu", [None, "h100", "24GiB"])
def test_items_add_up_to_what_the_gpu_shows(gpu: str | None) -> None:
    """Tensors at the peak, workspaces, the allocator's share and the context are the device figure, point and bound."""
    for job in (TrainJob(1, 512), TrainJob(2, 100, steady=False), TrainJob(1, 512, optimizer="sgd-momentum")):
        ledger = oomph.estimate("qwen2.5-0.5b", job=job, gpu=gpu)
        allocated, reserved, device = (ledger.figure(name) for name in ("allocated", "reserved", "device"))
        assert None not in (allocated, reserved, device)
        assert ledger.total_bytes == device.n_bytes
        assert ledger.safe_bytes == device.safe_bytes
        assert allocated.n_bytes <= reserved.n_bytes < device.n_bytes
        assert (ledger.verdict is None) == (gpu is None)


@pytest.mark.parametrize(
    ("model", "job", "gpu", "words"),
    [
        (
            "falcon-7b",
            TrainJob(1, 8, method="qlora"),
            None,
            "does not let bitsandbytes quantise the linear maps of falcon",
        ),
        ("whisper-base", TrainJob(1, 8), None, "30 seconds, whatever is said: --seq is how many"),
        ("whisper-base", TrainJob(1, 8, target_len=4), None, "--target-len is how many"),
        ("pythia-70m", TrainJob(1, 8), "tpu-v5e", "on TPU v5e chip tensors are the same"),
        ("pythia-70m", TrainJob(1, 8), "t4", "flash attention needs Ampere or newer, which Tesla T4 is not"),
        ("pythia-70m", TrainJob(1, 8, precision="amp-fp16"), "v100", "what runs there is --attention efficient."),
        ("pythia-70m", TrainJob(1, 8, attention="flash_attention_3"), "a100-80gb", "needs Hopper"),
    ],
)
def test_what_runs_otherwise_is_warned_of(model: str, job: TrainJob, gpu: str | None, words: str) -> None:
    """Maps that are not quantised, a length that is none, another backend; and nothing of them where it is not so."""
    assert [text for text in oomph.estimate(model, job=job, gpu=gpu).warnings if words in text]
    usual = oomph.estimate("pythia-70m", job=TrainJob(1, 8, method="qlora"), gpu="h100").warnings
    assert not [text for text in usual if words in text]


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({}, "have checkpointing=non-reentrant and autocast=True"),
        ({"checkpointing": "non-reentrant"}, "have autocast=True beside"),
        ({"precision": "amp-bf16"}, "have checkpointing=non-reentrant beside"),
        ({"checkpointing": "reentrant", "autocast": True}, ""),
    ],
)
def test_qlora_in_python_says_what_the_command_line_would_take(given: dict[str, Any], left: str) -> None:
    """A job is what its fields say; what PEFT's guides have beside it is named, where it is not there."""
    answer = oomph.estimate("pythia-70m", job=TrainJob(1, 8, method="qlora", **given))
    found = [text for text in answer.warnings if "bare --method qlora" in text]
    assert len(found) == bool(left)
    assert all(left in text for text in found)


def test_what_is_higher_before_a_step_is_an_item_and_said() -> None:
    """DeepSpeed's flat copies are made before the first step, above its peak: the device figure has them in it."""
    job = TrainJob(1, 64, checkpointing="non-reentrant", zero_stage=2, zero_offload="optimizer")
    ledger = oomph.estimate("qwen2.5-7b", job=job, gpu="h100")
    device = ledger.figure("device")
    assert device is not None
    assert (ledger.total_bytes, ledger.safe_bytes) == (device.n_bytes, device.safe_bytes)
    assert ledger.peak is not None
    (before,) = (item for item in ledger.items if item.name == BEFORE)
    at_the_peak = sum(item.n_bytes for item in ledger.tensors)
    assert at_the_peak + before.n_bytes == pytest.approx(ledger.peak.peak_bytes, rel=1e-4)
    assert "More is there before it, in parameters: " in ledger.why
    usual = oomph.estimate("qwen2.5-0.5b", job=TrainJob(1, 64))
    assert not [item for item in usual.items if item.name == BEFORE]
    assert "before it" not in usual.why


def test_a_job_that_does_not_fit_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    """8B with AdamW on 24 GB: no, with the bytes of its tensors and what the device shows."""
    code, out, _ = run(capsys, "train", "llama-3-8b", "--gpu", "rtx-4090")
    assert code == 1
    assert "Does not fit" in out
    code, out, _ = run(capsys, "train", "gpt2", "--seq", "256", "--gpu", "rtx-4090")
    assert code == 0
    assert "stay free" in out


def test_a_timeline_is_drawn_on_request(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """--timeline writes the drawing; another suffix is refused with the choices."""
    drawn = tmp_path / "step.svg"
    code, _, _ = run(capsys, "train", "gpt2", "--seq", "256", "--timeline", str(drawn))
    assert code == 0
    assert drawn.read_text().startswith("<svg")
    code, _, err = run(capsys, "train", "gpt2", "--seq", "256", "--timeline", "step.bmp")
    assert code == 2
    assert ".html" in err


def test_a_snapshot_is_laid_over_the_timeline(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A recorded snapshot is a second line in the drawing; without a drawing, or damaged, it is refused."""
    snapshot, drawn = tmp_path / "snapshot.json", tmp_path / "step.svg"
    block = {"address": 0, "size": 1024, "requested_size": 1000, "state": "active_allocated"}
    segment = {"device": 0, "address": 0, "total_size": 2097152, "stream": 0, "blocks": [block]}
    events = [{"action": action, "addr": 1024, "size": 2**30, "stream": 0} for action in ("alloc", "free_completed")]
    snapshot.write_text(json.dumps({"segments": [segment], "device_traces": [events]}))
    command = ("train", "gpt2", "--seq", "256", "--overlay", str(snapshot))
    code, _, _ = run(capsys, *command, "--timeline", str(drawn))
    assert code == 0
    assert "measured" in drawn.read_text()
    assert run(capsys, *command)[0] == 2
    snapshot.write_text("[]")
    assert run(capsys, *command, "--timeline", str(drawn))[0] == 4


@pytest.mark.parametrize(
    ("quantization", "says"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "published in fp8; .* say --quantization fp8"),
        ({"quant_method": "mxfp4"}, "cannot play mxfp4"),
        ({"quant_method": "of next year"}, "cannot play a format of its own"),
    ],
)
def test_a_model_that_was_published_quantised_is_not_played_in_silence(
    quantization: dict[str, object], says: str
) -> None:
    """What is played are 16 bits, unless the job says how the weights are stored."""
    raw = {**LLAMA_3_8B, "num_hidden_layers": 2, "quantization_config": quantization}
    found = resolve(Source("llama", "config", raw))
    assert any(re.search(says, warning) for warning in job_ledger(found, InferJob(1, 64)).warnings)
    assert not any(
        "published" in warning for warning in job_ledger(found, InferJob(1, 64, quantization="fp8")).warnings
    )


def test_whose_class_is_played_is_said() -> None:
    """transformers has none for Kimi-K2, whose config names DeepSeek-V3's."""
    raw = {**DEEPSEEK_V3, "num_hidden_layers": 4}
    kimi, deepseek = (
        job_ledger(resolve(Source("k2", "config", {**raw, "model_type": kind})), TrainJob(1, 64))
        for kind in ("kimi_k2", "deepseek_v3")
    )
    assert kimi.total_bytes == deepseek.total_bytes
    assert {*kimi.assumptions} - {*deepseek.assumptions} == {
        "transformers has no class for kimi_k2: its config is read as deepseek_v3"
    }


def test_more_tokens_than_a_model_is_made_for_are_told() -> None:
    """Rotary positions go on, what the model makes of them is another question."""
    for tokens, told in ((8192, False), (8193, True)):
        found = oomph.estimate("llama-3-8b", job=TrainJob(seq_len=tokens)).warnings
        assert any("made for 8,192 tokens" in text for text in found) == told
