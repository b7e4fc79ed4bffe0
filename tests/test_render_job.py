"""The answer to a job as people read it: instants, reasons, what to ask next."""

from __future__ import annotations

import pytest

from tests.test_cli import run


def test_many_tokens_are_one_row(capsys: pytest.CaptureFixture[str]) -> None:
    """The first and the last token stand by themselves, those between share a row; --explain has all."""
    _, out, _ = run(capsys, "serve", "llama-3.2-1b", "--context", "64", "--decode", "9")
    assert "decode 2 to 8" in out
    assert "decode 5" not in out
    assert "decode 9, head" in out
    _, out, _ = run(capsys, "serve", "llama-3.2-1b", "--context", "64", "--decode", "9", "--explain")
    assert "decode 5" in out


def test_reasons_stand_apart_from_inputs(capsys: pytest.CaptureFixture[str]) -> None:
    """What a method brings along is told with its reason before the list; a misfit names the command that helps."""
    code, out, _ = run(capsys, "train", "llama-3.1-8b", "--method", "qlora", "--gpu", "t4", "--seq", "8192")
    assert code == 1
    text = " ".join(out.split())
    assert "Assumed: peft: checkpointing=non-reentrant: prepare_model_for_kbit_training turns it on; peft:" in text
    assert "The job: batch=1, seq_len=8192" in text
    assert "oomph plan, with the same words" in text
    _, out, _ = run(capsys, "train", "llama-3.2-1b", "--gpu", "h100")
    assert "Assumed:" not in out
    assert "oomph plan" not in out


def test_a_figure_above_the_card_is_explained(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fits, and may be shown to take more elsewhere; a narrow terminal leaves out what figures are."""
    monkeypatch.setenv("COLUMNS", "40")
    code, out, _ = run(capsys, "train", "llama-3.2-1b", "--gpu", "t4")
    assert code == 0
    assert "At most: on a larger card." in " ".join(out.split())
    assert "allocated   13." in out
    assert "max_memory_allocated" not in out
    _, out, _ = run(capsys, "train", "llama-3.2-1b", "--gpu", "h100")
    assert "larger card" not in out


def test_what_somebody_may_not_expect_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """States of layers whose turn with LISA is over, and experts that are published in four bits."""
    _, out, _ = run(capsys, "train", "llama-3.2-1b", "--method", "lisa")
    assert "states of all, as they are after many turns. --first-step" in " ".join(out.split())
    _, out, _ = run(capsys, "train", "llama-3.2-1b", "--method", "lisa", "--first-step")
    assert "many turns" not in out
    _, out, _ = run(capsys, "train", "gpt-oss-20b", "--method", "lora", "--targets", "all-linear")
    assert "published in mxfp4; it trains on weights in bf16" in " ".join(out.split())


@pytest.mark.parametrize("width", ["40", "80", "100"])
def test_an_id_is_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: str) -> None:
    """It is what --gpu takes: no terminal cuts it in two."""
    monkeypatch.setenv("COLUMNS", width)
    _, out, _ = run(capsys, "gpus", "apple-m1-ultra")
    assert "apple-m1-ultra-128gb" in out
    assert max(map(len, out.splitlines())) <= int(width)


def test_what_cannot_be_played_is_said_first(capsys: pytest.CaptureFixture[str]) -> None:
    """Not that targets are missing, and after they were named that it cannot be played."""
    for method in ("lora", "full"):
        code, _, err = run(capsys, "train", "grok-1", "--method", method)
        assert code == 3
        assert "oomph cannot play grok-1 yet" in err


def test_an_option_that_changes_nothing_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A rank without adapters asks for a full fine-tuning that nobody meant."""
    _, out, _ = run(capsys, "train", "llama-3.2-1b", "--rank", "16")
    assert "! --rank 16 changes nothing in this job." in " ".join(out.split())
    _, out, _ = run(capsys, "serve", "llama-3.2-1b", "--cache-bits", "2")
    assert "! --cache-bits 2 changes nothing in this job." in " ".join(out.split())
    _, out, _ = run(capsys, "train", "llama-3.2-1b", "--method", "lora", "--rank", "16")
    assert "changes nothing" not in out


@pytest.mark.parametrize("words", ["qwen3-14b -f mxfp4", "serve qwen3-14b -e vllm -f mxfp4 -g rtx-4090"])
def test_a_format_that_changes_nothing_is_told(capsys: pytest.CaptureFixture[str], words: str) -> None:
    """MXFP4 is one of experts; a dense model has none."""
    _, out, _ = run(capsys, *words.split())
    assert "MXFP4 experts: qwen3-14b has no such weights, so that all stay in" in " ".join(out.split())
