"""What engines' words call a model: files, tags and endings, read where nothing of that name can be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from oomph.answer import subject
from oomph.engines import engine
from oomph.engines.llamacpp.job import LlamaCppJob
from oomph.engines.model_names import LIBRARY, LONGEST, by_name, called, format_in
from oomph.engines.serving import serve
from oomph.formats.registry import FORMATS


@pytest.mark.parametrize(
    ("name", "ref", "model", "fmt"),
    [
        ("llama.cpp", "unsloth/Qwen3-32B-GGUF:Q4_K_M", "qwen3-32b", "q4_k_m"),
        ("llama.cpp", "bartowski/Qwen_Qwen3-14B-GGUF:IQ4_XS", "qwen3-14b", "iq4_xs"),
        ("llama.cpp", "/models/Qwen_Qwen3-14B-Q5_K_M.gguf", "qwen3-14b", "q5_k_m"),
        ("llama.cpp", "mistral-7b-instruct-v0.2.Q4_K_M.gguf", "mistral-7b-instruct-v0.2", "q4_k_m"),
        ("llama.cpp", "DeepSeek-R1-Q4_K_M-00001-of-00011.gguf", "deepseek-r1", "q4_k_m"),
        ("llama.cpp", r"C:\models\gemma-2-9b-it-f16.gguf", "gemma-2-9b-it", "gguf-f16"),
        ("llama.cpp", "org/repo:Qwen3-8B-Q8_0.gguf", "qwen3-8b", "q8_0"),
        ("llama.cpp", "ggml-org/gpt-oss-20b-GGUF", "gpt-oss-20b", "mxfp4_moe"),
        ("llama.cpp", "Qwen/Qwen3-8B-GGUF", "qwen3-8b", "q4_k_m"),
        ("ollama", "hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q8_0", "llama-3.2-3b-instruct", "q8_0"),
        ("ollama", "llama3.1:8b-instruct-q8_0", "llama-3.1-8b-instruct", "q8_0"),
        ("ollama", "qwen3:30b", "qwen3-30b-a3b", None),
        ("ollama", "qwen3:235b", "qwen3-235b-a22b", None),
        ("ollama", "llama3.2:latest", "llama-3.2-3b", None),
        ("ollama", "deepseek-r1:70b", "deepseek-r1-distill-llama-70b", None),
        ("lm-studio", "qwen3-14b@q4_k_m", "qwen3-14b", "q4_k_m"),
        ("vllm", "TheBloke/Mistral-7B-Instruct-v0.2-AWQ", "mistral-7b-instruct-v0.2", "awq"),
        ("vllm", "Qwen/Qwen2.5-72B-Instruct-GPTQ-Int4", "qwen2.5-72b-instruct", "gptq-4bit-g128"),
        ("vllm", "unsloth/Llama-3.2-1B-Instruct-bnb-4bit", "llama-3.2-1b-instruct", "nf4-dq"),
        ("mlx", "mlx-community/Qwen3-14B-4bit", "qwen3-14b", "mlx-4bit"),
        ("exllamav2", "turboderp/Qwen2.5-7B-Instruct-4.0bpw-exl2", "qwen2.5-7b-instruct", "exl2-4.0bpw"),
    ],
)
def test_a_name_tells_model_and_format(name: str, ref: str, model: str, fmt: str | None) -> None:
    """As repositories, files and libraries really spell them."""
    found = by_name(ref, engine(name))
    assert found is not None
    assert (found.model, found.format) == (model, fmt)


@pytest.mark.parametrize(
    ("name", "ref"),
    [
        ("llama.cpp", "model.gguf"),
        ("llama.cpp", "model-00001-of-00003.gguf"),
        ("llama.cpp", "unsloth/Qwen3-14B-GGUF:UD-Q4_K_XL"),
        ("llama.cpp", "someone/their-own-7b-GGUF:Q4_K_M"),
        ("llama.cpp", ".gguf"),
        ("llama.cpp", ":"),
        ("vllm", "Qwen/Qwen3-14B-FP8"),
        ("vllm", "someone/Qwen3-14B-GPTQ"),
        ("vllm", "someone/their-own-7b-AWQ"),
        ("vllm", "-awq"),
        ("vllm", "x" * LONGEST + "-awq"),
        ("ollama", "qwen3:31b"),
        ("ollama", "qwen"),
        ("ollama", "deepseek-r1:1t"),
    ],
)
def test_a_name_of_nothing_known_stays_one(name: str, ref: str) -> None:
    """No model is guessed, and no format that an ending does not settle."""
    assert by_name(ref, engine(name)) is None


def test_what_ollama_calls_by_names_of_its_own_is_in_the_catalogue() -> None:
    """Every entry of the table leads to a model."""
    assert all(by_name(name, engine("ollama")) for name in LIBRARY)


@pytest.mark.parametrize("name", ["llama.cpp", "ollama", "lm-studio", "ik_llama.cpp", "vllm", "mlx", "exllamav3"])
def test_a_printed_name_is_read_back(name: str) -> None:
    """What stands in a command means the same model and format when it is pasted."""
    program = engine(name)
    for fmt in program.formats:
        ref = called(program, "qwen3-14b", fmt)
        found = by_name(ref, program)
        if FORMATS[fmt] == "plain":
            assert ref == "qwen3-14b" or (found and found.format == fmt)
        else:
            assert found is not None, ref
            assert (found.model, found.format) == ("qwen3-14b", fmt)


@pytest.mark.parametrize("name", ["llama.cpp", "ik_llama.cpp", "lm-studio", "ollama"])
@pytest.mark.parametrize(("model", "stored"), [("gpt-oss-20b", "mxfp4_moe"), ("qwen3-0.6b", "gguf-bf16")])
def test_a_command_names_the_file_that_was_assumed(name: str, model: str, stored: str) -> None:
    """Nobody asked for a format: what was taken instead stands in the command, and is read back with the same bytes."""
    program = engine(name)
    asked = serve(subject(model), program, program.job(context=4096))
    ref = next(word for word in asked.command if model in word)
    found = by_name(ref, program)
    assert found is not None
    assert (found.model, found.format) == (model, stored)
    again = serve(subject(model), program, program.job(context=4096, format=stored))
    assert again.total_bytes == asked.total_bytes
    assert again.command == asked.command


def test_a_draft_is_a_file_of_the_format_that_was_assumed() -> None:
    """As the model is; a GGUF file in vLLM's command, too."""
    job = LlamaCppJob(context=4096, draft="qwen3-0.6b")
    assert serve(subject("qwen3-8b"), engine("llama.cpp"), job).command[-1] == "qwen3-0.6b-BF16.gguf"
    named = replace(job, format="q4_k_m", draft="qwen3-0.6b:q8_0")
    assert serve(subject("qwen3-8b"), engine("llama.cpp"), named).command[-1] == "qwen3-0.6b-Q8_0.gguf"
    assert called(engine("vllm"), "Qwen/Qwen3-8B", "q4_k_m") == "Qwen3-8B-Q4_K_M.gguf"


def test_a_format_is_read_of_a_file_or_a_tag_alone() -> None:
    """A folder called like a type is a folder."""
    assert format_in("models/q4_k_m/llama") is None
    assert format_in("a.Q6_K.gguf") == "q6_k"
    assert format_in("org/name-GGUF:bf16") == "gguf-bf16"
