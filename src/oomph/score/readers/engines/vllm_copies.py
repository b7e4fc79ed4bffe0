"""Models of rows that nobody here has seen: fine-tunes and quantised copies, by their names and what the log says.

A name is not its tensors. What it tells is taken by the documented default of the tool that writes such copies, chosen
for the tool and the method that the log names, before any row was looked at; and it is said with the row:

    llm-compressor   FP8_DYNAMIC, W4A16, W8A8, W8A16, NVFP4; heads and routers left. Its AWQ examples: W4A16_ASYM, of
                     mixtures W4A16 (vLLM takes no zeros of experts)
    AutoAWQ          4 bits, groups of 128, zeros, heads left (README: w_bit 4, q_group_size 128, zero_point)
    GPTQModel        4 or 8 bits, groups of 128, heads left
    Qwen's own FP8   blocks of 128 x 128; heads, routers, towers, and of delta nets the small maps left, as Qwen3 and
                     Qwen3.6 do
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oomph.engines.model_names import format_in
from oomph.sources import catalogue

LONGEST = 200
_ASIDE = re.compile(r"\s*\([^)]*\)")
# Words that name a training, not a shape: a model of their name without them has its tensors.
_TRAINED = """huihui abliterated uncensored heretic derestricted unfiltered sft dpo orpo grpo rlhf merged finetuned
    finetune ft hf local lora tuned bf16 fp16 mxfp4"""
TRAINED, NUMBERED = frozenset(_TRAINED.split()), re.compile(r"v\d")  # the second where the first do not do
VARIANTS = frozenset({"base", "instruct", "thinking", "reasoning", "chat", "it", "pt"})  # of one size, alike in shape
QWEN_FP8: Mapping[str, Any] = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
    "modules_to_not_convert": [
        "lm_head", "visual", "mlp.gate", "shared_expert_gate", "linear_attn.conv1d", "linear_attn.in_proj_a",
        "linear_attn.in_proj_b", "mtp.fc",
    ],
}  # fmt: skip
COMPRESSOR, AWQ, GPTQ, MODELOPT = ("compressed-tensors",), ("awq", "awq_marlin"), ("gptq", "gptq_marlin"), ("modelopt",)
BNB = ("bitsandbytes", "bnb-nf4")
OTHERS = ("gptq-int4", "gptq (marlin)")
# How a name ends, what the log calls the method, and the format that the tool writes by default.
ENDINGS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (r"-(awq|autoawq)(-?(int4|4-?bit))?(-g?128g?)?", AWQ, "awq"),
    (r"-awq(-?(int4|4-?bit))?", COMPRESSOR, "w4a16-asym"),
    (r"-(quantized\.)?(int4-)?w4a16(-g128)?|-int4|-gptq(-?(int4|4-?bit))?", COMPRESSOR, "w4a16"),
    (r"-gptq(-?(int4|4-?bit))?(-g?128g?)?|-int4|-quantized\.w4a16", (*GPTQ, *OTHERS), "gptq-4bit-g128"),
    (r"-gptq-?(int8|8-?bit)(-g?128g?)?", GPTQ, "gptq-8bit-g128"),
    (r"-(quantized\.)?w8a8|-int8", COMPRESSOR, "w8a8"),
    (r"-(quantized\.)?w8a16|-gptq-?(int8|8-?bit)", COMPRESSOR, "w8a16"),
    (r"-fp8(-dynamic)?", COMPRESSOR, "fp8-dynamic"),
    (r"-nvfp4", COMPRESSOR, "nvfp4"),
    (r"-nvfp4", ("modelopt", "modelopt_fp4"), "modelopt-nvfp4"),
    (r"-fp8", MODELOPT, "modelopt-fp8"),
    (r"-unsloth-bnb-4bit", (*BNB, "bnb-nf4 (unsloth dynamic)"), ""),  # which modules it leaves, a calibration chose
    (r"-bnb-4bit", BNB, "nf4-dq"),
)
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
BLOCKS = re.compile(r"(qwen\S*)-fp8", re.IGNORECASE)
TOOLS = {
    "awq": "AutoAWQ's", "gptq-4bit-g128": "GPTQModel's", "gptq-8bit-g128": "GPTQModel's", "nf4-dq": "bitsandbytes'",
    "modelopt-nvfp4": "ModelOpt's", "modelopt-fp8": "ModelOpt's",
}  # fmt: skip


@dataclass(frozen=True)
class Copy:
    """A catalogued model that a row's model is taken for; its format, or the config of one; what is assumed by that.

    `mixed`: a calibration chose which modules are left alone, and no rule tells.
    """

    model: str
    format: str | None = None
    config: Mapping[str, Any] | None = None
    assumed: str | None = None
    mixed: bool = False


def plain(name: str) -> str:
    """Return a name without what stands aside in brackets.

    >>> plain("Qwen3-8B (local copy)")
    'Qwen3-8B'
    """
    return _ASIDE.sub("", name[:LONGEST]).strip()


def read(name: str, quant: str | None) -> Copy | None:
    """Return what a model is taken for, None where neither the catalogue nor its name tells.

    >>> found = read("someone/Qwen3-8B-AWQ-4bit", "compressed-tensors")
    >>> found.model, found.format, found.assumed
    ('Qwen3-8B', 'w4a16-asym', "w4a16-asym, llm-compressor's default")
    >>> read("Huihui-Qwen3-8B-abliterated-v2", None).assumed
    'the tensors of qwen3-8b, as its name says'
    """
    whole = plain(name)
    last = whole.rpartition("/")[2]
    for each in (whole, last):
        if catalogue.find(each) is not None:
            return Copy(each)
    if quant is not None and quant.lower().startswith("gguf"):
        return _of_file(last, quant)
    if quant is not None and (copied := _copied(last, quant.lower())) is not None:
        return copied
    base = _trained(last)
    return Copy(base, assumed=f"the tensors of {base}, as its name says") if base else None


def _of_file(name: str, quant: str) -> Copy | None:
    """Return what a GGUF file was made of, by the type in its name or the row's."""
    stem, _, kind = re.sub(r"\.gguf$", "", name, flags=re.IGNORECASE).replace(" ", "-").rpartition("-")
    found = format_in(name.replace(" ", "-")) or format_in(f"x-{quant.partition(' ')[2]}.gguf")
    base = stem if format_in(f"x-{kind}.gguf") else re.sub(r"(?i)[-.]gguf$", "", name)
    if found is None or (model := _model(base)) is None:
        return None
    return Copy(model, found, assumed=f"a file in {found} as llama.cpp mixes it")


def _copied(name: str, quant: str) -> Copy | None:
    for ending, methods, fmt in ENDINGS:
        found = re.fullmatch(rf"(.+?)(?:{ending})", name, flags=re.IGNORECASE)
        if found and quant in methods and (model := _model(found[1])) is not None:
            fmt = "w4a16" if fmt == "w4a16-asym" and _mixture(model) else fmt
            tool = TOOLS.get(fmt, "llm-compressor's")
            return Copy(model, fmt, assumed=f"{fmt}, {tool} default") if fmt else Copy(model, mixed=True)
    blocks = BLOCKS.fullmatch(name)
    if quant == "fp8" and blocks is not None and (model := _model(blocks[1])) is not None:
        return Copy(model, config=QWEN_FP8, assumed="FP8 in blocks of 128, of the maps that Qwen quantises")
    return None


def _mixture(name: str) -> bool:
    source = catalogue.find(name)
    return any(key in str(source.config) for key in EXPERTS) if source is not None else False


def _model(name: str) -> str | None:
    """Return the catalogue's name of a model, or of the one it was trained from."""
    return name if catalogue.find(name) is not None else _trained(name)


def _trained(name: str) -> str | None:
    """Return the catalogue's name of a model that a name says was trained on from it, or beside it, as large."""
    words = [word for word in re.split(r"[-_ ]", name.lower()) if word not in TRAINED]
    found: list[str] = []
    for left in (words, [word for word in words if not NUMBERED.fullmatch(word)]):
        found.append("-".join(left))
        for mine in VARIANTS & set(left):
            found.append("-".join(word for word in left if word != mine))
            found += ["-".join(other if word == mine else word for word in left) for other in sorted(VARIANTS)]
    return next((each for each in found if catalogue.find(each) is not None), None)
