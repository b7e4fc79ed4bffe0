"""Every collected config's quantization is read into a format, and the elements it stores are those published."""

from __future__ import annotations

import json
from math import prod

import pytest

from oomph.errors import UnsupportedError
from oomph.families import model_from_config
from oomph.families.registry import FAMILIES
from oomph.formats import asked_for, from_config
from tests.conftest import SHARED, shared_configs

pytestmark = pytest.mark.shared

QUANTISED = [(repo, raw) for repo, raw in shared_configs() if asked_for(raw) is not None]
SCALES = ("_scale", "_scale_2", "_scale_inv", "weight_shape")
# How a hub counts a repository's elements differs: with or without scales, scalars, buffers, prediction layers.
WITH_ALL = {
    "MiniMaxAI/MiniMax-M2.5", "Qwen/Qwen3-235B-A22B-FP8", "Qwen/Qwen3-30B-A3B-FP8", "Qwen/Qwen3-32B-FP8",
    "deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-V3-0324", "deepseek-ai/DeepSeek-V3.1",
    "deepseek-ai/DeepSeek-V3.2-Exp", "zai-org/GLM-5-FP8", "zai-org/GLM-5.1-FP8",
}  # fmt: skip
WITHOUT_SCALARS = {"nvidia/DeepSeek-V4-Flash-NVFP4", "nvidia/DeepSeek-V4-Pro-NVFP4"}
CODES_ONLY = {
    "nvidia/GLM-5.1-NVFP4", "nvidia/Gemma-4-31B-IT-NVFP4", "nvidia/MiniMax-M2.5-NVFP4", "nvidia/MiniMax-M2.7-NVFP4",
    "nvidia/Qwen3.5-122B-A10B-NVFP4", "nvidia/Qwen3.6-27B-NVFP4", "nvidia/Qwen3.6-35B-A3B-NVFP4",
}  # fmt: skip
CODES_AND_BUFFERS = {"nvidia/MiniMax-M3-NVFP4"}


def published(repo: str) -> int:
    """The number of elements a hub reports for the repository."""
    rows = map(json.loads, (SHARED / "configs" / "index.jsonl").read_text().splitlines())
    return next(row["params_published"] for row in rows if row["repo_id"] == repo)


@pytest.mark.parametrize(("repo", "raw"), QUANTISED, ids=[repo for repo, _ in QUANTISED])
def test_every_collected_config_is_read_or_refused_by_name(repo: str, raw: dict) -> None:
    """Nothing is guessed: a config becomes a Format, or the reason says its name."""
    quantization = asked_for(raw)
    assert quantization is not None
    try:
        fmt = from_config(quantization, "bf16")
    except UnsupportedError as refusal:
        reason = str(refusal)
    else:
        reason = ""
    if reason:
        assert str(quantization.get("quant_method")) in reason
        return
    assert fmt.title
    if raw["model_type"] not in FAMILIES:
        pytest.skip(f"no family for {raw['model_type']}")
    model = model_from_config(raw, repo)
    stored = sum(item.n_bytes for weight in model.weights for item in fmt.store(weight, model))
    assert 0 < stored < model.params * 2


CHECKED = [
    (repo, raw) for repo, raw in QUANTISED if repo in WITH_ALL | WITHOUT_SCALARS | CODES_ONLY | CODES_AND_BUFFERS
]


@pytest.mark.parametrize(("repo", "raw"), CHECKED, ids=[repo for repo, _ in CHECKED])
def test_stored_elements_equal_the_published_count(repo: str, raw: dict) -> None:
    """Codes, block scales and what is left in 16 bits add up to the published number, to the element."""
    if raw["model_type"] not in FAMILIES:
        pytest.skip(f"no family for {raw['model_type']}")
    model = model_from_config(raw, repo)
    fmt = from_config(asked_for(raw) or {}, "bf16")
    count = 0
    for weight in model.weights:
        if repo in CODES_ONLY and (weight.kind == "mtp" or weight.role.endswith("buffer")):
            continue
        for item in fmt.store(weight, model):
            scale = item.name.endswith(SCALES)
            if (scale and repo in CODES_ONLY | CODES_AND_BUFFERS) or (item.shape == () and repo in WITHOUT_SCALARS):
                continue
            count += prod(item.shape) * item.copies
    assert count == published(repo)
