"""transformers' caches: bytes equal those of the real cache objects, of every decoder that is known here."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomph.blocks.cached import Cached, StateCache, TokenCache
from oomph.caches import LayerCache, layer_caches
from oomph.engines.transformers_caches import (
    Filled,
    Quantiser,
    dynamic_bytes,
    offloaded,
    quantised_bytes,
    static_bytes,
)
from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from tests.configs import LLAMA_3_8B
from tests.engines import real_caches as real
from tests.families.samples import all_samples

# And GPT-1, whose class has no cache.
ENCODERS = (
    "albert", "bert", "camembert", "deberta-v2", "distilbert", "electra", "ernie", "esm", "eurobert", "gte",
    "jina_embeddings_v3", "modernbert", "mpnet", "nomic_bert", "openai-gpt", "roberta", "xlm-roberta",
)  # fmt: skip
# Their samples leave at defaults what a forward pass asks for; most decoders inside stand here under their own type.
NOT_RUN = (
    "dbrx", "glm46v", "glm4v", "glm4v_moe", "glm4v_moe_text", "glm4v_text", "kimi_k25", "ministral3", "qwen2_5_omni",
    "qwen2_5_omni_text", "qwen2_5_omni_thinker", "qwen2_5_vl", "qwen2_5_vl_text", "qwen2_vl", "qwen2_vl_text",
    "qwen3_omni_moe", "step3p7",
)  # fmt: skip
TYPES = sorted(set(all_samples()) - {*ENCODERS, *NOT_RUN})
NO_STATIC = ("deepseek_v4", "minimax", "rwkv")
STATIC_LENGTH = 20


def filled(name: str, decoded: int) -> Filled:
    """What the real pass puts into a cache; no image goes into Mllama."""
    return Filled(real.BATCH, real.PROMPT, decoded, 0 if name.startswith("mllama") else real.SOURCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", TYPES)
def test_bytes_are_those_of_the_real_cache(name: str) -> None:
    """After a prompt and after each token, dynamic and static, in bf16: storages of all tensors, states included."""
    raw = real.telling(name)
    caches = layer_caches(model_from_config(raw))
    passes = [filled(name, decoded) for decoded in range(real.DECODED + 1)]
    model = real.real_model(raw)
    assert [dynamic_bytes(caches, each) for each in passes] == real.run(model)
    if name in NO_STATIC:
        with pytest.raises(UnsupportedError, match="no static cache"):
            static_bytes(caches, passes[0], STATIC_LENGTH)
        return
    if name == "recurrent_gemma":  # keeps states in its modules
        model = real.real_model(raw)
    found = real.run(model, real.static_cache(model, STATIC_LENGTH))
    assert [static_bytes(caches, each, STATIC_LENGTH) for each in passes] == found


def test_seventy_architectures_and_more_are_held_against_the_real_class() -> None:
    """The list above is as long as it is meant to be, and names no type twice."""
    assert len(TYPES) > 120
    assert not {*ENCODERS} & {*NOT_RUN}


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_keep_nothing(name: str) -> None:
    """Whatever head stands on top."""
    raw = {**all_samples()[name](random.Random(0)), "is_decoder": False, "add_cross_attention": False}
    assert layer_caches(model_from_config(raw)) == ()


def test_a_bert_that_decodes_keeps_keys_and_values() -> None:
    """As a decoder alone it has a cache, with cross attention two."""
    raw = {
        "model_type": "bert",
        "hidden_size": 768,
        "vocab_size": 99,
        "num_hidden_layers": 2,
        "is_decoder": True,
        "architectures": ["BertLMHeadModel"],
    }
    (alone,) = layer_caches(model_from_config(raw))
    (both,) = layer_caches(model_from_config({**raw, "add_cross_attention": True}))
    assert alone.cached == (TokenCache(12, 64, 64),)
    assert [each.kind for each in both.cached] == ["attention", "cross"]


ATTENTION = TokenCache(2, 32, 32)
QUANTISERS = [
    Quantiser(),
    Quantiser(bits=2),
    Quantiser(axis=1, group_size=4),
    Quantiser("hqq"),
    *(Quantiser("hqq", bits=bits) for bits in (1, 2, 3, 8)),
    Quantiser("hqq", axis=1),
    Quantiser(residual=3),
    Quantiser("fp8"),
]


@pytest.mark.slow
@pytest.mark.parametrize("quantiser", QUANTISERS, ids=str)
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_quantised_bytes_are_those_of_the_real_layers(quantiser: Quantiser, dtype: str) -> None:
    """Codes, scales, zeros and the residual of quanto, HQQ and fp8, while tokens are added one by one."""
    import torch

    layer = real.quantised_layer(quantiser)
    states = torch.randn(2, 2, 16, 32, dtype={"bf16": torch.bfloat16, "fp32": torch.float32}[dtype])
    layer.update(states, states.clone())
    found, ours = [], []
    for decoded in range(5):
        found.append(sum(tensor.untyped_storage().nbytes() for tensor in real.tensors(layer)))
        ours.append(quantised_bytes([LayerCache((ATTENTION,), (0,))], Filled(2, 16, decoded, dtype=dtype), quantiser))
        layer.update(states[:, :, :1], states[:, :, :1])
    assert found == ours


@pytest.mark.parametrize(
    "cached",
    [
        (TokenCache(2, 8, 8, window=4),),
        (TokenCache(2, 8, 8, chunk=4),),
        (TokenCache(1, 8, 0, "latent", index_dim=4),),
        (StateCache("mamba", 8, 4, (8, 2)),),
        (TokenCache(2, 8, 8), TokenCache(2, 8, 8, "cross")),
    ],
)
def test_only_full_attention_is_quantised(cached: tuple[Cached, ...]) -> None:
    """Others transformers refuses, and so do we."""
    with pytest.raises(UnsupportedError):
        quantised_bytes([LayerCache(cached, (0,))], Filled(1, 64), Quantiser())


@pytest.mark.parametrize(
    "wrong",
    [
        {"backend": "int4"},
        {"bits": 3},
        {"backend": "hqq", "bits": 5},
        {"axis": 2},
        {"group_size": 0},
        {"residual": -1},
    ],
)
def test_quantisers_that_are_not_there_are_named(wrong: dict[str, Any]) -> None:
    """A backend, a number of bits or an axis that the classes do not take."""
    with pytest.raises(UsageError):
        Quantiser(**wrong)


def test_half_a_group_is_refused() -> None:
    """The real backends raise."""
    with pytest.raises(UnsupportedError, match="no whole groups"):
        quantised_bytes([LayerCache((TokenCache(1, 10, 10),), (0,))], Filled(1, 3), Quantiser())


@pytest.mark.slow
@pytest.mark.parametrize("length", [None, 24])
@pytest.mark.parametrize("windows", [(None, None, None), (None, 5, None), (5, None, 5, None)], ids=str)
def test_offloaded_bytes_are_those_of_the_real_cache(windows: tuple[int | None, ...], length: int | None) -> None:
    """On the device between passes, at most within one, and in the machine's memory, streams apart."""
    kept = [TokenCache(2, 8, 8, window=window) for window in windows]
    caches = [LayerCache((each,), (place,)) for place, each in enumerate(kept)]
    for decoded, found in enumerate(real.offloaded(kept, length)):
        assert offloaded(caches, Filled(real.BATCH, real.PROMPT, decoded), length) == found


@given(prompt=st.integers(1, 5000), decoded=st.integers(0, 50), window=st.integers(1, 600), batch=st.integers(1, 9))
def test_arrays_say_what_numbers_say(prompt: int, decoded: int, window: int, batch: int) -> None:
    """Every policy on numpy arrays is the same as on ints, place by place, and more tokens never take less."""
    np = pytest.importorskip("numpy")
    caches = [
        LayerCache((TokenCache(2, 8, 8, window=window), StateCache("rg_lru", 8, 4, (8,))), (0, 1)),
        LayerCache((TokenCache(1, 8, 0, "latent", window=window), TokenCache(1, 8, 0, "compressed", ratio=4)), (2,)),
    ]
    plain = [LayerCache((ATTENTION,), (0, 1, 2))]
    decodes = np.array([0, decoded, decoded + 1])
    many = Filled(batch, prompt, decodes)
    one = [Filled(batch, prompt, int(each)) for each in decodes]
    assert dynamic_bytes(caches, many).tolist() == [dynamic_bytes(caches, each) for each in one]
    assert static_bytes(plain, many, prompt + decodes).tolist() == [static_bytes(plain, e, e.tokens) for e in one]
    assert quantised_bytes(plain, many, Quantiser()).tolist() == [quantised_bytes(plain, e, Quantiser()) for e in one]
    apart = offloaded(plain, many)
    assert apart.attending_bytes.tolist() == [offloaded(plain, each).attending_bytes for each in one]
    assert apart.host_bytes.tolist() == [offloaded(plain, each).host_bytes for each in one]
    assert dynamic_bytes(plain, one[1]) <= dynamic_bytes(plain, one[2])


def test_a_window_is_held_whole_until_the_first_token_after_the_prompt() -> None:
    """What is kept of the prompt is a view of all of it."""
    caches = [LayerCache((TokenCache(1, 4, 4, window=100),), (0,))]
    per_token = 8 * 2
    assert dynamic_bytes(caches, Filled(1, 1000)) == 1000 * per_token
    assert dynamic_bytes(caches, Filled(1, 1000, 1)) == 100 * per_token


def test_llama_3_8b_quantised() -> None:
    """4-bit codes and two bf16 numbers for 64 of them: 4.5 bits an element, 9/32 of 1 GiB."""
    caches = layer_caches(model_from_config(LLAMA_3_8B))
    assert quantised_bytes(caches, Filled(1, 8192), Quantiser()) == 2**30 * 9 // 32
    assert quantised_bytes(caches, Filled(1, 8192), Quantiser("fp8")) == 2**29 + 32 * 2 * 4
