"""Norms, embedding and head that axolotl leaves in fp32: against the real classes cast as it casts them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.methods import adapted
from oomph.methods.wide_tables import PLAYED
from tests.kernels.test_kernels import EXPERTS, SIZES
from tests.tape.golden import estimated, traced
from tests.test_cli import as_json

WIDE: dict[str, Any] = {"wide_tables": True, "autocast": True, "fp32_outputs": True, "batch": 2, "seq_len": 37}
MORE: dict[str, dict[str, Any]] = {"mixtral": {"num_local_experts": 4}, "qwen3_moe": EXPERTS}
JOBS: dict[str, dict[str, Any]] = {
    "llama": {"checkpointing": "non-reentrant"},
    "qwen2": {"attention": "eager", "padding": True, "optimizer": "adamw_8bit"},
    "qwen3_moe": {"checkpointing": "reentrant"},
    "phi3": {"clip_gradients": True, "accumulation": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAYED)
def test_every_event_equals_the_trace(name: str) -> None:
    """One job of each type, and one whose tables are one."""
    job = TrainJob(**{**WIDE, **JOBS.get(name, {})})
    raw = SIZES | {"model_type": name, "tie_word_embeddings": name == "qwen3"} | MORE.get(name, {})
    assert estimated(raw, job) == traced(raw, job)


def test_what_lies_between_products_is_fp32() -> None:
    """By the names of modules: norms, routers, tables; maps of attention and MLPs keep their 16 bits."""
    raw = SIZES | {"model_type": "mixtral", "num_local_experts": 4}
    model = adapted(model_from_config(raw), TrainJob(**WIDE))
    wide = {one.name.split(".")[-2] for one in model.weights if one.tensor.dtype == "fp32"}
    assert wide == {"embed_tokens", "lm_head", "norm", "input_layernorm", "post_attention_layernorm", "gate"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "lora"}, "the method lora"),
        ({"precision": "fp32"}, "precision fp32"),
        ({"autocast": False}, "that nothing casts"),
        ({"objective": "dpo"}, "the objective dpo"),
    ],
)
def test_what_they_do_not_go_with_is_refused(change: dict[str, Any], words: str) -> None:
    """They are of full fine-tuning under autocast."""
    with pytest.raises(UsageError, match=words):
        TrainJob(**{**WIDE, **change})
    with pytest.raises(UnsupportedError, match="not in glm"):
        adapted(model_from_config(SIZES | {"model_type": "glm"}), TrainJob(**WIDE))


@pytest.mark.parametrize(
    ("model", "said", "wide"),
    [
        ("qwen3-0.6b", {}, True),
        ("qwen3-0.6b", {"attn_implementation": "sdpa"}, True),
        ("qwen3-0.6b", {"flash_attention": True}, False),
        ("qwen3-0.6b", {"plugins": ["axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin"]}, False),
        ("qwen3-0.6b", {"adapter": "lora", "lora_target_linear": True}, False),
        ("pythia-70m", {}, False),
    ],
)
def test_axolotls_configs_ask_for_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str, said: dict[str, Any], wide: bool
) -> None:
    """Without flash-attn, cut cross entropy or an adapter; where they are not played that is told."""
    path = tmp_path / "a.yaml"
    path.write_text(json.dumps({"base_model": model, "micro_batch_size": 1, "sequence_len": 64, **said}))
    answer = as_json(capsys, "train", "--config", str(path))
    assert answer["job"].get("wide_tables", False) is wide
    assert any("which is not played" in text for text in answer["warnings"]) is (model == "pythia-70m")
