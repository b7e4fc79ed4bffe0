"""What the flags of `vllm serve` that take JSON say: guesses ahead, compilation and CUDA graphs, images of a prompt.

Source: vllm/config/speculative.py, compilation.py, multimodal.py and vllm.py (_set_cudagraph_sizes) of vLLM 0.33.0 and
0.19.0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oomph.errors import UnsupportedError, UsageError, close_matches

MOST_LETTERS, SHOWN = 2**16, 60
MOST_GUESSES, MOST_SIZES, MOST_TOKENS = 2**10, 2**12, 2**20
SPECULATION = ("mtp", "deepseek_mtp", "qwen3_next_mtp", "qwen3_5_mtp", "glm4_moe_mtp")  # the model's own layers
DRAFTS = ("eagle", "eagle3", "dflash", "medusa", "draft_model", "ngram", "ngram_gpu", "suffix")
# What a draft's name says of a method that is not named, asked in this order (config/speculative.py); else it drafts as
# a whole.
BY_NAME = (("eagle-", "eagle"), ("eagle3", "eagle3"), ("dflash", "dflash"), ("dspark", "dspark"), ("medusa", "medusa"))
LOOKED_UP = frozenset({"ngram", "ngram_gpu", "suffix"})  # methods that need no model
NGRAM = ("ngram", "[ngram]")  # names of a draft that is none
# What is read of a draft, and what moves none of its memory: how guesses are found and accepted.
READ_OF_DRAFTS = frozenset({
    "model", "method", "num_speculative_tokens", "revision", "code_revision", "prompt_lookup_max", "prompt_lookup_min",
    "suffix_decoding_max_tree_depth", "suffix_decoding_max_cached_requests", "suffix_decoding_max_spec_factor",
    "suffix_decoding_min_token_prob", "rejection_sample_method", "synthetic_acceptance_rates",
    "synthetic_acceptance_length", "disable_by_batch_size", "disable_padded_drafter_batch", "disable_logprobs",
})  # fmt: skip
UNKNOWN_OF_DRAFTS = {
    "quantization": "a draft in another format than its repository's", "kv_cache_dtype": "a cache of its own dtype",
    "draft_tensor_parallel_size": "a draft on fewer devices than the model",
}  # fmt: skip
EAGER, NO_GRAPHS = ("NONE", "0"), ("NONE",)  # modes without compilation, and without graphs
MODES = (*EAGER, "VLLM_COMPILE", "3")
GRAPHS = (*NO_GRAPHS, "PIECEWISE", "FULL", "FULL_DECODE_ONLY", "FULL_AND_PIECEWISE")
SIZES = ("cudagraph_capture_sizes", "max_cudagraph_capture_size", "max_capture_size")
# Where it keeps what it compiled, what it warms up with, how it calls inductor: nothing of these stays on a device.
UNMOVED = frozenset({
    "cache_dir", "debug_dump_path", "compile_cache_save_format", "cudagraph_num_of_warmups", "cudagraph_copy_inputs",
    "use_inductor", "use_cudagraph", "local_cache_dir",
})  # fmt: skip
_PAIRS = re.compile(r"[a-z]{1,20}=\d{1,9}(?:,[a-z]{1,20}=\d{1,9}){0,9}")


@dataclass(frozen=True)
class Compilation:
    """Whether pieces are compiled, whether graphs are captured, and of what sizes; None is vLLM's own choice."""

    compiled: bool = True
    graphs: bool = True
    sizes: tuple[int, ...] | None = None
    largest: int | None = None


def read_json(flag: str, text: str, example: str) -> Mapping[str, Any]:
    """Return a JSON object with its keys spelled with underscores; raises UsageError for anything else.

    >>> read_json("--speculative-config", '{"num-speculative-tokens": 2}', "")
    {'num_speculative_tokens': 2}
    """
    try:
        found = json.loads(text) if len(text) < MOST_LETTERS else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"{flag} is no JSON object.", example)
    return {str(key).replace("-", "_"): value for key, value in found.items()}


def speculation(text: str | None) -> Mapping[str, Any]:
    """Return what is guessed ahead, {} for nothing, its method named; raises UnsupportedError for methods not modelled.

    >>> speculation('{"model": "yuhuili/EAGLE3-LLaMA3.1-Instruct-8B", "num_speculative_tokens": 3}')["method"]
    'eagle3'
    """
    if text is None:
        return {}
    example = '\'{"model": "yuhuili/EAGLE3-LLaMA3.1-Instruct-8B", "num_speculative_tokens": 3}\''
    found = read_json("--speculative-config", text, example)
    name, method = str(found.get("model") or ""), found.get("method")
    if method in NGRAM or (method is None and name in NGRAM):
        method = NGRAM[0]
    elif method is None and name:
        method = next((each for part, each in BY_NAME if part in name.lower()), "draft_model")
    if method not in (*SPECULATION, *DRAFTS):
        raise UnsupportedError(
            f"Speculative decoding by {str(method)[:SHOWN]!r} is not modelled.", f"Known are mtp, {', '.join(DRAFTS)}."
        )
    if method in DRAFTS and method not in LOOKED_UP and not name:
        raise UsageError(f"--speculative-config names no model that guesses by {method}.", f"Add it: {example}")
    for key, value in found.items():
        if key not in READ_OF_DRAFTS and value is not None:
            what = f", {UNKNOWN_OF_DRAFTS[key]}" if key in UNKNOWN_OF_DRAFTS else ""
            raise UnsupportedError(
                f"--speculative-config: {key[:SHOWN]} is not modelled{what}.",
                close_matches(key[:SHOWN], sorted(READ_OF_DRAFTS)) or "Leave it out.",
            )
    count = found.get("num_speculative_tokens", 1)
    size = _size("num_speculative_tokens", count, MOST_GUESSES)
    return {**found, "method": method, "num_speculative_tokens": size}


def compilation(text: str | None, sizes: tuple[int, ...] = (), largest: int | None = None) -> Compilation:
    """Return what --compilation-config asks for, with the flags beside it that say the same.

    Raises UnsupportedError for a key that moves memory and is not modelled.

    >>> compilation('{"cudagraph_mode": "NONE", "cudagraph_capture_sizes": [4, 1, 4]}').sizes
    (1, 4)
    """
    found = read_json("--compilation-config", text, "'{\"cudagraph_capture_sizes\": [1, 2, 4]}'") if text else {}
    for key in found:
        if key not in (*SIZES, "mode", "level", "cudagraph_mode", *UNMOVED):
            raise UnsupportedError(
                f"--compilation-config: {key[:SHOWN]} is not modelled.",
                f"Known are mode, level, cudagraph_mode, {', '.join(SIZES)}.",
            )
    mode = _word("mode", found.get("mode", found.get("level")), MODES)
    graphs = _word("cudagraph_mode", found.get("cudagraph_mode"), GRAPHS)
    asked = found.get("cudagraph_capture_sizes", list(sizes) or None)
    if asked is not None and (not isinstance(asked, list) or not 1 <= len(asked) <= MOST_SIZES):
        raise UsageError("cudagraph_capture_sizes is no list of sizes.", "[1, 2, 4]")
    most = found.get("max_cudagraph_capture_size", found.get("max_capture_size", largest))
    return Compilation(
        compiled=mode not in EAGER,
        graphs=graphs not in NO_GRAPHS and found.get("use_cudagraph") is not False,
        sizes=tuple(sorted({_size("cudagraph_capture_sizes", each, MOST_TOKENS) for each in asked})) if asked else None,
        largest=None if most is None else _size("max_cudagraph_capture_size", most, MOST_TOKENS),
    )


def images_allowed(text: str | None) -> int | None:
    """Return how many images --limit-mm-per-prompt allows, 0 where no tower is loaded, None where nothing limits them.

    image=2,video=0 is how it was written before there was JSON. Raises UnsupportedError for what the trial step is not
    modelled for: videos alone, items of a given size.

    >>> images_allowed('{"image": 0, "video": 0}'), images_allowed("image=2,audio=0"), images_allowed(None)
    (0, 2, None)
    """
    if text is None:
        return None
    if _PAIRS.fullmatch(text):
        found: Mapping[str, Any] = {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", text)}
    else:
        found = read_json("--limit-mm-per-prompt", text, '\'{"image": 0, "video": 0}\'')
    images, videos = found.get("image"), found.get("video")
    counted = [each for each in found.values() if isinstance(each, int) and not isinstance(each, bool) and each >= 0]
    if len(counted) < len(found):
        raise UnsupportedError(
            "--limit-mm-per-prompt: a trial step of items of a given size is not modelled.",
            'Give numbers: \'{"image": 2, "video": 0}\'.',
        )
    if images == 0 and videos != 0:
        raise UnsupportedError(
            "--limit-mm-per-prompt: a trial step that encodes videos alone is not modelled.",
            'Allow images, or neither: \'{"image": 0, "video": 0}\'.',
        )
    return images if isinstance(images, int) else None


def _word(key: str, value: Any, known: tuple[str, ...]) -> str:
    """Return a mode by its name, "" for none; raises UnsupportedError for one that is not modelled."""
    if value is None:
        return ""
    if isinstance(value, bool) or str(value).upper() not in known:
        raise UnsupportedError(
            f"--compilation-config: {key} {str(value)[:SHOWN]} is not modelled.", f"Known are {', '.join(known)}."
        )
    return str(value).upper()


def _size(name: str, value: Any, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise UsageError(f"{name} {str(value)[:SHOWN]!r} is not a whole number from 1 to {most:,}.", "Correct it.")
    return value
