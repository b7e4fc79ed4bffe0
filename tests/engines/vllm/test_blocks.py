"""vLLM's pool of blocks, held against logs of vLLM that others published (facts/engines.md of the measured rows)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oomph.engines.vllm.blocks import Page, attention_block, pool
from oomph.errors import UnsupportedError
from oomph.units import GIB

V19, V27, V33 = (0, 19, 0), (0, 27, 1), (0, 33, 0)
GDN_BYTES = 48 * 128 * 128 * 4 + 3 * 10240 * 2  # Qwen3.6-27B: state in fp32, convolution in bf16


def _qwen36(states: int) -> list[tuple[int, Page]]:
    """Return the layers of Qwen3.6-27B: every fourth sees all tokens, at 4096 bytes each."""
    block = attention_block(GDN_BYTES, 4096, 16)
    full, state = Page("full", block, block * 4096), Page("state", block, GDN_BYTES, states=states)
    return [(layer, full if layer % 4 == 3 else state) for layer in range(64)]


def test_gemma_4_has_windows_of_its_own_blocks() -> None:
    """Gemma-4-26B: 83.89 GiB are 137,445 blocks, of which a request of 262,144 tokens takes 8192 + 5 * 221 = 14.78x."""
    full, window = Page("full", 16, 16 * 4096), Page("window", 16, 16 * 8192, 1024)
    layers = [(layer, full if layer % 6 == 5 else window) for layer in range(30)]
    found = pool(layers, V19, 2496)
    blocks = int(83.89 * GIB) // found.block_bytes()
    assert blocks == pytest.approx(137445, rel=1e-4)
    assert found.blocks(262144) == 8192 + 5 * 221
    assert found.concurrency(blocks, 262144) == pytest.approx(14.78, abs=0.01)


def test_qwen_3_6_pads_states_to_pages() -> None:
    """Qwen3.6-27B-FP8 in 41.03 GiB: 784 tokens a block, 857 blocks, 71.42 requests of 4096 tokens (vLLM 0.27.1)."""
    assert attention_block(GDN_BYTES, 4096, 16) == 784
    found = pool(_qwen36(states=2), V27, 4096)
    blocks = int(41.03 * GIB) // found.block_bytes()
    assert blocks == 857
    assert found.blocks(4096) == 6 + 3 * 2
    assert round(found.concurrency(blocks, 4096), 2) == 71.42
    assert found.tokens(blocks, 4096, derived=True) == 292522


def test_gpt_oss_shares_one_pool_between_two_groups() -> None:
    """gpt-oss-20b on two GPUs: 323,972 blocks are 2,591,776 tokens, 316.07 requests of 8192 (vLLM 0.19.0)."""
    full, window = Page("full", 16, 16 * 4 * 128 * 2), Page("window", 16, 16 * 4 * 128 * 2, 128)
    found = pool([(layer, full if layer % 2 else window) for layer in range(24)], V19, 8192)
    assert found.tokens(323972, 8192, derived=False) == 2591776
    assert round(found.concurrency(323972, 8192), 2) == 316.07


def test_a_draft_of_one_layer_makes_the_larger_group_the_measure() -> None:
    """12 windows and 13 that see all become two groups of 13, not three of 12 (kv_cache_utils.py, 0.19.0)."""
    full, window = Page("full", 16, 4096), Page("window", 16, 4096, 128)
    layers = [(layer, full if layer % 2 else window) for layer in range(24)]
    found = pool([*layers, (24, full)], V19, 8192)
    assert (len(found.groups), found.block_bytes()) == (2, 13 * 4096)


def test_without_the_hybrid_manager_windows_keep_all_tokens() -> None:
    """--disable-hybrid-kv-cache-manager charges every layer for every token, as versions before 0.9.2 do."""
    full, window = Page("full", 16, 4096), Page("window", 16, 4096, 128)
    layers = [(layer, full if layer % 2 else window) for layer in range(24)]
    for found in (pool(layers, V19, 8192, hybrid=False), pool(layers, (0, 8, 5), 8192)):
        assert (len(found.groups), found.block_bytes(), found.blocks(8192)) == (1, 24 * 4096, 512)


def test_pages_that_do_not_divide_are_refused_or_padded() -> None:
    """0.19 has no way to make pages of 3 and 4 KiB one size; 0.33 pads the smaller."""
    layers = [(0, Page("full", 16, 4096)), (1, Page("window", 16, 3072, 128))]
    with pytest.raises(UnsupportedError, match="equally large"):
        pool(layers, V19, 2048)
    assert pool(layers, V33, 2048).block_bytes() == 4096


def test_devices_that_share_a_cache_keep_a_part_of_the_tokens() -> None:
    """Kimi-K2: 11,174 blocks of 64 are 5,721,088 tokens with a decode context parallel size of 8 (a log of vLLM)."""
    found = pool([(0, Page("full", 64, 64 * 1152))], V19, 8192, shared_by=8)
    assert found.tokens(11174, 131072, derived=False) == 5721088
    assert found.blocks(131072) == 131072 // 8 // 64


@settings(deadline=None)
@given(
    kinds=st.lists(st.sampled_from(["full", "window", "chunk", "state"]), min_size=1, max_size=12),
    contexts=st.lists(st.integers(1, 2**20), min_size=1, max_size=8),
    in_flight=st.integers(1, 2**15),
)
def test_blocks_of_an_array_are_those_of_its_numbers(kinds: list[str], contexts: list[int], in_flight: int) -> None:
    """A request's blocks on a numpy array agree with each number alone, and never fall with more tokens."""
    np = pytest.importorskip("numpy")
    layers = [(layer, Page(kind, 16, 4096, 512)) for layer, kind in enumerate(kinds)]  # type: ignore[arg-type]
    found = pool(layers, V33, in_flight)
    alone = [found.blocks(context) for context in sorted(contexts)]
    assert list(found.blocks(np.array(sorted(contexts)))) == alone
    assert alone == sorted(alone)
