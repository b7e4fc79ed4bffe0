"""QLoRA: a base that bitsandbytes quantised, prepared by PEFT or not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oomph import formats, weigh
from oomph.answer import subject
from oomph.errors import UsageError
from oomph.explain import saved_tensors
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.job_ledger import job_ledger
from oomph.methods import trainable_params
from oomph.play import train_step
from oomph.steps import step
from oomph.units import GIB
from tests.configs import LLAMA_3_8B
from tests.test_cli import run

MODEL = model_from_config(LLAMA_3_8B)
QLORA = TrainJob(method="qlora", rank=16)


def base_bytes(job: TrainJob) -> int:
    """Parameters of a step, those of the adapters left out."""
    played = train_step(MODEL, job)
    return played.kept("parameter", played.start) - 4 * trainable_params(MODEL, job)


@pytest.mark.parametrize("name", ["nf4", "nf4-dq", "fp4", "fp4-dq", "int8"])
@pytest.mark.parametrize("prepared", [False, True])
def test_the_base_is_what_its_format_stores(name: str, prepared: bool) -> None:
    """Codes, scales and tables come from formats/, each rounded to 512 B; prepared, all else is in fp32."""
    job = replace(QLORA, method="lora", quantization=name, kbit_preparation=prepared)
    stored = weigh.in_format(MODEL, replace(formats.get(name), rest="fp32" if prepared else "bf16"))
    rounded = sum(-(-n_bytes // 512) * 512 * copies for n_bytes, copies in stored.tensors)
    assert base_bytes(job) == rounded


def test_w11_qlora_keeps_embedding_and_head_in_fp32() -> None:
    """7.571 GiB with NF4 and 7.268 with its scales quantised: peers say 3.73 to 4.85."""
    found = {name: base_bytes(replace(QLORA, quantization=name)) / GIB for name in ("nf4", "nf4-dq")}
    assert {name: round(size, 2) for name, size in found.items()} == {"nf4": 7.57, "nf4-dq": 7.27}


def test_qlora_is_lora_with_three_things_set() -> None:
    """What the paper does; with method lora each can differ."""
    assert (QLORA.quantization, QLORA.kbit_preparation, QLORA.targets) == ("nf4-dq", True, "all-linear")
    spelled_out = replace(QLORA, method="lora")
    assert step(MODEL, spelled_out).peak == step(MODEL, QLORA).peak
    assert TrainJob(method="qlora", quantization="fp4").quantization == "fp4"


def test_a_prepared_base_doubles_the_residual_stream() -> None:
    """Norms and embedding in fp32 make the hidden states fp32: checkpoints are 4·T·h, not 2·T·h."""
    checkpointed = replace(QLORA, checkpointing="reentrant")
    assert saved_tensors(MODEL, checkpointed).formula == "4·T·h"
    assert saved_tensors(MODEL, replace(checkpointed, method="lora", kbit_preparation=False)).formula == "2·T·h"


def test_one_weight_is_dequantised_at_a_time() -> None:
    """The largest map's 117 MB in bf16 come and go; they never lie there all 32 times."""
    played = train_step(MODEL, replace(QLORA, checkpointing="reentrant"), on="gpu")
    sizes = [one for one in played.recorder.allocations if one.op in ("B_dq", "dequantize_4bit")]
    assert max(one.n_bytes for one in sizes) == 14336 * 4096 * 2
    alive = most = 0
    numbers = {at for at, one in enumerate(played.recorder.allocations) if one in sizes}
    for event in played.recorder.events:
        alive += (event in numbers) - (~event in numbers)
        most = max(most, alive)
    assert most == 1


@pytest.mark.parametrize("options", [{}, {"checkpointing": "non-reentrant", "precision": "amp-bf16"}], ids=str)
def test_a_folded_step_equals_one_played_in_full(options: dict[str, str]) -> None:
    """Stored sizes are expressions of the model's, so that one recipe holds for all."""
    job = replace(QLORA, **options)  # type: ignore[arg-type]
    folded = step(MODEL, job)
    assert folded.folded
    assert folded.peak == train_step(MODEL, job).peak


def test_what_does_not_go_together_is_refused() -> None:
    """Codes have no gradients."""
    with pytest.raises(UsageError, match="do not train"):
        TrainJob(quantization="nf4")


def test_the_command_line_says_what_trains(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """--method qlora prints the method and its trainable parameters, and every input it sets."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA_3_8B))
    code, out, _ = run(capsys, "train", str(path), "--method", "qlora", "--rank", "16")
    assert code == 0
    words = " ".join(out.split())
    assert "41.94M train (qlora)" in words
    assert "quantization=nf4-dq, kbit_preparation=True" in words
    code, out, _ = run(capsys, "train", str(path), "--method", "lora", "--json")
    assert json.loads(out)["job"]["trainable_params"] == 6_815_744 // 2


def typed(capsys: pytest.CaptureFixture[str], path: Path, *words: str) -> dict[str, Any]:
    """The answer to a typed job of QLoRA, a few tokens long."""
    path.write_text(json.dumps(LLAMA_3_8B))
    code, out, _ = run(capsys, "train", str(path), "--method", "qlora", "--seq", "512", "--json", *words)
    assert code == 0
    found: dict[str, Any] = json.loads(out)
    return found


def test_typed_qlora_is_what_guides_do(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Checkpointed and under autocast, with the reasons; flash attention then, so nothing to warn of."""
    found = typed(capsys, tmp_path / "config.json")
    assert (found["job"]["checkpointing"], found["job"]["autocast"]) == ("non-reentrant", True)
    assert "prepare_model_for_kbit_training" in found["assumptions"][0]
    assert not found["warnings"]


def test_what_is_typed_beside_qlora_wins(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Not only what differs from a plain job: also the words that say a plain job's own."""
    words = ("--no-autocast", "--checkpointing", "none", "--no-kbit-preparation", "--targets", "q_proj")
    job = typed(capsys, tmp_path / "config.json", *words)["job"]
    assert (job["method"], job["quantization"], job["kbit_preparation"]) == ("lora", "nf4-dq", False)
    assert (job["checkpointing"], job["autocast"], job["targets"]) == ("none", False, "q_proj")


def test_a_table_of_all_scores_is_warned_of(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """fp32 with fewer key heads has no fused kernel: measurements/ has such a row, its kernels are "math"."""
    found = typed(capsys, tmp_path / "config.json", "--no-autocast")
    assert any("square of the length" in text and "--autocast" in text for text in found["warnings"])
    found = typed(capsys, tmp_path / "config.json", "--no-autocast", "--attention", "math")
    assert not any("square of the length" in text for text in found["warnings"])


def test_experts_that_are_not_quantised_are_warned_of() -> None:
    """Stacked experts stay wide, in fp32 after PEFT's preparation: most of such a model's bytes."""
    found = subject("qwen3-30b-a3b")
    job = TrainJob(seq_len=64, method="qlora", targets="q_proj", autocast=True)
    (said,) = (text for text in job_ledger(found, job).warnings if "stacked" in text)
    assert "fp32" in said
    packed = job_ledger(found, replace(job, quantised_experts=True))
    assert not any("stacked" in text for text in packed.warnings)
