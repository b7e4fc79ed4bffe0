"""Logs of llama.cpp and of what is built on it (Ollama's runner, ik_llama.cpp, LM Studio): buffers of each device."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from oomph.reconcile.found import Figure, Line, Report
from oomph.reconcile.logs import Log, ik

_N = r"([0-9]{1,9}\.[0-9]{1,3})"
_DEVICE = r"([A-Za-z][A-Za-z0-9_]{0,30}(?:\([A-Za-z0-9_ ]{1,30}\))?)"
_BUFFER = re.compile(rf"{_DEVICE} {{1,8}}(model|KV|compute|output|RS)? ?buffer size = {{1,8}}{_N} MiB")
_CELLS = re.compile(rf"size = {{1,8}}{_N} MiB \( {{0,8}}([0-9]{{1,9}}) cells, {{0,4}}([0-9]{{1,4}}) layers")
NAMES = {"model": "model_each_mib", None: "model_each_mib", "KV": "kv_each_mib", "compute": "compute_each_mib"}
NAMES |= {"output": "output_buffer_mib", "RS": "rs_each_mib"}
# Of which sums a buffer is a part: (what, whether it lies on the host).
SUMS: dict[tuple[str, bool], tuple[str, ...]] = {
    ("model_each_mib", False): ("model_gpu_mib",),
    ("model_each_mib", True): ("model_host_mib",),
    ("kv_each_mib", False): ("kv_gpu_mib", "kv_mib"),
    ("kv_each_mib", True): ("kv_mib",),
    ("rs_each_mib", False): ("rs_mib",),
    ("rs_each_mib", True): ("rs_mib",),
    ("compute_each_mib", False): ("compute_buffer_mib",),
    ("compute_each_mib", True): ("host_buffer_mib",),
}
_LAYERS = re.compile(r"offloaded ([0-9]{1,4})/[0-9]{1,4} layers to GPU")
# Settings that the log prints, and the flags they come from.
_SETTINGS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("-c", re.compile(r"\bn_ctx {2,30}= {1,4}([0-9]{1,9})$")),  # a slot's has one blank
    ("-b", re.compile(r"\bn_batch {1,20}= {1,4}([0-9]{1,7})$")),
    ("-ub", re.compile(r"\bn_ubatch {1,20}= {1,4}([0-9]{1,7})$")),
    ("-np", re.compile(r"\bn_seq_max {1,20}= {1,4}([0-9]{1,5})$")),
    ("-ngl", _LAYERS),
)
_UNIFIED = re.compile(r"\bkv_unified {1,30}= {1,4}(?:true|1)$")
_FLASH = re.compile(r"\bflash_attn {1,20}= {1,4}(enabled|disabled|auto|0|1)$")
_TYPES = re.compile(r"K \(([a-z0-9_]{1,10})\): {1,8}[0-9.]{1,12} MiB, V \(([a-z0-9_]{1,10})\)")
_PATHS = (
    re.compile(r"loaded meta data with [0-9]{1,5} key-value pairs and [0-9]{1,6} tensors from (\S[^()]{0,400}\.gguf)"),
    re.compile(r"loading model '([^']{1,400}\.gguf)'"),
)
# What follows is of the draft: its own weights, cache and buffers, which have the names of the model's.
_DRAFT = re.compile(r"loading draft model '([^']{1,400}\.gguf)'")
_GUESSES = re.compile(r"adding speculative implementation '([a-z0-9-]{1,20})'")
_PROJECTOR = re.compile(r"loaded multimodal model, '([^']{1,400}\.gguf)'")
OF_DRAFT = "draft_"
_BUILD = re.compile(r"\bbuild: ([0-9]{3,6}) \(")
_TYPE = re.compile(
    r"\b(?:file type|model ftype) {1,8}= {1,4}(?:\(guessed\) )?(?:all |mostly )?"
    r"([A-Z][A-Z0-9_]{1,12})(?: - ([A-Z])[a-z]{1,8})?"
)
# Words of a line, functions that wrote it among them, and the first build that is known to have them, the newest first:
# "" is the newest that is known here.
CALLED = (
    ("(load_mode = ", ""),
    ("llama_kv_cache:", "b7079"),
    ("llama_kv_cache_unified", "b5944"),
    ("llama_kv_cache_init", "b5944"),
)
_NAME = re.compile(r"general\.name {1,8}(?:str {1,8})?= {1,4}(\S.{0,200})$")


def read(lines: Sequence[Line]) -> Report:
    """Return every buffer under the device it lies on, and the `llama-server` command that the settings amount to.

    Of a draft beside the model there are the sums, under names of their own.
    """
    at = next((at for at, line in enumerate(lines) if _DRAFT.search(line.text)), len(lines))
    lines, of_draft = lines[:at], lines[at:]
    found = list(_summed(lines))
    draft = list(_summed(of_draft))
    name = next((match[1].strip() for line in lines if (match := _NAME.search(line.text))), "")
    is_ik = ik.wrote(lines)
    version = ik.build(lines) if is_ik else _build(lines)
    said = {"general.name": name, "version": version, "format": _format(lines)}
    command = _command(lines, found, is_ik)
    beside = _draft(of_draft, draft)
    projector = next((match[1] for line in (*lines, *of_draft) if (match := _PROJECTOR.search(line.text))), "")
    beside += ("-mm", projector) if projector else ()
    found += [replace(one, name=OF_DRAFT + one.name) for one in draft if not one.device]
    facts = {key: value for key, value in said.items() if value}
    return Report(ik.PROGRAM if is_ik else "llama.cpp", tuple(found), command, facts, beside)


def _summed(lines: Sequence[Line]) -> Iterator[Figure]:
    found = [figure for line in lines for figure in _figures(line)]
    yield from found
    yield from _sums(found)


def _build(lines: Sequence[Line]) -> str:
    """Return the build, as it says itself, or the first known to call its functions so; '' where neither tells."""
    for line in lines:
        match = _BUILD.search(line.text)
        if match:
            return f"b{match[1]}"
    return next((build for name, build in CALLED for line in lines if name in line.text), "")


def _format(lines: Sequence[Line]) -> str:
    """Return how the file's weights are stored, by the name of a format; '' where the log does not say.

    >>> _format([Line(1, "print_info: file type   = Q4_K - Medium")])
    'q4_k_m'
    """
    for line in lines:
        match = _TYPE.search(line.text)
        if match:
            return match[1].lower() + {"S": "_s", "M": "_m", "L": "_l"}.get((match[2] or "")[:1], "")
    return ""


def _figures(line: Line) -> Iterator[Figure]:
    buffer = _BUFFER.search(line.text)
    if buffer:
        yield Figure(NAMES[buffer[2]], float(buffer[3]), line, buffer[1])
    cells = _CELLS.search(line.text)
    if cells:
        yield Figure("kv_cells", float(cells[2]), line)
        yield Figure("kv_layers", float(cells[3]), line)


def _sums(found: Sequence[Figure]) -> Iterator[Figure]:
    """Yield the sums over GPUs and over the host, of each device's first line: a second one is of another context."""
    first: dict[tuple[str, str, str], Figure] = {}
    for one in found:
        several = one.name in ("kv_each_mib", "model_each_mib")  # one line per cache, one per file
        first.setdefault((one.name, one.device, one.line.text if several else ""), one)
    sums: dict[str, list[Figure]] = {}
    for one in first.values():
        for name in SUMS.get((one.name, is_host(one.device)), ()):
            sums.setdefault(name, []).append(one)
    for name, parts in sums.items():
        yield Figure(name, round(sum(one.value for one in parts), 2), parts[0].line)


def is_host(device: str) -> bool:
    """Say whether a buffer's name is that of memory of the machine: CPU, CPU_Mapped, CUDA_Host, AMX ...

    >>> is_host("CPU_Mapped"), is_host("CUDA_Host"), is_host("CUDA0"), is_host("Metal_Mapped")
    (True, True, False, False)
    """
    return device.startswith(("CPU", "Host", "AMX", "BLAS")) or device.endswith("_Host")


def _command(lines: Sequence[Line], found: Sequence[Figure], is_ik: bool) -> tuple[str, ...]:
    said: dict[str, str] = {}
    path = ""
    for line in lines:
        text = line.text.rstrip()
        path = next((match[1] for pattern in _PATHS if (match := pattern.search(text))), path)
        said |= {flag: match[1] for flag, pattern in _SETTINGS if (match := pattern.search(text))}
        flash = _FLASH.search(text)
        if flash:
            said["-fa"] = {"1": "on", "enabled": "on", "auto": "auto"}.get(flash[1], "off")
        types = _TYPES.search(text)
        if types:
            said |= {"-ctk": types[1], "-ctv": types[2]}
    if not path:
        return ()
    if _is_hosts(found):
        said.setdefault("-ngl", "0")
    if is_ik:
        return (ik.STARTS, "-m", path, *(word for pair in said.items() for word in pair), *ik.words(lines))
    shared = ("-kvu",) if any(_UNIFIED.search(line.text.rstrip()) for line in lines) else ()
    return ("llama-server", "-m", path, *(word for pair in said.items() for word in pair), *shared)


def _draft(lines: Sequence[Line], found: Sequence[Figure]) -> tuple[str, ...]:
    """Return the words that ask for a draft: its file, its layers on GPUs, and that it is asked."""
    said: dict[str, str] = {}
    for line in lines:
        for flag, pattern in (("-md", _DRAFT), ("-ngld", _LAYERS), ("--spec-type", _GUESSES)):
            if match := pattern.search(line.text):
                said[flag] = match[1]
    if _is_hosts(found):
        said.setdefault("-ngld", "0")
    return tuple(word for pair in said.items() for word in pair)


def _is_hosts(found: Sequence[Figure]) -> bool:
    """Say whether there are weights, and all of them with the host."""
    devices = [one.device for one in found if one.name == "model_each_mib"]
    return bool(devices) and all(map(is_host, devices))


LOG = Log(
    "llama.cpp",
    (
        "buffer size =", " cells, ", "n_ctx ", "n_batch ", "n_ubatch ", "n_seq_max ", "kv_unified ", "flash_attn ",
        "layers to GPU", "key-value pairs and", "loading model '", "loading draft model '", "(load_mode = ",
        "loaded multimodal model, '", "general.name", "model ftype", "file type", "build: ", "K (f16)", "K (q",
        "speculative implementation '", *ik.SIGNS,
    ),
    read,
)  # fmt: skip
