"""Jobs of vision-language models: what is refused, what trains, and that folding a step changes nothing."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from oomph.answer import load
from oomph.errors import OomphError
from oomph.families import model_from_config
from oomph.job import InferJob, TrainJob
from oomph.methods import adapted
from oomph.play import train_step
from oomph.play_infer import infer
from oomph.steps import step
from tests.tape.vision import KINDS, NEVER_TEXT, SEEING, config


def deep(kind: str, layers: int = 9) -> dict[str, Any]:
    """A model of some layers more than a fold plays."""
    raw = config(random.Random(5), kind)
    raw["text_config"] |= {"num_hidden_layers": layers}
    raw["text_config"].pop("layer_types", None)
    return raw


@pytest.mark.parametrize("kind", KINDS)
def test_a_folded_step_is_the_step_in_full(kind: str) -> None:
    """With images, where a kind is played with them, and of text alone: the same peak and the same that is there."""
    model = model_from_config(deep(kind))
    for images in (0, 1, 2)[kind in NEVER_TEXT : 3 if kind in SEEING else 1]:
        job = TrainJob(seq_len=120, images=images, image_size="16x24" * bool(images), checkpointing="non-reentrant")
        folded, full = step(model, job), train_step(model, job)
        found = (folded.peak, folded.resident, folded.forward_end, folded.end)
        assert found == (full.peak, full.resident, full.live[full.forward_end], full.live[-1]), (kind, images)
        assert folded.folded


def crossing(layers: int) -> dict[str, Any]:
    """A Llama 3.2 Vision of which every third layer attends to images."""
    raw = deep("mllama", layers)
    raw["text_config"]["cross_attention_layers"] = [*range(1, layers, 3)]
    return raw


def test_layers_that_attend_to_images_are_part_of_a_period() -> None:
    """A step of many of them is folded, and is the step in full."""
    model = model_from_config(crossing(24))
    for images in (0, 1):
        job = TrainJob(seq_len=60, images=images, checkpointing="non-reentrant")
        folded, full = step(model, job), train_step(model, job)
        assert (folded.peak, folded.end, folded.folded) == (full.peak, full.live[-1], True)


def test_reentrant_checkpoints_are_refused_where_they_fail() -> None:
    """Several layers that attend to one image: the second one finds the tower's graph freed, as in the real class."""
    job = TrainJob(seq_len=60, images=1, checkpointing="reentrant")
    with pytest.raises(OomphError, match="a second time"):
        train_step(model_from_config(crossing(9)), job)
    assert train_step(model_from_config(crossing(3)), job).peak  # a single one


def test_a_static_cache_has_no_room_for_images() -> None:
    """Llama 3.2 Vision's layers of one are as long as the text; PaliGemma's masks over one are not modelled."""
    for raw in (crossing(3), deep("paligemma", 3)):
        with pytest.raises(OomphError, match="static cache"):
            infer(model_from_config(raw), InferJob(1, 60, images=1, cache="static"))


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_frozen_tower_trains_nowhere(method: str) -> None:
    """Neither its weights nor adapters on it: what trains is in the language model, or its head."""
    job = TrainJob(method=method, targets="all-linear", freeze_vision=True)
    trains = [one.name for one in adapted(model_from_config(deep("llava")), job).weights if one.tensor.trains]
    assert trains
    assert all("language_model" in name or name.startswith("lm_head") for name in trains)
    free = adapted(model_from_config(deep("llava")), replace(job, freeze_vision=False))
    assert any("vision_tower" in one.name and one.tensor.trains for one in free.weights)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image_size": "16x16"}, "image_size is of images"),
        ({"images": 1, "image_size": "16"}, "image_size cannot be"),
        ({"images": 1, "image_size": "16x99999999999999999999"}, "image_size cannot be"),
        ({"images": 1, "padding": True}, "padding mask"),
        ({"images": 1, "packing": True}, "packed"),
        ({"images": 1, "objective": "dpo"}, "objective dpo"),
        ({"images": -1}, "images cannot be"),
        ({"images": 50}, "do not fit"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], says: str) -> None:
    """With the problem, and the way out of it."""
    with pytest.raises(OomphError, match=says) as refused:
        train_step(model_from_config(deep("llava")), TrainJob(**{"seq_len": 64, **changes}))
    assert refused.value.fix


def test_text_alone_is_refused_where_a_processor_does() -> None:
    """PaliGemma always sees an image."""
    model = model_from_config(deep("paligemma"))
    with pytest.raises(OomphError, match="text alone") as refused:
        train_step(model, TrainJob(seq_len=64))
    assert "--images" in refused.value.fix
    with pytest.raises(OomphError, match="text alone"):
        infer(model, InferJob(1, 64))


def test_images_are_refused_where_they_are_not_played() -> None:
    """By the name of the model, with the way to text alone."""
    text = deep("llava")["text_config"] | {"model_type": "llama"}
    with pytest.raises(OomphError, match="images with llama"):
        train_step(model_from_config(text), TrainJob(images=1))


@pytest.mark.parametrize("checkpointing", ["none", "non-reentrant"])
def test_a_text_that_reaches_nothing_that_trains_is_refused(checkpointing: Any) -> None:
    """Biases of a tower and a projector alone, and no image: torch has nothing to go back to, or inputs alone."""
    model = load("pixtral-12b", offline=True)
    with pytest.raises(OomphError, match=r"depends on nothing that trains.*--images"):
        step(model, TrainJob(seq_len=60, method="bitfit", checkpointing=checkpointing, clip_gradients=True))
