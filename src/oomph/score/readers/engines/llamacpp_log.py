"""What a row of llama.cpp's start-up log says of model and job; every value is held against what it can be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from oomph.engines.llamacpp.job import CACHE_TYPES, LlamaCppJob
from oomph.engines.llamacpp.kv import CELLS
from oomph.engines.llamacpp.served import Known
from oomph.engines.llamacpp.sizes import OTHER_CACHES, WINDOWED, WITHOUT_CACHE, Kept, Sizes
from oomph.score.reading import refuse, shown, whole

IK = "ik_llama.cpp"
MOST_LAYERS, MOST_GPUS = 4096, 64
# general.file_type in words, of mixes whose rule is known; those of ik_llama.cpp are made by hand for each model.
MIXES = {
    "BF16": "gguf-bf16", "Q8_0": "q8_0", "Q4_0": "q4_0", "Q6_K": "q6_k", "Q2_K - Medium": "q2_k",
    "Q4_K - Medium": "q4_k_m", "Q5_K - Medium": "q5_k_m", "Q5_K - Small": "q5_k_s",
    "IQ4_XS - 4.25 bpw": "iq4_xs-imatrix",    "IQ4_NL - 4.5 bpw": "iq4_nl-imatrix",
}  # fmt: skip
HOSTS = re.compile(r"CPU|.*_Host$|AMX|BLAS")
_LATENT = re.compile(r"c\^KV \((\w{1,10})\)")
_TRANSPOSED = re.compile(r"kv\^T \((\w{1,10})\)")


def format_of(row: Mapping[str, Any]) -> tuple[str | None, tuple[str, str] | None]:
    """Return the format of the file, and why the weights cannot be told from it, if so."""
    quant = row.get("quant")
    holders = devices(row, "model")
    if "CPU_REPACK" in holders and "CPU_Mapped" in holders:
        return MIXES.get(str(quant)), ("weights", "those repacked for the CPU are counted twice")
    if "override-tensor" in str(row.get("cmd")) or " -ot " in str(row.get("cmd")):
        return MIXES.get(str(quant)), ("weights", "-ot sends tensors to GPUs of its own choice")
    if isinstance(quant, str) and quant in MIXES and row.get("engine") != IK:
        return MIXES[quant], None
    if isinstance(quant, str) and quant in MIXES:
        return MIXES[quant], ("weights", "which tensors -ot sent to the host is not said")
    return None, (f"quant {shown(quant)}", "which type each tensor has is not said exactly")


def sizes_of(row: Mapping[str, Any]) -> Sizes | None:
    """Return the numbers that a log gives, None where it gives none or they do not tell all."""
    arch = row.get("arch")
    if not isinstance(arch, str) or row.get("n_layer") is None:
        return None
    layers = whole(row, "n_layer", MOST_LAYERS)
    k, v = _number(row, "n_embd_k_gqa"), _number(row, "n_embd_v_gqa")
    if k is None or v is None or arch in OTHER_CACHES or arch in WITHOUT_CACHE:
        return None
    if arch in WINDOWED and row.get("n_swa") and row.get("engine") != IK:
        return None
    return Sizes(arch, (Kept(k, v),) * layers, 0, whole(row, "n_vocab"), whole(row, "n_embd"))


def _number(row: Mapping[str, Any], key: str) -> int | None:
    """Return a number that logs print as text; None for a list of one for each layer."""
    value = row.get(key)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31 else None


def agree(ours: Sizes, theirs: Sizes, row: Mapping[str, Any]) -> bool:
    """Tell whether the catalogue's model is the one that was served."""
    same = (ours.n_embd, ours.n_vocab, len(ours.kept)) == (theirs.n_embd, theirs.n_vocab, len(theirs.kept))
    latent = ours.latent and row.get("engine") == IK  # a cache of every head's keys, or of the latent
    return same and (latent or ours.kept[0].k == theirs.kept[0].k or not ours.kept[0].k)


def as_kept(sizes: Sizes, row: Mapping[str, Any]) -> Sizes:
    """Return the numbers as the program at hand keeps them.

    ik_llama.cpp has no cache of windows, and with -mla 1 a second copy of the latent, turned.
    """
    if row.get("engine") != IK:
        with_values = sizes.latent and any(name in quote(row) for name in VALUES_TOO)
        return _with_values(sizes) if with_values else sizes
    transposed = _TRANSPOSED.search(quote(row)) or row.get("mla_attn") == "1"
    if sizes.latent and transposed:
        return _with_values(sizes)
    return replace(sizes, kept=tuple(replace(each, swa=False) for each in sizes.kept))


def _with_values(sizes: Sizes) -> Sizes:
    return replace(sizes, latent=False, kept=tuple(replace(each, v=LATENT_RANK) for each in sizes.kept))


# Builds of 2025 kept the latent a second time, as values: what logs call their cache.
VALUES_TOO = ("llama_kv_cache_init", "llama_kv_cache_unified")
LATENT_RANK = 512  # kv_lora_rank of every DeepSeek V2, V3 and Kimi K2


def quote(row: Mapping[str, Any]) -> str:
    """Return the lines that a row quotes."""
    found = row.get("quote")
    return found[:20_000] if isinstance(found, str) else ""


def _types(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return the types of keys and values: what the log says of a latent cache, else the row's."""
    latent = _LATENT.search(quote(row))
    said = latent[1] if latent else row.get("kv_dtype") or "f16"
    key, _, value = str(said)[:40].partition("/")
    for name in (key, value or key):
        if name not in CACHE_TYPES:
            raise refuse(f"kv_dtype {shown(said)}", "not a type that is known here")
    return key, value or key


def job_of(row: Mapping[str, Any], model: Known, stored: str | None) -> tuple[LlamaCppJob, tuple[int, ...]]:
    """Return the job, and how many layers each GPU has; () without a GPU."""
    n_ctx, slots = whole(row, "n_ctx"), row.get("n_seq_max")
    if n_ctx % CELLS:
        raise refuse(f"n_ctx {n_ctx}", f"of a build that does not pad to {CELLS} cells")
    slots = whole(row, "n_seq_max", 256) if slots is not None else 1
    unified = row.get("kv_unified") in ("true", True)
    key, value = _types(row)
    flash = row.get("flash_attn")
    placed = _placed(row, model.sizes)
    on_gpus = None if sum(placed) > len(model.sizes.kept) else sum(placed)
    return (
        LlamaCppJob(
            context=n_ctx, ctx_size=n_ctx, parallel=slots, kv_unified=unified, concurrency=1,
            batch_size=_number(row, "n_batch") or 2048, ubatch_size=_number(row, "n_ubatch") or 512,
            flash_attn="off" if flash is False else "on", cache_type_k=key, cache_type_v=value,
            gpu_layers=on_gpus, format=stored,
        ),
        placed,
    )  # fmt: skip


def _placed(row: Mapping[str, Any], sizes: Sizes) -> tuple[int, ...]:
    """Return how many layers each GPU has, as the lines of the cache show it; the output counts with the last one."""
    lines, measured = lines_of(row, "KV"), row.get("measured")
    if not lines:
        return (len(sizes.kept) + 1,) if isinstance(measured, Mapping) and "model_gpu_mib" in measured else ()
    taken: dict[str, float] = {}
    for line in lines[:MOST_GPUS]:
        if isinstance(line, list) and len(line) == 2 and isinstance(line[0], str) and isinstance(line[1], (int, float)):
            taken[line[0]] = taken.get(line[0], 0.0) + float(line[1])
    whole_cache = sum(taken.values())
    if not 0 < whole_cache < 2**40:
        raise refuse("per_device", "no cache in it")
    layers = len(sizes.kept)
    counts = [round(n / whole_cache * layers) for name, n in sorted(taken.items()) if not HOSTS.match(name)]
    if not counts or not sum(counts):
        return ()
    if not str(row.get("engine")).startswith("ollama") or sum(counts) == layers:
        counts[-1] += 1
    return tuple(counts)


def lines_of(row: Mapping[str, Any], kind: str) -> list[Any]:
    """Return the lines of one kind of buffer, each a device and its MiB."""
    measured = row.get("measured")
    of_kind = measured.get("per_device") if isinstance(measured, Mapping) else None
    found = of_kind.get(kind) if isinstance(of_kind, Mapping) else None
    return found if isinstance(found, list) else []


def devices(row: Mapping[str, Any], kind: str) -> list[str]:
    """Return the devices that have a buffer of a kind."""
    return [line[0] for line in lines_of(row, kind) if isinstance(line, list) and line and isinstance(line[0], str)]
