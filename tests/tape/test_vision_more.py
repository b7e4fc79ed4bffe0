"""estimate == trace for vision-language models of further classes, training and inference, event by event."""

from __future__ import annotations

import random
from typing import Any

import pytest

from oomph.errors import OomphError
from oomph.families import model_from_config
from oomph.job import InferJob, TrainJob
from oomph.play import train_step
from oomph.steps import step
from tests.tape.grid import compare
from tests.tape.vision_more import KINDS, TEXT_ALONE, config, grid

CASES = [*grid()]


@pytest.mark.slow
@pytest.mark.parametrize(("raw", "job"), CASES, ids=[f"{i}-{raw['model_type']}" for i, (raw, _) in enumerate(CASES)])
def test_every_event_equals_the_trace(raw: dict[str, Any], job: TrainJob | InferJob) -> None:
    """Towers, projectors and decoders: same allocations, frees, order and peak."""
    parting, ours, theirs = compare(raw, job)
    assert parting is None, str(parting)
    assert ours == theirs


def deep(kind: str) -> dict[str, Any]:
    """A model of some layers more than a fold plays."""
    raw = config(random.Random(5), kind)
    text = raw["text_config"]
    text["num_hidden_layers"] = 12
    if "layer_types" in text:
        text["layer_types"] = text["layer_types"] * 6
    return raw


@pytest.mark.parametrize("kind", KINDS)
def test_a_folded_step_is_the_step_in_full(kind: str) -> None:
    """With images: the same peak and the same that is there."""
    model, job = model_from_config(deep(kind)), TrainJob(seq_len=230, images=1, image_size="40x90")
    folded, full = step(model, job), train_step(model, job)
    found = (folded.peak, folded.resident, folded.forward_end, folded.end)
    assert found == (full.peak, full.resident, full.live[full.forward_end], full.live[-1])
    assert folded.folded


@pytest.mark.parametrize("kind", TEXT_ALONE)
def test_images_are_refused_where_text_alone_is_played(kind: str) -> None:
    """By the name of the model."""
    with pytest.raises(OomphError, match=f"images with {kind}"):
        train_step(model_from_config(config(random.Random(5), kind)), TrainJob(images=1, image_size="40x90"))


def test_tiles_whose_patches_cannot_be_joined_are_refused() -> None:
    """Three patches a side, two of them to be joined."""
    raw = config(random.Random(5), "aya_vision")
    raw["vision_config"] |= {"image_size": 21}
    with pytest.raises(OomphError, match="joined evenly") as refused:
        train_step(model_from_config(raw), TrainJob(seq_len=230, images=1, image_size="40x90"))
    assert "downsample_factor" in refused.value.fix
