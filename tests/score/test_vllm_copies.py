"""What rows of fine-tunes and quantised copies are taken for: by their names and the method that their logs name."""

from __future__ import annotations

import pytest

from oomph import formats
from oomph.score.readers.engines.vllm_copies import ENDINGS, QWEN_FP8, Copy, read
from oomph.score.scoring import score
from oomph.sources import catalogue
from tests.score.rows import INFERENCE


@pytest.mark.parametrize(
    ("name", "quant", "model", "fmt"),
    [
        ("someone/Qwen3-8B-AWQ", "awq_marlin", "Qwen3-8B", "awq"),
        ("someone/Qwen3-8B-AWQ-4bit", "compressed-tensors", "Qwen3-8B", "w4a16-asym"),
        ("someone/Qwen3-30B-A3B-AWQ-4bit", "compressed-tensors", "Qwen3-30B-A3B", "w4a16"),
        ("someone/Qwen3-8B-GPTQ-Int4", "gptq_marlin", "Qwen3-8B", "gptq-4bit-g128"),
        ("RedHatAI/Qwen3-8B-quantized.w4a16", "compressed-tensors", "Qwen3-8B", "w4a16"),
        ("RedHatAI/Qwen3-8B-quantized.w8a8", "compressed-tensors", "Qwen3-8B", "w8a8"),
        ("RedHatAI/Qwen3-8B-FP8-dynamic", "compressed-tensors", "Qwen3-8B", "fp8-dynamic"),
        ("RedHatAI/Qwen3-8B-NVFP4", "compressed-tensors", "Qwen3-8B", "nvfp4"),
        ("nvidia/Qwen3-8B-NVFP4", "modelopt", "Qwen3-8B", "modelopt-nvfp4"),
        ("unsloth/Qwen3-8B-bnb-4bit", "bitsandbytes", "Qwen3-8B", "nf4-dq"),
        ("Qwen/Qwen2-7B-Instruct Q4_K_M.gguf", "gguf Q4_K_M", "Qwen2-7B-Instruct", "q4_k_m"),
        ("bartowski/Llama-3.2-1B-Instruct-Q8_0.gguf", "gguf", "Llama-3.2-1B-Instruct", "q8_0"),
        ("huihui-ai/Huihui-gpt-oss-20b-mxfp4-abliterated-v2", "mxfp4", "gpt-oss-20b", None),
        ("someone/Qwen3-30B-A3B-Thinking-2507", None, "qwen3-30b-a3b-instruct-2507", None),
        ("/models/Qwen3-8B (local copy)", "none", "Qwen3-8B", None),
    ],
)
def test_a_name_and_a_method_tell_a_copy(name: str, quant: str | None, model: str, fmt: str | None) -> None:
    """The ending and the log's method together name a tool's default; words of training are passed over."""
    found = read(name, quant)
    assert found is not None
    assert (found.model, found.format) == (model, fmt)
    assert catalogue.find(model) is not None


def test_what_a_name_alone_does_not_tell_is_not_guessed() -> None:
    """An ending whose method the log does not name as a tool would, and a model nobody has heard of, are nothing."""
    assert read("someone/Qwen3-8B-AWQ", "hqq") is None
    assert read("someone/Unheard-7B-AWQ", "awq") is None
    assert read("unsloth/Qwen3-8B-unsloth-bnb-4bit", "bnb-nf4") == Copy("Qwen3-8B", mixed=True)


def test_a_checkpoint_that_its_size_alone_tells_is_not_scored() -> None:
    """What was concluded from the bytes of a log cannot be held against them."""
    start = "https://github.com/sostrowsk/dgx-spark-local-llm/blob/" + "0" * 40
    row = {
        **INFERENCE, "engine": "vllm", "engine_version": "0.25.1", "model": "poolside/Laguna-S-2.1-INT4",
        "quant": "compressed-tensors", "gpu": "H100", "measured": {"weights_gib": 95.46},
    }  # fmt: skip

    def refused(page: str) -> str:
        (outcome,) = score([("Line 1 of rows.jsonl", {**row, "source_url": f"{start}/{page}#L24"})])
        return outcome.refused or ""

    assert "told by its size alone" in refused("laguna-int4-start.log")
    assert refused("another.log") == ""


def test_qwens_own_fp8_leaves_what_qwen_leaves() -> None:
    """A copy in blocks brings the list of modules that Qwen exempts."""
    found = read("Qwen/Qwen3.5-27B-FP8", "fp8")
    assert found is not None
    assert found.config is QWEN_FP8
    assert formats.from_config(QWEN_FP8, "bf16").rest == "bf16"


@pytest.mark.parametrize("fmt", sorted({fmt for _, _, fmt in ENDINGS if fmt}))
def test_every_default_is_a_format(fmt: str) -> None:
    """What names mean can be stored."""
    assert formats.get(fmt).title
