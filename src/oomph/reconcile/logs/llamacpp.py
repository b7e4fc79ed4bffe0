"""Logs of llama.cpp and of what is built on it (Ollama's runner, ik_llama.cpp, LM Studio): buffers of each device."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from oomph.reconcile.found import Figure, Line, Report
from oomph.reconcile.logs import Log

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
# Settings that the log prints, and the flags they come from.
_SETTINGS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("-c", re.compile(r"\bn_ctx {1,20}= {1,4}([0-9]{1,9})$")),
    ("-b", re.compile(r"\bn_batch {1,20}= {1,4}([0-9]{1,7})$")),
    ("-ub", re.compile(r"\bn_ubatch {1,20}= {1,4}([0-9]{1,7})$")),
    ("-np", re.compile(r"\bn_seq_max {1,20}= {1,4}([0-9]{1,5})$")),
    ("-ngl", re.compile(r"offloaded ([0-9]{1,4})/[0-9]{1,4} layers to GPU")),
)
_FLASH = re.compile(r"\bflash_attn {1,20}= {1,4}(enabled|disabled|auto|0|1)$")
_TYPES = re.compile(r"K \(([a-z0-9_]{1,10})\): {1,8}[0-9.]{1,12} MiB, V \(([a-z0-9_]{1,10})\)")
_PATHS = (
    re.compile(r"loaded meta data with [0-9]{1,5} key-value pairs and [0-9]{1,6} tensors from (\S[^()]{0,400}\.gguf)"),
    re.compile(r"loading model '([^']{1,400}\.gguf)'"),
)
_BUILD = re.compile(r"\bbuild: ([0-9]{3,6}) \(")
_TYPE = re.compile(r"\bfile type {1,8}= {1,4}(?:all |mostly )?([A-Z][A-Z0-9_]{1,12})(?: - ([A-Z])[a-z]{1,8})?")
# Functions that wrote a line, and the first build that is known to have called them so, the newest first.
CALLED = (
    ("llama_kv_cache:", "b7079"),
    ("llama_kv_cache_unified", "b5944"),
    ("llama_kv_cache_init", "b5944"),
)
_NAME = re.compile(r"general\.name {1,8}(?:str {1,8})?= {1,4}(\S.{0,200})$")


def read(lines: Sequence[Line]) -> Report:
    """Return every buffer under the device it lies on, and the `llama-server` command that the settings amount to."""
    found = [figure for line in lines for figure in _figures(line)]
    found += _sums(found)
    name = next((match[1].strip() for line in lines if (match := _NAME.search(line.text))), "")
    said = {"general.name": name, "version": _build(lines), "format": _format(lines)}
    return Report("llama.cpp", tuple(found), _command(lines), {key: value for key, value in said.items() if value})


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


def _command(lines: Sequence[Line]) -> tuple[str, ...]:
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
    return ("llama-server", "-m", path, *(word for pair in said.items() for word in pair))


LOG = Log(
    "llama.cpp",
    ("buffer size =", " cells, ", "n_ctx ", "n_batch ", "n_ubatch ", "n_seq_max ", "flash_attn ", "layers to GPU",
     "key-value pairs and", "loading model '", "general.name", "file type", "build: ", "K (f16)", "K (q"),
    read,
)  # fmt: skip
