"""Counting an architecture oomph has no family for: its real transformers class, built on the meta device.

The class is built in a process of its own, with limits on time and memory, offline, in an empty folder, and never
from code that comes with a model: `auto_map` is dropped, only classes inside the installed transformers are built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from oomph.errors import UnsupportedError
from oomph.referee import isolated

SECONDS = 120  # importing torch and transformers takes 5 to 30 of them
MEMORY = 4 * 2**30  # bytes the class may take beyond the imports; on meta it needs megabytes
# Keys that choose code, downloads or kernels; none of them changes a shape.
DROPPED = (
    "auto_map", "trust_remote_code", "_name_or_path", "_attn_implementation", "attn_implementation",
    "_attn_implementation_internal", "_experts_implementation", "quantization_config", "compression_config",
    "torch_dtype", "dtype", "use_pretrained_backbone", "custom_generate",
)  # fmt: skip
AUTO = (
    "AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForImageTextToText", "AutoModelForMaskedLM", "AutoModel",
)  # fmt: skip
INSTALL = 'pip install "oomph[trace]"'


def count(raw: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of every parameter of the real class for this config.

    Raises UnsupportedError: transformers is not installed, does not know the type, or cannot build the config.
    """
    model_type = str(raw.get("model_type", ""))[:80]
    if not all(map(find_spec, ("torch", "transformers"))):
        raise UnsupportedError(f"{model_type!r} can only be counted with transformers at hand.", f"Do: {INSTALL}")
    answer = _ask(raw, model_type)
    if "tensors" in answer:
        return {name: tuple(shape) for name, shape in answer["tensors"].items()}
    if answer.get("unknown"):
        version = str(answer.get("version", ""))[:20]
        raise UnsupportedError(
            f"transformers {version} has no architecture {model_type!r} either.",
            "Code that comes with a model is never run; a newer transformers may know it.",
        )
    raise UnsupportedError(
        f"transformers cannot build this {model_type!r}: {str(answer.get('error', ''))[:300]}", "Check the config."
    )


def _ask(raw: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """Return what the other process found out about a config."""
    try:
        for answer in isolated.messages("oomph.referee.meta", dict(raw), SECONDS):
            return answer
        ended = "exit 0"
    except isolated.Died as died:
        if died.too_slow:
            raise UnsupportedError(
                f"Building this {model_type!r} took transformers more than {SECONDS} seconds.", "Check the config."
            ) from None
        ended = died.how
    raise UnsupportedError(
        f"Building this {model_type!r} with transformers ended without an answer ({ended}).",
        "It may need more memory than it is given; check the config.",
    )


def _build(raw: dict[str, Any], _send: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Return the answer for one config: its tensors, or what is in the way."""
    import torch
    import transformers

    isolated.limit_memory(MEMORY)
    model_type = raw.get("model_type")
    if model_type not in transformers.CONFIG_MAPPING:
        return {"unknown": True, "version": transformers.__version__}
    config = transformers.CONFIG_MAPPING[model_type](**clean(raw))
    with torch.device("meta"):
        model = _model(transformers, config, raw)
    return {"tensors": {name: list(tensor.shape) for name, tensor in model.named_parameters()}}


def clean(value: Any) -> Any:
    """Return a config without the keys in DROPPED, at every level but the type itself."""
    if isinstance(value, dict):
        return {key: clean(below) for key, below in value.items() if key not in DROPPED}
    return [clean(below) for below in value] if isinstance(value, list) else value


def _model(transformers: Any, config: Any, raw: dict[str, Any]) -> Any:
    """Return the class the config names if it is one of transformers' own for this type, else what Auto picks."""
    names = raw.get("architectures")
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    known = getattr(transformers, name, None) if name.isidentifier() and not name.startswith("_") else None
    if isinstance(known, type) and getattr(known, "config_class", None) is type(config):
        return known(config)
    for auto in (getattr(transformers, each) for each in AUTO):
        if type(config) in auto._model_mapping:
            return auto.from_config(config, trust_remote_code=False)
    raise ValueError("there is a configuration, but no model")


if __name__ == "__main__":
    isolated.serve(_build)
