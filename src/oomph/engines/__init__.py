"""Programs that serve models, each by its own rules; imported when asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from oomph.errors import UsageError, close_matches

if TYPE_CHECKING:
    from oomph.engines.base import Engine

# Name and module. Every module has an ENGINE.
ENGINES: dict[str, str] = {
    "vllm": "vllm",
    "sglang": "sglang",
    "trtllm": "trtllm",
    "tgi": "tgi",
    "lmdeploy": "lmdeploy",
    "llama.cpp": "llamacpp",
    "ollama": "ollama",
    "lm-studio": "lmstudio",
    "ik_llama.cpp": "ik",
    "mlx": "mlx",
    "exllamav2": "exllama.v2",
    "exllamav3": "exllama.v3",
}


def engine(name: str) -> Engine:
    """Return an engine by its name, however it is spelled; raises UsageError for one that is not known.

    >>> engine("LlamaCPP").name, engine("TensorRT-LLM").name
    ('llama.cpp', 'trtllm')
    """
    name = name.strip().lower()
    if name not in ENGINES:
        name = _SPELLED.get(_letters(name), name)
    if name not in ENGINES:
        choose = f"Choose one of {', '.join(ENGINES)}; docs/engines.md says what each takes."
        raise UsageError(f"There is no engine {name[:80]!r}.", close_matches(name, ENGINES) or choose)
    found: Engine = import_module(f"oomph.engines.{ENGINES[name]}").ENGINE
    return found


def _letters(name: str) -> str:
    """Return a name without what people put between its words."""
    return "".join(letter for letter in name if letter.isalnum())


_SPELLED = {_letters(name): name for name in ENGINES} | {
    "tensorrtllm": "trtllm", "trt": "trtllm", "textgenerationinference": "tgi", "turbomind": "lmdeploy",
    "llamaserver": "llama.cpp", "lms": "lm-studio", "ikllama": "ik_llama.cpp", "mlxlm": "mlx", "exl2": "exllamav2",
    "exl3": "exllamav3", "exllama2": "exllamav2", "exllama3": "exllamav3", "tabbyapi": "exllamav3",
}  # fmt: skip
