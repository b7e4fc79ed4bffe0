"""How many tokens TGI's launcher reads at once: a line of a log, its formulas by hand, any config."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomph.devices import find
from oomph.engines.tgi.prefill import prefill_tokens

LLAMA = {
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}


def test_gemma_3_as_a_log_has_it() -> None:
    """Gemma 3 27B on two RTX A6000, July 2025: "Default `max_batch_prefill_tokens` to 8000"."""
    config = {"model_type": "gemma3", "text_config": {"head_dim": 128}, "vision_config": {}}
    assert prefill_tokens(config, find("rtx-a6000"), 2) == 8000


@pytest.mark.parametrize(
    ("changed", "device", "count", "tokens"),
    [
        # 2 x 4096 x (112 x 128 + 3 x 14336) x 32 operations a token are 15,032,385,536
        ({}, "h100-sxm", 1, 59870),
        ({}, "a10g", 4, 33261),
        ({"max_position_embeddings": 8192}, "h100-sxm", 1, 8192),
        ({"max_position_embeddings": None, "max_seq_len": 2048}, "h100-sxm", 1, 2048),
        # two of eight experts: 2 x 4096 x (112 x 128 + 6 x 14336) x 32 are 26,306,674,688
        ({"num_experts_per_tok": 2}, "h200", 1, 37595),
        # of 22,945,254,604 bytes weights leave 777,718,988, and a token takes 212,992 of a cache, 129,024 of an MLP
        ({"num_hidden_layers": 52}, "l4", 1, 2273),
        # not even weights fit, and what they take is not known
        ({"num_hidden_layers": 320}, "l4", 1, 804),
        ({"quantization_config": {"quant_method": "gptq"}}, "l4", 1, 8049),
        ({"vision_config": {}}, "l4", 1, 4096),
        ({}, "rtx-3090", 1, 4096),
    ],
)
def test_by_hand(changed: dict[str, Any], device: str, count: int, tokens: int) -> None:
    """What a card reads in a second, what a request may be long, what there is memory for."""
    assert prefill_tokens({**LLAMA, **changed}, find(device), count) == tokens


@given(
    st.dictionaries(
        st.sampled_from([*LLAMA, "head_dim", "text_config", "model_type", "num_local_experts", "quantization_config"]),
        st.none()
        | st.integers()
        | st.text(max_size=4)
        | st.booleans()
        | st.dictionaries(st.text(max_size=2), st.none()),
    ),
    st.sampled_from(["l4", "h200", "m4-max-64gb"]),
)
def test_any_config_has_an_answer(config: dict[str, Any], device: str) -> None:
    """A number from 1 on, whatever a config says."""
    assert prefill_tokens(config, find(device), 1) >= 1
