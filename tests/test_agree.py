"""Config against files: real checkpoints of tiny models agree to the byte, damaged ones are told what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oomph import formats
from oomph.agree import Agreement, agree, compare
from oomph.answer import ledger, resolve
from oomph.errors import SourceError
from oomph.families import model_from_config
from oomph.formats.base import Format, Stored, stored
from oomph.header import Header, StoredTensor
from oomph.model import Model
from oomph.sources.local import load
from oomph.tensor import Weight
from oomph.tensor_groups import normalise

TINY: dict[str, dict[str, Any]] = {
    "llama": {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 48, "intermediate_size": 112,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 131,
        "tie_word_embeddings": False,
    },
    "qwen3": {
        "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_size": 48, "intermediate_size": 112,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 131, "head_dim": 16,
        "tie_word_embeddings": True,
    },
    "gpt2": {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 48, "n_head": 4, "n_layer": 3,
        "vocab_size": 131, "n_positions": 40,
    },
    "mixtral": {
        "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "hidden_size": 48, "intermediate_size": 56,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 131,
        "num_local_experts": 4, "num_experts_per_tok": 2, "tie_word_embeddings": False,
    },
}  # fmt: skip
BF16 = formats.get("bf16")
MINIMAX_M2 = {
    "model_type": "minimax_m2", "hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12, "vocab_size": 131, "num_local_experts": 4,
    "num_experts_per_tok": 2, "use_routing_bias": True, "num_mtp_modules": 0,
}  # fmt: skip


def written(folder: Path, raw: dict[str, Any], dtype: str = "bfloat16", **options: Any) -> Header:
    """The header of a checkpoint that transformers itself saved for this config, with random weights."""
    import torch
    import transformers

    cls = getattr(transformers, raw["architectures"][0])
    config = transformers.CONFIG_MAPPING[raw["model_type"]](**{k: v for k, v in raw.items() if k != "model_type"})
    cls(config).to(getattr(torch, dtype)).save_pretrained(folder, **options)
    header = load(folder).header
    assert header is not None
    return header


def llama(**changes: Any) -> Model:
    return model_from_config({**TINY["llama"], **changes}, "tiny")


def implied(model: Model, fmt: Format = BF16) -> Header:
    """The header of a checkpoint that is exactly as the config says."""
    return Header("safetensors", tuple(tensor for weight in model.weights for tensor in _tensors(weight, fmt, model)))


def _tensors(weight: Weight, fmt: Format, model: Model) -> Iterator[StoredTensor]:
    for one in fmt.store(weight, model):
        for name in _names(one.name, weight.places):
            yield StoredTensor(name, one.dtype, one.shape, one.bytes_each)


def _names(name: str, places: tuple[tuple[int, ...], ...]) -> Iterator[str]:
    if not places:
        yield name
        return
    for index in places[0]:
        yield from _names(name.replace("*", str(index), 1), places[1:])


def changed(header: Header, change: Callable[[StoredTensor], StoredTensor | None]) -> Header:
    return replace(header, tensors=tuple(new for old in header.tensors if (new := change(old)) is not None))


def plus(header: Header, **shapes: tuple[int, ...]) -> Header:
    """The header with more bf16 tensors; `__` in a keyword stands for a dot."""
    more = tuple(
        StoredTensor(one.name, one.dtype, one.shape, one.bytes_each)
        for one in (stored(name.replace("__", "."), shape, "bf16") for name, shape in shapes.items())
    )
    return replace(header, tensors=(*header.tensors, *more))


def check_sum(found: Agreement) -> Agreement:
    """The differences add up to the difference."""
    assert sum(each.n_bytes for each in found.differences) == found.stored_bytes - found.implied_bytes
    return found


def whats(found: Agreement) -> list[str]:
    return [each.what for each in check_sum(found).differences]


@pytest.mark.parametrize("kind", TINY)
def test_a_checkpoint_that_transformers_saved_is_equal(kind: str, tmp_path: Path) -> None:
    """Every tensor of the real file is implied by the config: untied, tied, Conv1D, experts."""
    header = written(tmp_path, TINY[kind])
    found = agree(model_from_config(TINY[kind]), BF16, header)
    assert found.equal, found.differences
    assert found.stored_bytes == found.implied_bytes == header.n_bytes


@pytest.mark.parametrize("kind", TINY)
def test_shards_and_other_names_are_equal_too(kind: str, tmp_path: Path) -> None:
    """Sharded, and under names nobody knows: shapes tell."""
    header = written(tmp_path, TINY[kind], max_shard_size="40KB")
    renamed = changed(header, lambda t: replace(t, name=t.name.replace("proj", "p").replace("model.", "net.body.")))
    assert agree(model_from_config(TINY[kind]), BF16, renamed).equal


@pytest.mark.parametrize(
    "prefix", ["model.language_model.", "language_model.model.", "model.", "", "base_model.model.model."]
)
def test_generations_of_names(prefix: str) -> None:
    """Wrappers in front of the layers do not matter."""
    header = changed(implied(llama()), lambda t: replace(t, name=t.name.replace("model.", prefix)))
    assert agree(llama(), BF16, header).equal


def test_names_of_mixtral() -> None:
    assert normalise("model.layers.3.block_sparse_moe.gate.weight") == normalise("layers.0.mlp.gate.weight")


def test_fused_and_stacked_tensors_are_equal() -> None:
    """gate_up_proj for gate and up, one tensor for all experts, qkv in one: the same elements."""
    header = implied(model_from_config(TINY["mixtral"]))
    kept = [
        t
        for t in header.tensors
        if "experts" not in t.name and not t.name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))
    ]
    fused = {
        f"model.layers.{i}.{name}": shape
        for i in range(2)
        for name, shape in {
            "mlp.experts.gate_up_proj": (4, 112, 48), "mlp.experts.down_proj": (4, 48, 56),
            "self_attn.qkv_proj.weight": (96, 48),
        }.items()
    }  # fmt: skip
    found = plus(replace(header, tensors=tuple(kept)), **fused)
    assert agree(model_from_config(TINY["mixtral"]), BF16, found).equal


def test_a_split_tensor_is_equal() -> None:
    """GPT-2 with q, k and v apart, as some conversions store it."""
    model = model_from_config(TINY["gpt2"])
    header = implied(model)
    kept = tuple(t for t in header.tensors if "c_attn.weight" not in t.name)
    split = {f"h.{i}.attn.{name}.weight": (48, 48) for i in range(3) for name in "qkv"}
    assert agree(model, BF16, plus(replace(header, tensors=kept), **split)).equal


def test_dtypes_are_named_and_explained() -> None:
    """Norms kept in fp32: named, and counted as the files store them."""

    def fp32_norms(t: StoredTensor) -> StoredTensor:
        return replace(t, dtype="fp32", n_bytes=2 * t.n_bytes) if "norm" in t.name else t

    found = agree(llama(), BF16, changed(implied(llama()), fp32_norms))
    assert whats(found) == ["stored as fp32 where the config says bf16"]
    assert found.differences[0].n_tensors == 7
    assert found.differences[0].n_bytes == 7 * 48 * 2
    assert not found.unexplained


def test_a_whole_checkpoint_of_another_dtype(tmp_path: Path) -> None:
    """fp32 files with a bf16 config: explained, twice the bytes."""
    found = agree(llama(), BF16, written(tmp_path, TINY["llama"], "float32"))
    assert found.stored_bytes == 2 * found.implied_bytes
    assert whats(found) == ["stored as fp32 where the config says bf16"]


@pytest.mark.parametrize(
    ("name", "shape", "what"),
    [
        ("model.layers.0.self_attn.rotary_emb.inv_freq", (6,), "stored buffers"),
        ("embeddings.position_ids", (1, 512), "stored buffers"),
        ("transformer.h.0.attn.bias", (1, 1, 1024, 1024), "stored buffers"),
        ("transformer.h.0.attn.masked_bias", (), "stored buffers"),
        ("model.layers.1.mlp.gate.e_score_correction_bias", (4,), "stored buffers"),
        ("model.layers.0.mlp.up_proj.weight_scale_inv", (1, 1), "scales"),
        ("model.layers.0.mlp.up_proj.input_scale", (), "scales"),
        ("visual.blocks.0.attn.qkv.weight", (1000, 1000), "vision or audio tower"),
        ("mtp.layers.0.mlp.up_proj.weight", (112, 48), "multi-token-prediction"),
        ("model.layers.3.eh_proj.weight", (48, 96), "multi-token-prediction"),
        ("model.layers.3.shared_head.head.weight", (131, 48), "multi-token-prediction"),
    ],
)
def test_known_extras_are_explained(name: str, shape: tuple[int, ...], what: str) -> None:
    """What checkpoints are known to hold beside the parameters, however large, is named and no error."""
    found = agree(llama(), BF16, plus(implied(llama()), **{name: shape}))
    assert len(found.differences) == 1
    assert what in found.differences[0].what
    assert found.differences[0].tensors == (name,)
    assert found.warning == ""
    check_sum(found)


def test_a_second_copy_of_the_tied_head_is_explained() -> None:
    """Only where the config ties it: else it is the head itself."""
    tied = model_from_config(TINY["qwen3"])
    found = agree(tied, BF16, plus(implied(tied), lm_head__weight=(131, 48)))
    assert whats(found) == ["a second copy of the tied embedding"]


def test_layers_ahead_are_explained_only_as_mtp() -> None:
    """A fourth layer with eh_proj predicts tokens; a fourth layer without is one the config forgot."""
    more = changed(implied(llama(num_hidden_layers=4)), lambda t: t if ".3." in t.name else None).tensors
    files = replace(implied(llama()), tensors=(*implied(llama()).tensors, *more))
    with pytest.raises(SourceError, match=r"does not imply: model\.layers"):
        agree(llama(), BF16, files)
    found = agree(llama(), BF16, plus(files, model__layers__3__eh_proj__weight=(48, 96)))
    assert whats(found) == ["multi-token-prediction layers that the config does not announce"]
    assert found.differences[0].n_tensors == 10


def test_a_missing_tower_is_explained() -> None:
    """A text-only release of a model whose config describes a tower."""
    from oomph.blocks.base import Module
    from oomph.blocks.basic import Linear

    model = replace(llama(), parts={**llama().parts, "visual": Module({"fc": Linear(500, 500)}, kind="vision")})
    found = agree(model, BF16, implied(llama()))
    assert whats(found) == ["a vision or audio tower that is not stored: the files are text only"]
    assert found.differences[0].n_bytes == -500_000


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"intermediate_size": 90},
            r"down_proj.weight is \(48, 112\) in the files, \(48, 90\) by the config \(3 times\)",
        ),
        ({"vocab_size": 200}, r"embed_tokens.weight is \(131, 48\) in the files, \(200, 48\) by the config"),
        ({"num_hidden_layers": 5}, r"missing tensors: model.layers.\*.mlp.gate_proj.weight \(112, 48\) \(2 times\)"),
        ({"num_hidden_layers": 2}, r"does not imply: model.layers.\*.mlp"),
        ({"tie_word_embeddings": True, "vocab_size": 130}, "131, 48"),
        ({"num_key_value_heads": 4}, r"k_proj.weight is \(24, 48\) in the files, \(48, 48\) by the config"),
    ],
)
def test_another_models_config_is_an_error(changes: dict[str, Any], says: str) -> None:
    """More than 2 % of the bytes unexplained: the largest differences are named, exit code 4."""
    with pytest.raises(SourceError, match=says) as caught:
        agree(llama(**changes), BF16, implied(llama()))
    assert caught.value.exit_code == 4
    assert "config.json belongs to these files" in caught.value.fix


def test_a_little_unexplained_is_a_warning() -> None:
    """A lost norm is named, and the model is weighed as the files have it."""
    files = changed(implied(llama()), lambda t: None if t.name == "model.layers.1.input_layernorm.weight" else t)
    found = agree(llama(), BF16, plus(files, model__strange=(5,)))
    check_sum(found)
    assert found.unexplained_bytes == 96 + 10
    assert found.warning.startswith("The files differ from the config by 106 B: missing tensors: model.layers.*.input_")
    assert "model.strange (5,)" in found.warning


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(sorted(TINY)),
    hits=st.lists(
        st.tuples(st.integers(0, 200), st.sampled_from(["drop", "wide", "long", "name", "layer"])), max_size=8
    ),
)
def test_the_differences_always_add_up(kind: str, hits: list[tuple[int, str]]) -> None:
    """Whatever happens to the files, the differences sum to the difference, and none means none."""
    model = model_from_config(TINY[kind])
    tensors = list(implied(model).tensors)
    for at, hit in hits:
        old = tensors.pop(at % len(tensors))
        if hit == "wide":
            tensors.append(replace(old, dtype="fp32", n_bytes=2 * old.n_bytes))
        elif hit == "long":
            tensors.append(replace(old, shape=(3, *old.shape), n_bytes=3 * old.n_bytes))
        elif hit == "name":
            tensors.append(replace(old, name=f"x{at}"))
        elif hit == "layer":
            tensors += [old, replace(old, name=old.name.replace(".0.", ".77."))]
    files = Header("safetensors", tuple(tensors))
    found = check_sum(compare(model, BF16, files))
    assert found.unexplained_bytes <= found.stored_bytes + found.implied_bytes
    assert not found.equal or found.stored_bytes == found.implied_bytes


class Fp8(Format):
    """FP8 by hand: linear maps one byte each, with one fp32 scale per 128 x 128 block."""

    def quantises(self, weight: Weight) -> bool:
        return weight.role == "linear"

    def quantised(self, weight: Weight) -> list[Stored]:
        rows, columns = weight.shape
        scales = stored(f"{weight.name}_scale_inv", (-(-rows // 128), -(-columns // 128)), "fp32", weight.copies)
        return [stored(weight.name, weight.shape, "fp8_e4m3", weight.copies), scales]


def fp8_file(path: Path) -> Header:
    """The tiny Llama in FP8 as the real library writes it."""
    import torch
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    for tensor in implied(llama()).tensors:
        tensors[tensor.name] = torch.zeros(tensor.shape, dtype=torch.bfloat16)
        if "_proj" in tensor.name:
            tensors[tensor.name] = tensors[tensor.name].to(torch.float8_e4m3fn)
            tensors[f"{tensor.name}_scale_inv"] = torch.zeros(1, 1)
    save_file(tensors, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(TINY["llama"]))
    header = load(path).header
    assert header is not None
    return header


def test_a_quantised_checkpoint(tmp_path: Path) -> None:
    """Equal in its own format; against bf16 every difference is still explained."""
    header = fp8_file(tmp_path)
    assert agree(llama(), Fp8("fp8", "FP8"), header).equal
    found = agree(llama(), BF16, header)
    assert whats(found) == [
        "stored as fp8_e4m3 where the config says bf16",
        "scales and other tensors of a quantisation",
    ]
    assert found.differences[1].n_tensors == 21


def gguf_names(header: Header) -> Header:
    names: Mapping[str, str] = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "model.layers": "blk",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip

    def rename(tensor: StoredTensor) -> StoredTensor:
        name = tensor.name
        for old, new in names.items():
            name = name.replace(old, new)
        return replace(tensor, name=name)

    return changed(header, rename)


def test_gguf_names_are_matched_by_shape() -> None:
    """blk.0.attn_q is a q_proj to anyone who looks at shapes."""
    assert agree(llama(), BF16, gguf_names(implied(llama()))).equal


def test_a_large_model_is_compared_quickly() -> None:
    """Ninety thousand tensors, as DeepSeek-V3 has, in a moment; one of them missing is found."""
    raw = {**TINY["mixtral"], "num_hidden_layers": 60, "num_local_experts": 500}
    model = model_from_config(raw)
    header = implied(model)
    assert len(header.tensors) > 90_000
    assert agree(model, BF16, header).equal
    found = agree(model, BF16, replace(header, tensors=header.tensors[:-5]))
    assert whats(found) == ["missing tensors"]


def test_a_buffer_under_another_name_is_the_same_buffer() -> None:
    """A correction bias is saved as `mlp.moe_statics...` or under `gate`: that is no extra and no missing tensor."""
    model = model_from_config(MINIMAX_M2, "tiny")
    assert any(not weight.is_param for weight in model.weights)

    def renamed(tensor: StoredTensor) -> StoredTensor:
        return replace(tensor, name=tensor.name.replace("e_score_correction_bias", "gate.e_score_correction_bias"))

    assert compare(model, BF16, changed(implied(model), renamed)).equal


@pytest.mark.parametrize("name", ["torchao-int8", "torchao-int4", "nf4", "nf4-dq", "int8", "hqq-4bit"])
def test_quantised_tensors_under_other_names_are_paired_by_size(name: str) -> None:
    """Scales and zero points of one shape are not taken for each other."""
    model, fmt = llama(hidden_size=256, intermediate_size=512), formats.get(name)

    def renamed(tensor: StoredTensor) -> StoredTensor:
        before, _, last = tensor.name.rpartition(".")
        return replace(tensor, name=f"{before}._weight_{last}") if tensor.dtype != "bf16" else tensor

    assert not whats(compare(model, fmt, changed(implied(model, fmt), renamed)))


@pytest.mark.slow
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_a_checkpoint_that_bitsandbytes_quantised_is_explained(kind: str, double: bool, tmp_path: Path) -> None:
    """The files hold a JSON per tensor beside the codes, and in it the offset of the doubly quantised scales.

    transformers 5 leaves experts as they are, and the config does not say so.
    """
    import torch
    import transformers

    raw = {**TINY[kind], "hidden_size": 256, "intermediate_size": 512}
    written(tmp_path / "plain", raw)
    options = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_use_double_quant=double)
    cls = getattr(transformers, raw["architectures"][0])
    found = cls.from_pretrained(tmp_path / "plain", quantization_config=options, dtype=torch.bfloat16)
    found.save_pretrained(tmp_path / "packed")
    warnings = ledger(resolve(load(tmp_path / "packed")), None, None).warnings
    assert warnings
    assert not [text for text in warnings if "differ" in text or "missing" in text]
