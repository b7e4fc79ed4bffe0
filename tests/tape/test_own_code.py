"""Models with code of their own: the bytes of their real classes, run through the trace, are the estimate's.

own_code.json holds what the classes of the models' repositories took (modeling_baichuan.py of Baichuan2-13B-Chat,
modeling_qwen.py of Qwen-7B, late 2023), registered with transformers 5.23 and run by the trace as tests/tape/grid.py
runs others: event by event equal then (Qwen's but for the order of some frees), six numbers of bytes now.
Baichuan2-7B's attention and layers were retyped from an annotated listing, the file itself could not be had, so its
jobs are the weaker evidence; its norm, MLP, head and loss are the 13B file's. Changed in the classes: Baichuan's MLP
declares its maps in the order gate, up, down, which decides only the order of frees; the ALiBi mask, made on the
host, is one tensor of the device; 7B's tables of cos and sin are buffers; Qwen takes its own attention although torch
has a kernel, and no head mask; ChatGLM3's (modeling_chatglm.py of THUDM/chatglm3-6b) rotary function is not compiled,
and it checkpoints re-entrantly, as torch did by default; so does InternLM2's (modeling_internlm2.py of early 2024),
whose flash attention was torch's kernel under the name of flash_attn's function.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oomph.compare import peak_bytes
from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import InferJob, TrainJob
from oomph.play import play, train_step
from oomph.steps import step
from tests.tape.grid import played

ROWS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "own_code.json").read_text("utf-8"))


@pytest.mark.parametrize("row", ROWS, ids=[f"{row['config']['model_type']} {n}" for n, row in enumerate(ROWS)])
def test_the_bytes_are_those_of_the_real_class(row: dict[str, Any]) -> None:
    """Peak, bytes when the loss is known, parameters, buffers, gradients, optimizer states."""
    tape, events = played(row["config"], TrainJob(**row["job"]))
    assert [
        peak_bytes(events), tape.live[tape.forward_end] - tape.resident, tape.kept("parameter", tape.start),
        tape.kept("buffer"), tape.kept("gradient", tape.backward_end), tape.kept("optimizer state"),
    ] == row["bytes"]  # fmt: skip


LAST = {row["config"]["model_type"]: row for row in ROWS}


@pytest.mark.parametrize("row", [ROWS[0], ROWS[9], *LAST.values()])
def test_layers_fold(row: dict[str, Any]) -> None:
    """A deeper model's peak, told from few layers, is the one played in full."""
    depth = "num_layers" if "num_layers" in row["config"] else "num_hidden_layers"
    model, job = model_from_config({**row["config"], depth: 5}), TrainJob(**row["job"])
    assert step(model, job).peak == max(train_step(model, job).live)


def test_the_first_baichuan_is_refused() -> None:
    """It has Baichuan 2's type, but a head and a loss like Llama's."""
    raw = {key: value for key, value in ROWS[0]["config"].items() if key != "z_loss_weight"}
    with pytest.raises(UnsupportedError, match="the first Baichuan"):
        step(model_from_config(raw), TrainJob(1, 8))


def test_baichuan_s_head_has_no_adapter() -> None:
    """NormHead is no nn.Linear, for which PEFT has one."""
    with pytest.raises(UnsupportedError, match="no adapter"):
        step(model_from_config(ROWS[0]["config"]), TrainJob(1, 8, method="lora", targets="lm_head"))


def test_what_internlm2_cannot_be_asked() -> None:
    """Flash attention of padded batches, and caches of keys."""
    model = model_from_config(LAST["internlm2"]["config"])
    with pytest.raises(UnsupportedError, match="padded"):
        step(model, TrainJob(1, 8, attention="flash", padding=True))
    with pytest.raises(UnsupportedError, match="training only"):
        play(model, InferJob(1, 8))


def test_another_loss_does_not_take_the_place_of_its_own() -> None:
    """The class computes its loss itself, whatever a job names."""
    with pytest.raises(UnsupportedError, match="liger"):
        step(model_from_config(ROWS[0]["config"]), TrainJob(1, 8, loss="liger"))


def test_what_else_is_called_chatglm_is_refused() -> None:
    """The first GLM-4 has ChatGLM's type and other code; caches of keys are not played."""
    config = LAST["chatglm"]["config"]
    with pytest.raises(UnsupportedError, match="GLM-4"):
        step(model_from_config(config | {"padded_vocab_size": 151552}), TrainJob(1, 8))
    with pytest.raises(UnsupportedError, match="training only"):
        play(model_from_config(config), InferJob(1, 8))
    with pytest.raises(UsageError, match="200 positions"):
        step(model_from_config(config), TrainJob(1, 201))
