"""Freeze tuning: the last layers train in fp32, all else stays; its steps are recorded with the objectives."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.errors import UsageError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.methods import trainable_params
from oomph.play import train_step
from oomph.steps import step
from tests.configs import LLAMA_3_8B
from tests.methods.test_badam import LAYER

MODEL = model_from_config(LLAMA_3_8B)


def test_the_last_layers_train_with_sixteen_bytes_a_weight() -> None:
    """fp32 weights, gradients and states of what trains; with adapter_dtype base 8 bytes."""
    for dtype, width in (("fp32", 4), ("base", 2)):
        job = TrainJob(method="freeze", active_layers=2, seq_len=16, adapter_dtype=dtype)  # type: ignore[arg-type]
        assert trainable_params(MODEL, job) == 2 * LAYER
        played = train_step(MODEL, job)
        assert played.kept("optimizer state") == 2 * width * 2 * LAYER
        assert played.kept("gradient", played.backward_end) == width * 2 * LAYER


def test_nothing_is_kept_of_the_layers_below() -> None:
    """No gradient goes through them: as many layers that train keep as much, whatever lies below."""
    shallow = model_from_config(LLAMA_3_8B | {"num_hidden_layers": 4})
    job = TrainJob(method="freeze", active_layers=2, seq_len=64)
    below = 28 * 2 * LAYER
    assert int(step(MODEL, job).peak) - int(step(shallow, job).peak) == pytest.approx(below, rel=1e-5)


@pytest.mark.parametrize("options", [{"quantization": "nf4"}, {"modules_to_save": "lm_head"}, {"active_layers": 33}])
def test_what_it_cannot_train_is_refused(options: dict[str, Any]) -> None:
    """Codes, copies, and more layers than there are."""
    with pytest.raises(UsageError, match=r"whole layers|no 33 layers"):
        trainable_params(MODEL, TrainJob(method="freeze", **options))
