"""Omni models in jobs: their thinkers are trained and serve."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from oomph.answer import subject
from oomph.errors import OomphError
from oomph.families import model_from_config
from oomph.job import InferJob, TrainJob
from oomph.play import train_step
from oomph.play_infer import infer
from tests.tape.golden import estimated, traced
from tests.tape.vision_more import config

OMNI = ("qwen2_5_omni", "qwen3_omni_moe")


@pytest.mark.parametrize("kind", OMNI)
def test_a_job_takes_the_thinker(kind: str, tmp_path: Path) -> None:
    """Of a whole omni model: what a thinker's own config makes."""
    inner = config(random.Random(3), f"{kind}_thinker")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": kind, "thinker_config": inner, "enable_audio_output": False}))
    job = TrainJob(seq_len=60, images=1, image_size="64x48")
    found = subject(str(path), job=job).model
    assert found.model_type == f"{kind}_thinker"
    assert train_step(found, job).peak == train_step(model_from_config(inner), job).peak


def test_numbered_maps_are_no_targets() -> None:
    """PEFT's all-linear shortens maps' names to numbers here, and fails."""
    model = model_from_config(config(random.Random(3), "qwen3_omni_moe_thinker"))
    with pytest.raises(OomphError, match="all-linear calls maps") as refused:
        train_step(model, TrainJob(seq_len=60, method="lora", targets="all-linear"))
    assert "--targets" in refused.value.fix


def test_a_mask_is_refused_without_gradients() -> None:
    """Positions after a padded prompt come from generate, not from the class."""
    model = model_from_config(config(random.Random(3), "qwen2_5_omni_thinker"))
    with pytest.raises(OomphError, match="padding mask"):
        infer(model, InferJob(2, 20, 2, padding=True))


@pytest.mark.slow
def test_adapters_on_experts_equal_the_trace() -> None:
    """PEFT translates names of experts' maps to their parameters here too."""
    raw = config(random.Random(3), "qwen3_omni_moe_thinker")
    job = TrainJob(method="lora", targets="q_proj,gate_proj,up_proj,down_proj", batch=2, seq_len=37)
    assert estimated(raw, job) == traced(raw, job)
