"""What other tools get wrong about caches, each as a test with the right answer.

The ids are those of the collected list of peers' errors (section B). Right answers are those of the real cache classes
of transformers, held against them in tests/engines/test_transformers_caches.py; K4, K16, K18, K19 and what other
engines say to K10 stand in the tests of engines.
"""

from __future__ import annotations

import pytest

from oomph import load
from oomph.blocks.cached import StateCache, TokenCache
from oomph.caches import layer_caches
from oomph.engines.transformers_caches import Filled, dynamic_bytes, layer_bytes
from oomph.units import GIB

SHORT, LONG = 8192, 32768


def gib(name: str, tokens: int, batch: int = 1) -> float:
    """GiB of a dynamic bf16 cache after a prompt and its last token."""
    return float(dynamic_bytes(layer_caches(load(name)), Filled(batch, tokens - 1, 1)) / GIB)


@pytest.mark.parametrize("name", ["deepseek-v3", "deepseek-r1"])
def test_k1_k2_k3_k20_k22_latent_attention_keeps_one_vector(name: str) -> None:
    """61 layers of 512 + 64 elements; not heads times their width, not twice, and not without the rotary part."""
    assert round(gib(name, LONG), 4) == 2.1445


def test_k5_k7_k8_keys_and_values_of_key_value_heads() -> None:
    """2·L·K·D for each token and sequence: neither without the 2, nor with it twice, nor of all heads."""
    assert gib("llama-3-8b", SHORT, batch=8) == 8.0
    assert gib("llama-2-7b", 4096) == 2.0


def test_k6_the_cache_is_no_multiple_of_parameters() -> None:
    """Models of one size differ by their heads, windows and latents."""
    sizes = [gib("llama-3-8b", SHORT), gib("llama-3-70b", LONG), gib("gemma-3-27b-it", LONG), gib("deepseek-v3", LONG)]
    assert [round(size, 3) for size in sizes] == [1.0, 10.0, 2.906, 2.145]


def test_k9_k13_gemma_2_alternates_though_its_config_does_not_say() -> None:
    """23 of 46 layers see 4096 tokens: neither all of them, nor none."""
    assert round(gib("gemma-2-27b-it", LONG), 3) == 6.469


def test_k10_k11_k12_k17_gemma_3_has_ten_full_layers_of_62() -> None:
    """Of which heads are 128 wide, not 5376 / 32; 52 others see 1024 tokens."""
    found = {each.cached: len(each.layers) for each in layer_caches(load("gemma-3-27b-it"))}
    assert found == {(TokenCache(16, 128, 128, window=1024),): 52, (TokenCache(16, 128, 128),): 10}
    assert round(gib("gemma-3-27b-it", LONG), 3) == 2.906


def test_k11_gpt_oss_alternates() -> None:
    """18 full layers, 18 that see 128 tokens."""
    assert round(gib("gpt-oss-120b", LONG), 3) == 1.129


def test_k14_k22_linear_attention_has_a_state_and_no_keys() -> None:
    """Qwen3-Next: 12 layers with keys hold 0.75 GiB at 32k, 36 hold the same number of bytes at any length."""
    caches = layer_caches(load("qwen3-next-80b-a3b-instruct"))
    keys, states = 0, []
    for each in caches:
        sizes = [layer_bytes(each.cached, Filled(1, tokens - 1, 1)) * len(each.layers) for tokens in (64, LONG)]
        if isinstance(each.cached[0], StateCache):
            states.append(sizes)
        else:
            keys += sizes[1]
    assert keys / GIB == 0.75
    assert all(short == long for short, long in states)
    assert sum(long for _, long in states) == 36 * (32 * 128 * 128 * 4 + 8192 * 4 * 2)


def test_k15_a_window_in_every_layer() -> None:
    """Mistral-7B-v0.1 at 32k keeps 4096 tokens of them; v0.2 has no window."""
    assert gib("mistral-7b-v0.1", LONG) == 0.5
    assert gib("mistral-7b-instruct-v0.2", LONG) == 4.0


def test_a_window_that_is_switched_off_is_none() -> None:
    """Qwen2.5 spells sliding_window and says use_sliding_window false: 28 layers of 4 heads in full."""
    assert gib("qwen2.5-7b", LONG) == LONG * 28 * 2 * 4 * 128 * 2 / GIB
