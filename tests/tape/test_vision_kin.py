"""estimate == trace for images in tiles and in kin of Qwen3-VL, and what a step of them is in numbers of its own."""

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
from tests.tape.vision_kin import config, grid

CASES = [*grid()]


@pytest.mark.slow
@pytest.mark.parametrize(("raw", "job"), CASES, ids=[raw["model_type"] for raw, _ in CASES])
def test_every_event_equals_the_trace(raw: dict[str, Any], job: TrainJob | InferJob) -> None:
    """Tiles put together, patches joined, positions of images in hybrid decoders: same allocations, frees and order."""
    parting, ours, theirs = compare(raw, job)
    assert parting is None, str(parting)
    assert ours == theirs


def deep(kind: str) -> dict[str, Any]:
    """A model of some layers more than a fold plays."""
    raw = config(random.Random(5), kind)
    kinds = {"layer_types": ["linear_attention", "full_attention"] * 6} if "3_5" in kind else {}
    raw["text_config"] |= {"num_hidden_layers": 12, **kinds}
    return raw


@pytest.mark.parametrize("kind", ["internvl", "llava_next", "qwen3_5"])
def test_a_folded_step_is_the_step_in_full(kind: str) -> None:
    """With images: the same peak and the same that is there."""
    model, job = model_from_config(deep(kind)), TrainJob(seq_len=230, images=1, image_size="40x90")
    folded, full = step(model, job), train_step(model, job)
    found = (folded.peak, folded.resident, folded.forward_end, folded.end)
    assert found == (full.peak, full.resident, full.live[full.forward_end], full.live[-1])
    assert folded.folded


def test_images_of_kimi_are_refused() -> None:
    """Its tower is weighed, but its program is of text alone."""
    model = model_from_config(config(random.Random(5), "kimi_k25"))
    with pytest.raises(OomphError, match="images"):
        train_step(model, TrainJob(seq_len=230, images=1, image_size="40x90"))


@pytest.mark.parametrize(
    "change",
    [
        {"image_grid_pinpoints": [[33, 64]]},
        {"image_grid_pinpoints": [[64]]},
        {"image_grid_pinpoints": [[64, "64"]]},
        {"vision_feature_select_strategy": "full"},
        {"vision_feature_layer": [-2, -1]},
    ],
)
def test_tiles_that_cannot_be_put_together_are_refused(change: dict[str, Any]) -> None:
    """Pinpoints that are no whole tiles, and features with a class token, on which the real class fails."""
    raw = config(random.Random(5), "llava_next") | change
    with pytest.raises(OomphError, match="with this projector") as refused:
        train_step(model_from_config(raw), TrainJob(seq_len=230, images=1, image_size="40x90"))
    assert "--images" in refused.value.fix


@pytest.mark.parametrize(("size", "says"), [("", "depend on their size"), ("1x9000", "too long")])
def test_sizes_that_make_no_tiles_are_refused(size: str, says: str) -> None:
    """None, and one of which no row of patches would be left."""
    for kind in ("llava_next", "llava_onevision"):
        with pytest.raises(OomphError, match=says):
            train_step(model_from_config(deep(kind)), TrainJob(seq_len=230, images=1, image_size=size))


def test_all_linear_maps_of_llama_4_are_refused() -> None:
    """Its routers are among them to PEFT, whose adapters expect one tensor where these return two."""
    model = model_from_config(config(random.Random(5), "llama4"))
    job = TrainJob(seq_len=64, method="lora", targets="all-linear")
    with pytest.raises(OomphError, match="routers of llama4") as refused:
        train_step(model, job)
    assert "--targets" in refused.value.fix
