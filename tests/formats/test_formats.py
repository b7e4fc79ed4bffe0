"""What holds for every format: headings, names, golden numbers, information content, hostile configs."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import replace
from fractions import Fraction
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oomph.formats
from oomph.blocks.base import Module, Stack
from oomph.blocks.basic import Linear, Norm
from oomph.errors import OomphError, UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.formats import asked_for, from_config, get
from oomph.formats.linear import LinearFormat
from oomph.formats.on_the_fly import OnTheFly
from oomph.formats.registry import FORMATS, QUANT_METHODS
from oomph.model import Model
from oomph.units import GIB
from tests.formats.common import (
    LLAMA_3_8B,
    TINY_GPT2,
    TINY_MIXTRAL,
    all_stored,
    census,
    one_linear,
    stored_linear,
    total,
)

HEADINGS = ("Effect", "Cost", "When", "Flag", "Source")
LINEAR = [name for name in FORMATS if isinstance(get(name), LinearFormat)]
FOLDER = Path(oomph.formats.__file__).parent


@pytest.mark.parametrize("file", sorted({*FORMATS.values(), *QUANT_METHODS.values()}))
def test_every_format_file_has_its_headings(file: str) -> None:
    """The docstring of a format file is its page: the five headings, in order."""
    docstring = import_module(f"oomph.formats.{file}").__doc__ or ""
    assert re.findall(rf"^({'|'.join(HEADINGS)}): \S", docstring, re.MULTILINE) == list(HEADINGS)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_name_is_the_formats_own(name: str) -> None:
    """The registry and the files agree."""
    assert get(name).name == name


def test_every_format_can_be_a_key() -> None:
    """What is derived of a model in a format is kept under both."""
    assert all(hash(get(name)) == hash(get(name)) for name in FORMATS)


def test_no_variant_is_unregistered() -> None:
    """A format in a file but not in the registry could not be asked for."""
    files = set(FORMATS.values())
    held = {name for file in files for name in import_module(f"oomph.formats.{file}").VARIANTS}
    assert held == set(FORMATS)


def test_an_unknown_name_suggests_a_known_one() -> None:
    """A slip of the finger is met with the right name."""
    with pytest.raises(UsageError, match="nf4"):
        get("nf44")


@pytest.mark.parametrize(
    ("name", "gib"),
    [("int8", 8.463), ("nf4", 5.61), ("nf4-dq", 5.31), ("fp4", 5.61), ("fp4-dq", 5.31), ("bf16", 14.958)],
)
def test_llama_3_8b_in_bitsandbytes(name: str, gib: float) -> None:
    """Numbers counted by others for Llama-3-8B: int8 8.463, NF4 5.61, with double quantisation 5.31 GiB."""
    digits = len(str(gib).split(".")[1])
    assert round(total(get(name), model_from_config(LLAMA_3_8B)) / GIB, digits) == gib


def test_qlora_base_with_fp32_embeddings() -> None:
    """PEFT's prepare_model_for_kbit_training keeps what is not quantised in fp32: 7.571 GiB, 7.268 with -dq."""
    model = model_from_config(LLAMA_3_8B)
    assert round(total(replace(get("nf4"), rest="fp32"), model) / GIB, 3) == 7.571
    assert abs(total(replace(get("nf4-dq"), rest="fp32"), model) / GIB - 7.268) < 0.002


def test_conv1d_is_quantised_as_a_linear_map() -> None:
    """GPT-2 stores its maps turned round; codes are those of the map."""
    model = model_from_config(TINY_GPT2)
    items = census(all_stored(get("gptq-4bit-g128"), model))
    assert items[((256 * 4 // 32, 768), "int32")] == 2  # c_attn: 256 inputs, 768 outputs
    assert items[((256,), "int32")] == 6  # g_idx of c_attn, c_proj, c_fc


@pytest.mark.parametrize("name", ["torchao-int8", "hqq-4bit", "quanto-int8", "fp8", "fp8-dynamic"])
def test_conv1d_is_left_alone_by_who_knows_only_linear(name: str) -> None:
    """torchao, HQQ, quanto and FP8 convert nn.Linear: GPT-2 stays as it is, and the reader is told."""
    model, fmt = model_from_config(TINY_GPT2), get(name)
    assert total(fmt, model) == total(get("bf16"), model)
    assert any("Conv1D" in note for note in fmt.notes(model))
    assert not get("nf4").notes(model)


@pytest.mark.parametrize("name", LINEAR)
def test_experts_are_matrices_of_their_own(name: str) -> None:
    """Every expert's map is stored (or left) by itself, routers, norms and embeddings stay plain."""
    model = model_from_config(TINY_MIXTRAL)
    fmt = get(name)
    for weight in model.weights:
        items = fmt.store(weight, model)
        if weight.role in ("router", "norm", "embedding", "bias"):
            assert items == (fmt.plain(weight),)
        assert all(item.copies % weight.copies == 0 or item.copies < weight.copies for item in items)


@pytest.mark.parametrize("name", [n for n in LINEAR if isinstance(get(n), OnTheFly)])
def test_stacked_experts_are_told(name: str) -> None:
    """Experts in one 3-D parameter stay plain, and the reader is told so; -experts quantises them."""
    model, fmt = model_from_config(TINY_MIXTRAL), get(name)
    assert isinstance(fmt, OnTheFly)
    expert = next(weight for weight in model.weights if weight.role == "expert")
    assert (fmt.store(expert, model) == (fmt.plain(expert),)) != fmt.experts
    assert bool(fmt.notes(model)) != fmt.experts


def bits_of(name: str) -> Fraction:
    """The least bits per weight a format can hold its codes in."""
    found = re.search(r"(\d+(?:\.\d+)?)(?:bit|bpw)", name)
    if found:
        return Fraction(found[1])
    known = {"aqlm": 1, "bitnet": 2, "quanto-int2": 2, "int4": 4, "nf4": 4, "fp4": 4, "awq": 4, "w4": 4, "mxfp4": 4}
    return next((Fraction(bits) for part, bits in known.items() if part in name), Fraction(8))


@pytest.mark.parametrize("name", LINEAR)
@settings(max_examples=15, deadline=None)
@given(out=st.integers(1, 40), into=st.integers(1, 40), unit=st.sampled_from([1, 3, 8, 32, 128]))
def test_codes_hold_the_information(name: str, out: int, into: int, unit: int) -> None:
    """Stored bytes are never fewer than weights times bits, whatever the sizes; a refusal has a reason."""
    out, into = out * unit, into * unit
    try:
        items = stored_linear(get(name), out, into)
    except UnsupportedError:
        return
    assert sum(item.n_bytes for item in items) >= out * into * min(bits_of(name), 16) // 8


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_splitting_a_model_changes_nothing(name: str) -> None:
    """A row of many copies weighs what its copies weigh one by one."""
    model = model_from_config({**LLAMA_3_8B, "num_hidden_layers": 4})
    if not isinstance(get(name), LinearFormat):
        return
    whole = total(get(name), model)
    apart = 0
    for weight in model.weights:
        rows = [weight] if not weight.places else [replace(weight, places=((i,),)) for i in weight.places[0]]
        apart += sum(item.n_bytes for each in rows for item in get(name).store(each, model))
    assert whole == apart


@pytest.mark.parametrize(
    "method", ["", "squeezellm", "eetq", "higgs", "vptq", "spqr", "quark", "petit_nvfp4", None, 7, []]
)
def test_unknown_methods_are_refused_by_name(method: object) -> None:
    """A method oomph does not know is refused, never guessed."""
    with pytest.raises(UnsupportedError, match="quantization method"):
        from_config({"quant_method": method}, "bf16")


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**40) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = [
    "bits", "w_bit", "group_size", "desc_act", "lm_head", "dynamic", "modules_to_not_convert", "ignore", "format",
    "config_groups", "weight_block_size", "activation_scheme", "scale_fmt", "llm_int8_skip_modules", "load_in_4bit",
    "bnb_4bit_quant_type", "bnb_4bit_quant_storage", "quant_algo", "quantized_layers", "exclude_modules", "quant_type",
    "quant_config", "skip_modules", "num_codebooks", "nbits_per_codebook", "in_group_size", "head_bits", "weights",
    "packing_format", "extra_config", "version", "expert_dtype", "sparsity_config", "modules_in_block_to_quantize",
]  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(
    method=st.sampled_from(sorted(QUANT_METHODS)),
    junk=st.dictionaries(st.sampled_from(KEYS), JUNK | st.sampled_from([4, 128, "int8", "NVFP4", ["lm_head"]])),
)
def test_hostile_configs_end_in_an_answer_or_an_error(method: str, junk: dict) -> None:
    """No config can cause a traceback that is not oomph's own."""
    with contextlib.suppress(OomphError):
        total(from_config({"quant_method": method, **junk}, "bf16"), one_linear(256, 256))


def test_where_a_config_keeps_it() -> None:
    """Top level, inside text_config, or under its old name; DeepSeek-V4's expert dtype lies beside it."""
    inner = {"quant_method": "fp8"}
    assert asked_for({"quantization_config": inner}) == inner
    assert asked_for({"text_config": {"quantization_config": inner}}) == inner
    assert asked_for({"compression_config": inner}) == inner
    assert asked_for({"model_type": "llama", "quantization_config": None}) is None
    assert asked_for({"expert_dtype": "fp4", "quantization_config": inner}) == {"expert_dtype": "fp4", **inner}
    with pytest.raises(OomphError):
        asked_for({"quantization_config": "fp8"})


def test_the_published_configs_of_common_repositories() -> None:
    """Real quantization_configs of well-known checkpoints, as their files say."""
    model = model_from_config(LLAMA_3_8B)
    linears = 32 * 218_103_808
    rest = (model.params - linears) * 2
    gptq = {"bits": 4, "group_size": 128, "desc_act": True, "quant_method": "gptq", "sym": True, "static_groups": False}
    awq = {"bits": 4, "group_size": 128, "quant_method": "awq", "version": "gemm", "zero_point": True,
           "modules_to_not_convert": None}  # fmt: skip
    bnb = {
        "load_in_4bit": True, "_load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "quant_method": "bitsandbytes",
        "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_use_double_quant": True, "llm_int8_skip_modules": None,
    }  # fmt: skip
    per_group = linears // 128
    inputs = 32 * (4096 * 6 + 14336) * 4  # one int32 per input of seven maps
    assert total(from_config(gptq, "bf16"), model) == rest + linears // 2 + per_group * 5 // 2 + inputs
    assert total(from_config(awq, "bf16"), model) == rest + linears // 2 + per_group * 5 // 2
    assert total(from_config(bnb, "bf16"), model) == total(get("nf4-dq"), model)


def test_gptq_exceptions() -> None:
    """GPTQModel's dynamic rules leave modules alone or give them other bits."""
    config = {
        "quant_method": "gptq", "bits": 4, "group_size": 128,
        "dynamic": {r"-:.*layers\.1\..*": {}, r"+:.*\.mlp\.down_proj.*": {"bits": 8, "group_size": 32}},
    }  # fmt: skip
    model = model_from_config({**LLAMA_3_8B, "num_hidden_layers": 2})
    items = census(all_stored(from_config(config, "bf16"), model))
    assert items[((14336 * 8 // 32, 4096), "int32")] == 1  # layer 0's down_proj in 8 bits
    assert items[((4096, 14336), "bf16")] == 1  # layer 1's left alone


def test_gptq_of_named_modules_only() -> None:
    """modules_in_block_to_quantize is a list of what is quantised."""
    config = {
        "quant_method": "gptq",
        "bits": 4,
        "modules_in_block_to_quantize": [["self_attn.q_proj"], ["mlp.up_proj"]],
    }
    model = model_from_config({**LLAMA_3_8B, "num_hidden_layers": 2})
    items = census(all_stored(from_config(config, "bf16"), model))
    assert items[((4096 * 4 // 32, 14336), "int32")] == 2
    assert items[((4096, 14336), "bf16")] == 2  # down_proj
    assert items[((14336, 4096), "bf16")] == 2  # gate_proj


def test_a_tied_head_is_stored_once_in_full() -> None:
    """A tied head has no tensor of its own, so no format makes codes of it."""
    model = model_from_config({**LLAMA_3_8B, "num_hidden_layers": 1, "tie_word_embeddings": True})
    for name in ("nf4", "exl3-4bpw", "exl2-4.0bpw"):
        assert not any("lm_head" in item.name for item in all_stored(get(name), model))


def test_the_head_of_exl_formats_has_bits_of_its_own() -> None:
    """EXL2 and EXL3 quantise the head to head_bits."""
    model = model_from_config({**LLAMA_3_8B, "num_hidden_layers": 1})
    exl3 = from_config({"quant_method": "exl3", "bits": 3.0, "head_bits": 6}, "bf16")
    assert census(all_stored(exl3, model))[((256, 8016, 96), "int16")] == 1
    assert exl3.notes(model) == ()
    assert from_config({"quant_method": "exl3", "bits": 3.5}, "bf16").notes(model)
    assert get("exl2-4.0bpw").notes(model)


def test_a_listing_that_speaks_of_another_model_is_refused() -> None:
    """A mixed checkpoint whose names are not ours would silently weigh as plain."""
    config = {
        "quant_method": "modelopt", "quant_algo": "MIXED_PRECISION",
        "quantized_layers": {"transformer.blocks.0.wq": {"quant_algo": "FP8"}},
    }  # fmt: skip
    with pytest.raises(UnsupportedError, match="names"):
        total(from_config(config, "bf16"), one_linear(256, 256))


def test_towers_are_left_by_formats_for_decoders() -> None:
    """GPTQ and AWQ leave a vision tower alone, bitsandbytes does not."""
    maps = Stack((Module({"fc": Linear(256, 256)}),))
    tower = Module({"layers": maps, "norm": Norm(256)}, kind="vision")
    model = Model({"vision_tower": tower}, hidden_size=1, num_layers=1, vocab_size=1)
    assert total(get("gptq-4bit-g128"), model) == total(get("awq"), model) == (256 + 1) * 256 * 2
    assert total(get("nf4"), model) < 256 * 256


def test_formats_say_whether_they_need_a_checkpoint() -> None:
    """bitsandbytes, torchao, hqq and quanto load any model; the calibrated formats do not."""
    on_the_fly = {FORMATS[name] for name in LINEAR if get(name).on_the_fly}
    assert on_the_fly == {"bitsandbytes", "torchao", "hqq", "quanto", "fp8", "mxfp4"}


def test_no_file_of_the_folder_imports_anything_heavy() -> None:
    """Weighing must stay fast: no format imports torch or numpy."""
    for file in FOLDER.glob("*.py"):
        assert not re.search(r"^\s*(import|from) (torch|numpy|transformers)", file.read_text(), re.MULTILINE), file


def test_json_round_trip() -> None:
    """Configs come from JSON: lists for tuples, no sets."""
    config = json.loads(json.dumps({"quant_method": "fp8", "weight_block_size": [128, 128]}))
    items = stored_linear(from_config(config, "bf16"), 130, 256)
    assert sum(item.n_bytes for item in items) == 130 * 256 + 2 * 2 * 4
