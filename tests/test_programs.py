"""Programs refuse what their real classes cannot run either."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.answer import resolve
from oomph.errors import OomphError, UnsupportedError
from oomph.families import model_from_config
from oomph.header import Source
from oomph.job import TrainJob
from oomph.job_ledger import job_ledger
from oomph.play import train_step
from oomph.steps import step

GPT2 = {"model_type": "gpt2", "vocab_size": 64, "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 5}


def test_more_tokens_than_learned_positions_are_refused() -> None:
    """A table of 64 positions ends a sequence of 65 tokens: one is played, the other refused, also from a kept step."""
    model = model_from_config({**GPT2, "max_position_embeddings": 64})
    assert step(model, TrainJob(1, 64)).peak > 0
    with pytest.raises(OomphError, match="has 64 positions"):
        step(model, TrainJob(1, 65))


def test_packing_is_refused_where_a_class_takes_no_position_ids() -> None:
    """BLOOM knows distances, no positions."""
    model = model_from_config({**GPT2, "model_type": "bloom"})
    with pytest.raises(OomphError, match="position ids"):
        step(model, TrainJob(1, 8, packing=True))


def test_a_classifier_without_padding_takes_one_sequence() -> None:
    """The real class raises for two."""
    raw = {**GPT2, "architectures": ["GPT2ForSequenceClassification"]}
    assert step(model_from_config(raw), TrainJob(1, 8)).peak > 0
    assert step(model_from_config({**raw, "pad_token_id": 0}), TrainJob(2, 8)).peak > 0
    with pytest.raises(OomphError, match="pad_token_id"):
        step(model_from_config(raw), TrainJob(2, 8))


DBRX = {
    **{"model_type": "dbrx", "vocab_size": 64, "d_model": 32, "n_layers": 8, "n_heads": 4, "resid_pdrop": 0.0},
    "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0},
    "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2},
}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"attn_config": {"kv_n_heads": 2}}, "without clip_qkv"),
        ({"resid_pdrop": 0.1}, "resid_pdrop"),
        ({"ffn_config": {"moe_normalize_expert_weights": 2.0}}, "a norm of weights"),
    ],
)
def test_dbrx_is_played_as_it_was_released(changes: dict[str, Any], reason: str) -> None:
    """A folded step is the one played in full; what no program plays is refused by name."""
    model = model_from_config(DBRX)
    assert step(model, TrainJob(2, 9)).peak == train_step(model, TrainJob(2, 9)).peak
    with pytest.raises(UnsupportedError, match=reason):
        step(model_from_config({**DBRX, **changes}), TrainJob(2, 9))


@pytest.mark.parametrize(("preparation", "state"), [(False, "their own dtype"), (True, "fp32")])
def test_an_answer_on_dbrx_says_what_its_experts_are(preparation: bool, state: str) -> None:
    """A loop over the experts that were hit, of three tall matrices that bitsandbytes leaves as they are."""
    job = TrainJob(2, 9, method="lora", targets="Wqkv", quantization="nf4", kbit_preparation=preparation)
    answer = job_ledger(resolve(Source("dbrx", "config", DBRX)), job)
    assert "experts=eager" in answer.assumptions
    warning = next(words for words in answer.warnings if "does not quantise experts" in words)
    assert f"they are in {state}" in warning
    assert "--quantised-experts" not in warning


@pytest.mark.parametrize("words", [{"method": "qlora", "quantised_experts": True}, {"experts": "modules"}])
def test_other_forms_of_dbrx_experts_are_refused(words: dict[str, Any]) -> None:
    """Its class keeps three tall matrices and goes through them in a loop."""
    with pytest.raises(OomphError, match="experts"):
        step(model_from_config(DBRX), TrainJob(2, 9, **words))
