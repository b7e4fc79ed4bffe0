"""What keys of config files say of dtypes: that of weights, and whether operations run under autocast."""

from __future__ import annotations

from typing import Any

from oomph.runtimes.said import Reader, Said
from oomph.runtimes.trainer import mixed

WORDS = {
    "bfloat16": "bf16", "bf16": "bf16", "float16": "fp16", "fp16": "fp16", "float32": "fp32", "fp32": "fp32",
    "torch.bfloat16": "bf16", "torch.float16": "fp16", "torch.float32": "fp32",
}  # fmt: skip
OF_CHECKPOINTS = "bf16"  # what "auto" is taken to be, the dtype that most have
KEYS = ("dtype", "torch_dtype")
ON = (True, "auto", "true")


def weights(said: Said, usually: str, auto: str | None = None) -> str:
    """Return the dtype that weights are loaded in: what is said, and `auto` where that is "auto"."""
    for key in KEYS:
        value = said.values.get(key)
        if value == "auto" and auto is not None:
            return auto
        if isinstance(value, str) and value != "auto":
            found: str = said.one_of(key, WORDS)
            return found
    return usually


def low(dtype: str, usually: str = "fp32") -> Reader:
    """Return the reader of `bf16: true`: mixed precision over weights that are `usually` unless the config says."""

    def read(said: Said, key: str) -> dict[str, Any]:
        return mixed(dtype, weights(said, usually)) if said.values[key] in ON else {}

    return read


def plain(said: Said, key: str) -> dict[str, Any]:
    """Read a dtype of weights where no mixed precision is on."""
    if said.values[key] == "auto" or said.values.get("bf16") or said.values.get("fp16"):
        return {}
    return {"precision": said.one_of(key, WORDS)}


def of_loaded(said: Said, key: str) -> dict[str, Any]:
    """Read a dtype of weights over which nothing is cast."""
    return {} if said.values[key] == "auto" else {"precision": said.one_of(key, WORDS), "fp32_outputs": False}


def of_trl(said: Said, key: str) -> dict[str, Any]:
    """Read `dtype`, `bf16` and `fp16` of TRL's configs, all at once: bf16 is on unless fp16 is, or it is switched off.

    Source: trl 1.16, trainer/base_config.py, trainer/utils.py (create_model_from_path).
    """
    loaded = weights(said, "fp32", OF_CHECKPOINTS)
    if said.values.get("fp16") in ON:
        return mixed("fp16", loaded)
    if said.values.get("bf16") is False:
        return {"precision": loaded, "autocast": False, "fp32_outputs": False}
    return mixed("bf16", loaded)
