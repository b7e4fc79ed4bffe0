"""What layers keep: windows, chunks, states and shared keys stand in the layers that the real classes put them in."""

from __future__ import annotations

import copy
import random
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest

from oomph import load
from oomph.blocks.cached import StateCache, TokenCache
from oomph.caches import layer_caches
from oomph.families import model_from_config
from oomph.families.registry import FAMILIES
from oomph.model import Model
from oomph.sources.catalogue import entries
from tests.conftest import shared_configs
from tests.engines.real_caches import ENCODED
from tests.families.samples import all_samples


def kept(name: str) -> dict[Any, int]:
    """What the layers of a known model keep, and how many of them do."""
    return {each.cached: len(each.layers) for each in layer_caches(load(name))}


def test_gemma_4_shares_keys_and_has_larger_heads_in_full_layers() -> None:
    """E4B: the last 18 of 42 layers keep nothing; of the others every sixth is full, with heads of 512."""
    found = kept("gemma-4-e4b-it")
    assert sum(found.values()) == 42 - 18
    assert found == {(TokenCache(2, 256, 256, window=512),): 20, (TokenCache(2, 512, 512),): 4}


def test_mimo_keeps_narrower_values_and_more_heads_in_its_window() -> None:
    """9 full layers of 4 heads, 39 of 8 that see 128 tokens before them; keys of 192, values of 128."""
    window = TokenCache(8, 192, 128, window=129)
    assert kept("mimo-v2-flash") == {(TokenCache(4, 192, 128),): 9, (window,): 39}


def test_deepseek_v4_compresses_what_is_beyond_its_window() -> None:
    """Flash: compress_ratios of 0 in 2 layers, 4 (with an indexer) in 21, 128 in 20."""
    plain = TokenCache(1, 512, 0, "latent", window=128)
    sparse = TokenCache(1, 512, 0, "compressed", index_dim=128, ratio=4, overlap=2)
    heavy = TokenCache(1, 512, 0, "compressed", ratio=128)
    assert kept("deepseek-v4-flash") == {(plain,): 2, (plain, sparse): 21, (plain, heavy): 20}


def test_only_some_layers_of_glm_5_2_index() -> None:
    """The others take the tokens that an earlier one picked."""
    found = kept("glm-5.2")
    indexed = sum(number for cached, number in found.items() if cached[0].index_dim)
    assert 0 < indexed < sum(found.values()) == 78
    assert {cached[0].per_token for cached in found} == {512 + 64}
    assert all(cached[0].index_dim for cached in kept("deepseek-v3.2"))


def test_llama_4_sees_chunks() -> None:
    """Three of four layers."""
    found = kept("llama-4-scout-17b-16e-instruct")
    assert found == {(TokenCache(8, 128, 128, chunk=8192),): 36, (TokenCache(8, 128, 128),): 12}


def test_hybrids_keep_states_and_keys_in_different_layers() -> None:
    """Qwen3-Next: 36 delta nets, 12 attentions; Nemotron-H 8B 24 and 4 of 52; RecurrentGemma has a window of 2048."""
    delta = StateCache("gated_delta_net", 2 * 2048 + 4096, 4, (32, 128, 128))
    assert kept("qwen3-next-80b-a3b-instruct") == {(delta,): 36, (TokenCache(2, 256, 256),): 12}
    mamba = StateCache("mamba2", 8192 + 2 * 8 * 128, 4, (128, 64, 128))
    assert kept("nemotron-h-8b-base-8k") == {(mamba,): 24, (TokenCache(8, 128, 128),): 4}
    gated = StateCache("rg_lru", 2560, 4, (2560,))
    assert kept("recurrentgemma-2b") == {(gated,): 18, (TokenCache(1, 256, 256, window=2048),): 8}


def test_a_shared_block_keeps_what_it_sees_in_every_place() -> None:
    """Zamba2: the attention's weights are stored a few times, its keys in every hybrid layer, beside a state."""
    found = kept("zamba2-1.2b")
    both = {cached: number for cached, number in found.items() if len(cached) == 2}
    assert sum(found.values()) == 38
    assert sum(both.values()) == 6
    assert [(each.heads, each.key_dim) for cached in both for each in cached if isinstance(each, TokenCache)] == [
        (32, 128)
    ]


def test_two_attentions_in_one_layer_keep_twice() -> None:
    """LongCat-Flash, whose two attentions are equal."""
    (each,) = layer_caches(model_from_config(all_samples()["longcat_flash"](random.Random(0))))
    assert len(each.cached) == 2


def test_whisper_keeps_what_its_encoder_always_gives() -> None:
    """1500 frames, however short the sound is; T5's source is as long as its text."""
    (whisper,) = layer_caches(load("whisper-large-v3"))
    assert [(each.kind, each.source_tokens) for each in whisper.cached] == [("attention", None), ("cross", 1500)]
    (t5,) = layer_caches(load("t5-small"))
    assert [(each.kind, each.source_tokens) for each in t5.cached] == [("attention", None), ("cross", None)]


def test_adapters_change_nothing() -> None:
    """A block whose submodules were exchanged keeps what it kept."""
    from oomph.job import TrainJob
    from oomph.methods import adapted

    plain = load("gemma-2-2b-it")
    tuned = adapted(plain, TrainJob(method="lora", seq_len=128))
    assert layer_caches(tuned) == layer_caches(plain)


# The collected file leaves out sliding_window, which the published one sets to null (huggingface/trl#7204).
COLLECTED_WITHOUT_ITS_NULL = "mistral-7b-instruct-v0.2"


@pytest.mark.shared
def test_a_model_known_by_name_keeps_what_its_whole_config_says() -> None:
    """The catalogue holds every key that decides windows, chunks and states."""
    whole = {repo.lower(): raw for repo, raw in shared_configs()}
    for entry in entries():
        raw = whole.get(entry["repo"].lower())
        if raw is not None and entry["name"] != COLLECTED_WITHOUT_ITS_NULL:
            assert layer_caches(load(entry["name"])) == layer_caches(model_from_config(raw)), entry["name"]


Seen = tuple[Any, bool, bool]  # how many tokens, None all, () no keys; whether there is a state; whether an indexer


def ours(model: Model) -> list[Seen]:
    """Every decoder layer as we say it."""
    found: list[Seen] = [((), False, False)] * model.num_layers
    for each in layer_caches(model):
        tokens = [one for one in each.cached if isinstance(one, TokenCache) and one.kind != "compressed"]
        seen = (tokens[0].window or tokens[0].chunk) if tokens else ()
        states = any(isinstance(one, StateCache) for one in each.cached)
        for place in each.layers:
            found[place] = (seen, states, any(one.index_dim for one in tokens))
    return found


def theirs(raw: dict[str, Any]) -> list[Seen]:
    """Every layer of DynamicCache(config)."""
    import transformers

    config = transformers.AutoConfig.for_model(**copy.deepcopy(raw))
    text = config.get_text_config(decoder=True)
    module = type(text).__module__.replace("configuration_", "modeling_")
    if find_spec(module):  # it may bring kinds of cache layers of its own
        import_module(module)
    found = []
    for layer in transformers.DynamicCache(config=config).layers:
        kind = type(layer).__name__
        seen = getattr(layer, "sliding_window", None)
        if kind in ("DummyLayer", "LinearAttentionLayer"):
            seen = ()
        found.append((seen, "Linear" in kind, hasattr(layer, "indexer_keys") or hasattr(layer, "idx_keys")))
    return found


# What DynamicCache(config) does not say: its LongCat has a layer for each attention, RWKV no cache, MiniMax one of its
# own, cross attention is filled with images, GLM-5.2's class makes room for an indexer in every layer.
SILENT = ("longcat_flash", "rwkv", "minimax", "mllama", "mllama_text_model", "glm_moe_dsa", "openai-gpt")


def assert_alike(raw: dict[str, Any]) -> bool:
    """Hold a config against the real class, if it has one; tell whether it has."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES as KNOWN

    model = model_from_config(raw)
    if raw["model_type"] not in KNOWN or model.decoder_type in (*SILENT, *ENCODED) or not layer_caches(model):
        return False
    assert ours(model) == theirs(raw), raw["model_type"]
    return True


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(all_samples()))
def test_layers_are_of_the_kind_that_the_real_cache_makes(name: str) -> None:
    """Window, chunk, state or indexer of every layer, by config or by class default, for random configs."""
    for seed in range(4):
        raw = all_samples()[name](random.Random(seed))
        assert_alike(raw)


@pytest.mark.slow
@pytest.mark.shared
def test_layers_of_published_models_are_of_the_kind_that_the_real_cache_makes() -> None:
    """For every collected config that transformers reads; Step-3.7's collected file is flat, where its class looks for
    a text_config.
    """
    read = [raw for _, raw in shared_configs() if raw["model_type"] in FAMILIES and raw["model_type"] != "step3p7"]
    assert sum(assert_alike(raw) for raw in read) > 300
