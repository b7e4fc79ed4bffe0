"""What other tools get wrong about weights, each as a test with the right answer.

The ids are those of the collected list of peers' errors (section A). Right answers come from the real classes,
real quantisers and real headers; each test names the trap.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oomph import formats, weigh
from oomph.answer import estimate, ledger, resolve
from oomph.blocks.attention import Attention
from oomph.blocks.base import descend
from oomph.families import model_from_config
from oomph.formats.gguf_types import BY_NAME
from oomph.header import Source
from oomph.units import GIB
from tests.configs import DEEPSEEK_V3, GEMMA_2_27B, LLAMA_3_8B, LLAMA_3_70B
from tests.conftest import SHARED, shared_configs


def gib(raw: dict[str, Any], fmt: str) -> float:
    """GiB of a config's weights in a format."""
    return weigh.in_format(model_from_config(raw), formats.get(fmt)).total_bytes / GIB


def collected(repo: str) -> dict[str, Any]:
    """A collected config by repo id; skips where the facts are absent."""
    if not SHARED.is_dir():
        pytest.skip(f"the collected facts ({SHARED}) are not here")
    return dict(shared_configs())[repo]


def test_w1_an_untied_head_is_counted() -> None:
    """Building AutoModel leaves 0.979 GiB of Llama-3-8B away."""
    assert round(gib(LLAMA_3_8B, "fp16"), 3) == 14.958
    assert round(gib(LLAMA_3_70B, "fp16"), 2) == 131.42


def test_w2_four_bit_is_not_an_eighth_of_fp32() -> None:
    """Scales exist, and embedding and head are not quantised."""
    assert round(gib(LLAMA_3_8B, "int8"), 2) == 8.46
    assert round(gib(LLAMA_3_8B, "nf4-dq"), 2) == 5.31
    assert round(gib(LLAMA_3_8B, "nf4"), 2) == 5.61


def test_w3_key_value_heads_shrink_attention() -> None:
    """4h² attention whatever the key/value heads is 13 % off at 70B."""
    assert model_from_config(LLAMA_3_8B).params == 8030261248
    assert round(model_from_config(LLAMA_3_70B).params / 1e9, 2) == 70.55


def test_w4_w5_gated_mlps_have_three_matrices_of_any_width() -> None:
    """14336 is no multiple of 4096, SwiGLU has a gate, and Llama has no learned positions."""
    kinds = model_from_config(LLAMA_3_8B).by_kind
    assert kinds["mlp"] == 32 * 3 * 4096 * 14336
    assert "position_embedding" not in kinds
    assert round(gib(GEMMA_2_27B, "bf16"), 1) == 50.7


def test_w6_experts_have_their_own_width() -> None:
    """DeepSeek-V3's experts are 2048 wide, not 18432: 1249.9 GiB in bf16, not 11542.8."""
    assert round(gib(DEEPSEEK_V3, "bf16"), 1) == 1249.9
    assert round(gib(LLAMA_3_8B, "bf16"), 3) == 14.958


@pytest.mark.parametrize(
    ("repo", "billions"),
    [
        ("deepseek-ai/DeepSeek-V3", 671.03),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", 79.67),
        ("google/gemma-3-27b-it", 27.43),
    ],
)
def test_w7_latent_and_linear_attention_and_explicit_head_dim(repo: str, billions: float) -> None:
    """Latent attention with dense first layers, gated delta nets and an explicit head_dim."""
    assert round(model_from_config(collected(repo)).params / 1e9, 2) == billions


def test_w8_an_absent_key_takes_the_class_default() -> None:
    """Gemma's config does not say that it is tied; its class does."""
    model = model_from_config(GEMMA_2_27B)
    assert model.tied
    assert round(model.params / 1e9, 3) == 27.227
    assert round(model_from_config(collected("google/gemma-3-27b-it")).params / 1e9, 3) == 27.432


def test_w9_head_dim_is_not_hidden_over_heads() -> None:
    """Gemma-2-27B's heads are 128 wide, 4608 / 32 is 144."""
    assert model_from_config(GEMMA_2_27B).params == 27227128320


def test_w10_int8_has_one_scale_a_row() -> None:
    """LLM.int8 keeps row statistics, not one scale every 64 weights."""
    assert round(gib(LLAMA_3_8B, "int8"), 3) == 8.463


def test_w11_qlora_keeps_embedding_and_head_in_fp32() -> None:
    """PEFT's prepare_model_for_kbit_training casts all that is not quantised to fp32."""
    model = model_from_config(LLAMA_3_8B)
    prepared = [weigh.in_format(model, replace(formats.get(name), rest="fp32")) for name in ("nf4", "nf4-dq")]
    assert [round(one.total_bytes / GIB, 3) for one in prepared] == [7.571, 7.268]


def test_w13_gib_and_gb_are_never_added() -> None:
    """14.958 GiB + 1 GiB + 0.5 GiB is 16.458 GiB or 17.67 GB, not 17.56 of neither."""
    total = weigh.in_format(model_from_config(LLAMA_3_8B), formats.get("fp16")).total_bytes + GIB + GIB // 2
    assert (round(total / GIB, 3), round(total / 1e9, 2)) == (16.458, 17.67)


def test_w14_all_experts_are_weighed() -> None:
    """Weights are total parameters; active ones say what a token passes through."""
    model = model_from_config(DEEPSEEK_V3)
    assert weigh.in_format(model, formats.get("bf16")).total_bytes >= 2 * model.params
    assert model.active_params == 37552282624


def test_w15_the_count_comes_from_the_config() -> None:
    """Nobody has to type a number of parameters."""
    found = ledger(resolve(Source("x", "config", LLAMA_3_8B)), None, None)
    assert found.model["params"] == 8030261248


def test_w16_the_cache_follows_from_heads_not_from_parameters() -> None:
    """What a cache needs is in the blocks: 2·L·K·D per token, 1 GiB for Llama-3-8B at 8k, 10 GiB for 70B at 32k."""
    for raw, tokens, expected in ((LLAMA_3_8B, 8192, 1.0), (LLAMA_3_70B, 32768, 10.0)):
        model = model_from_config(raw)
        block = next(block for block in descend(model.parts) if isinstance(block, Attention))
        per_token = 2 * model.num_layers * block.num_kv_heads * block.head_dim * 2
        assert per_token * tokens / GIB == expected


def test_w17_first_layers_can_be_dense() -> None:
    """first_k_dense_replace: the first three layers of DeepSeek-V3 have no experts."""
    assert model_from_config(DEEPSEEK_V3).params == 671026404352


def test_w18_stored_dtype_is_not_the_dtype_it_runs_in() -> None:
    """gemma-2-27b says float32: 50.7 GiB as it is loaded, and the ledger says so; 101 GiB only when asked for."""
    found = ledger(resolve(Source("gemma-2-27b", "config", GEMMA_2_27B)), None, None)
    assert round(found.total_bytes / GIB, 1) == 50.7
    assert found.model["stored_dtype"] == "fp32"
    assert any("fp32" in text for text in found.assumptions)
    as_stored = ledger(resolve(Source("gemma-2-27b", "config", GEMMA_2_27B)), "fp32", None)
    assert round(as_stored.total_bytes / GIB, 1) == 101.4


def test_w12_bytes_come_from_the_header_not_from_a_table_of_dtypes(tmp_path: Path) -> None:
    """BOOL, F4, F6 and C64 are weighed by their offsets; block types by their real block, not rounded bits."""
    tensors = {
        "mask": {"dtype": "BOOL", "shape": [8], "data_offsets": [0, 8]},
        "four": {"dtype": "F4", "shape": [6, 2], "data_offsets": [8, 14]},
        "six": {"dtype": "F6_E2M3", "shape": [4, 2], "data_offsets": [14, 20]},
        "complex": {"dtype": "C64", "shape": [2], "data_offsets": [20, 36]},
    }
    text = json.dumps(tensors).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(36))
    assert estimate(str(path)).total_bytes == 36
    bits = {name: BY_NAME[name].bits for name in ("Q8_K", "IQ3_S", "IQ2_XXS")}
    assert bits == {"Q8_K": 9.125, "IQ3_S": 3.4375, "IQ2_XXS": 2.0625}
