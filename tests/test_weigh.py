"""Weights as ledger items: nothing lost, nothing twice, whichever way they are stored."""

from __future__ import annotations

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomph import formats, weigh
from oomph.answer import ledger, resolve
from oomph.errors import OomphError, SourceError, UnsupportedError
from oomph.families import model_from_config
from oomph.formats.registry import FORMATS
from oomph.header import Header, Source, StoredTensor
from oomph.runtime_memory import MIDDLE, SMALL, reserves, segment_bytes
from tests.configs import DEEPSEEK_V3, LLAMA_3_8B


@pytest.mark.parametrize("raw", [LLAMA_3_8B, DEEPSEEK_V3], ids=["llama", "deepseek"])
@pytest.mark.parametrize("name", sorted(FORMATS))
def test_items_are_the_sum_of_what_is_stored(raw: dict, name: str) -> None:
    """Items add up to the format's tensors, pieces to the items (a format that varies by layer may round up)."""
    model = model_from_config(raw)
    try:
        weighed = weigh.in_format(model, formats.get(name))
    except UnsupportedError as refused:
        pytest.skip(refused.problem)
    stored = sum(one.n_bytes for w in model.weights if w.kind != "mtp" for one in formats.get(name).store(w, model))
    assert weighed.total_bytes == stored == sum(size * copies for size, copies in weighed.tensors)
    assert sum(weighed.pieces) >= stored
    assert weighed.largest_layer <= stored


def test_plain_items_have_axes_that_multiply_to_their_bytes() -> None:
    """Axes times the width of the dtype are the bytes, for every plain item."""
    model = model_from_config(DEEPSEEK_V3)
    weighed = weigh.in_format(model, formats.get("bf16"))
    for item in (*weighed.items, *weighed.not_loaded):
        assert prod(size for _, size in item.axes) * 2 == item.n_bytes, item.name
    assert sum(weighed.pieces) == weighed.total_bytes


def test_mtp_is_weighed_apart() -> None:
    """Multi-token prediction is in the checkpoint, not in the total."""
    weighed = weigh.in_format(model_from_config({**DEEPSEEK_V3, "num_nextn_predict_layers": 1}), formats.get("bf16"))
    without = weigh.in_format(model_from_config({**DEEPSEEK_V3, "num_nextn_predict_layers": 0}), formats.get("bf16"))
    assert weighed.total_bytes == without.total_bytes
    assert weighed.not_loaded
    assert not without.not_loaded


def test_a_file_is_weighed_as_it_lies() -> None:
    """Header tensors keep their bytes, equal ones are one row, skipped ones are set apart."""
    tensors = (
        StoredTensor("model.layers.0.mlp.up_proj.weight", "bf16", (4, 2), 16),
        StoredTensor("model.layers.1.mlp.up_proj.weight", "bf16", (4, 2), 16),
        StoredTensor("model.layers.2.mlp.up_proj.weight", "fp8_e4m3", (4, 2), 8),
        StoredTensor("lm_head.weight", "bf16", (8, 2), 32),
    )
    weighed = weigh.as_stored(Header("safetensors", tensors), frozenset({"lm_head.weight"}))
    assert weighed.total_bytes == 40
    assert [(item.name, item.n_bytes) for item in weighed.not_loaded] == [("lm_head.weight", 32)]
    assert weighed.pieces == (16, 16, 8)
    assert {item.source for item in weighed.items} == {"read"}


SIZES = st.lists(st.tuples(st.integers(0, 2**26), st.integers(1, 400)), max_size=20)


@given(SIZES)
def test_the_safe_bound_is_never_under_the_tensors(tensors: list[tuple[int, int]]) -> None:
    """Rounding only adds, and both reserves are named with their source."""
    found = reserves(tensors)
    assert all(item.n_bytes == 0 <= item.safe_bytes for item in found)
    assert all(item.evidence and item.source in ("rule", "measured") for item in found)


@given(st.integers(1, 2**27), st.integers(1, 100))
def test_segments_hold_what_is_put_into_them(size: int, copies: int) -> None:
    """Reserved covers the tensors and follows the size classes of the allocator."""
    reserved = segment_bytes(size, copies)
    assert reserved >= size * copies
    if size > MIDDLE:
        assert reserved - size * copies < 2 * 2**20 * copies
    elif size <= SMALL:
        assert reserved % (2 * 2**20) == 0
    else:
        assert reserved % (20 * 2**20) == 0


def test_published_formats_are_obeyed() -> None:
    """A quantization_config decides when nothing is asked for; --format overrides it."""
    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic", "fmt": "e4m3"}
    found = resolve(Source("x", "config", {**LLAMA_3_8B, "quantization_config": fp8}))
    assert ledger(found, None, None).job["format"] == "fp8"
    assert ledger(found, "bf16", None).total_bytes == 16060522496
    assert 8.4 < ledger(found, None, None).total_bytes / 2**30 < 8.5


def test_unknown_quantization_is_refused_by_name() -> None:
    """Never a silent guess: the method is named, and what to do."""
    found = resolve(Source("x", "config", {**LLAMA_3_8B, "quantization_config": {"quant_method": "qwert"}}))
    with pytest.raises(OomphError, match="qwert") as refused:
        ledger(found, None, None)
    assert refused.value.exit_code == 3
    assert "--format" in refused.value.fix


def test_what_the_source_says_reaches_the_reader() -> None:
    """That only the config of a folder was used, or a model was read from a cache, is no secret."""
    source = Source("x", "directory", LLAMA_3_8B, notes=("x holds several models; only its config is used.",))
    assert ledger(resolve(source), None, None).warnings == source.notes
    assert not ledger(resolve(Source("x", "catalogue", LLAMA_3_8B, notes=("catalogue: y",))), None, None).warnings


@pytest.mark.parametrize("tensors", [(), (StoredTensor("a", "bf16", (0, 4), 0),)], ids=["none", "empty"])
def test_a_file_without_weights_is_no_model(tensors: tuple[StoredTensor, ...]) -> None:
    """A vocabulary in a GGUF file, an empty safetensors file: nothing to weigh, so nothing fits anywhere."""
    with pytest.raises(SourceError, match="no weights"):
        resolve(Source("x", "gguf", header=Header("gguf", tensors)))


def test_a_quantised_name_without_a_quantised_config_is_no_silent_bf16() -> None:
    """nvidia/DeepSeek-V3.1-NVFP4 says how it is stored in a file beside its config, which the catalogue lacks."""
    from oomph.answer import subject

    (warning,) = subject("deepseek-v3.1-nvfp4").warnings
    assert "a quantised copy by its name (NVFP4)" in warning
    assert "--format" in warning
    assert subject("qwen3-32b-fp8").warnings == ()
    assert subject("llama-3-8b").warnings == ()
