"""GPUs that are none, for a real llama.cpp: devices whose buffers have a size and no memory, registered through ggml's
own interface for backends. The engine places layers, caches and graphs on them as on real ones; nothing is computed.

They say of themselves what CUDA's say: names, alignment, padding of quantised rows, which operations they take over,
asynchronous copies and events (so that several of them are a pipeline). Structures are those of ggml-backend-impl.h, as
build 11549 has them (GGML_BACKEND_API_VERSION 3); ggml-cuda.cu for the answers.

`start(path, 2, n_gpu_layers=20)` loads a model and makes a context in a process of its own, through llama.h, and
returns what was logged. (A server loads in a thread that these devices, being Python, would wait for.)
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from ctypes import CFUNCTYPE, POINTER, Structure, c_bool, c_char_p, c_int, c_size_t, c_void_p
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.engines.llamacpp.real import Said

LONGEST = 20  # seconds
GIB = 2**30
ALIGNMENT, ROW, LARGE_BATCH = (
    128,
    512,
    32,
)  # of a buffer; MATRIX_ROW_PADDING; from so many rows on weights are copied in
GPU_TYPE = 1  # GGML_BACKEND_DEVICE_TYPE_GPU
BASE = 2**40  # where buffers pretend to be; nothing reads or writes there
API_VERSION = 3
_NE, _OP = 16, 80  # places in ggml_tensor: numbers of elements, operation

Name = CFUNCTYPE(c_char_p, c_void_p)
Number = CFUNCTYPE(c_size_t, c_void_p)
Flag = CFUNCTYPE(c_bool, c_void_p)
Nothing = CFUNCTYPE(None, c_void_p)
Pointer = CFUNCTYPE(c_void_p, c_void_p)
Asks = CFUNCTYPE(c_bool, c_void_p, c_void_p)
Sized = CFUNCTYPE(c_size_t, c_void_p, c_void_p)


class _Caps(Structure):
    _fields_ = [(name, c_bool) for name in ("is_async", "host_buffer", "from_host_ptr", "events", "mmap_support")]


class _Props(Structure):
    _fields_ = [
        ("name", c_char_p), ("description", c_char_p), ("free", c_size_t), ("total", c_size_t), ("type", c_int),
        ("device_id", c_char_p), ("caps", _Caps),
    ]  # fmt: skip


class _BufferType(Structure):
    _fields_ = [
        *(
            (name, c_void_p)
            for name in (
                "get_name", "alloc", "alloc_n", "alignment", "max_size", "alloc_size", "alloc_size_n", "is_host",
            )
        ),
        ("device", c_void_p), ("context", c_void_p),
    ]  # fmt: skip


class _Buffer(Structure):
    _fields_ = [
        (name, c_void_p)
        for name in ("free", "base", "init", "memset", "set", "get", "set_2d", "get_2d", "copy", "clear", "reset")
    ]


class _Backend(Structure):
    _fields_ = [
        (name, c_void_p)
        for name in (
            "guid", "get_name", "free", "set_async", "get_async", "set_2d_async", "get_2d_async", "cpy_async",
            "synchronize", "plan_create", "plan_free", "plan_update", "plan_compute", "compute", "event_record",
            "event_wait", "optimize", "device", "context",
        )
    ]  # fmt: skip


class _Device(Structure):
    _fields_ = [
        (name, c_void_p)
        for name in (
            "get_name", "get_description", "get_memory", "get_type", "get_props", "init_backend", "buffer_type",
            "host_buffer_type", "from_host_ptr", "supports_op", "supports_buft", "offload_op", "event_new",
            "event_free", "event_synchronize", "reg", "context",
        )
    ]  # fmt: skip


class _Reg(Structure):
    _fields_ = [
        ("version", c_int),
        *((name, c_void_p) for name in ("get_name", "device_count", "get_device", "proc_address", "context")),
    ]


class _Params(Structure):
    """llama_model_params or llama_context_params: more room than either takes, which does no harm on the stack."""

    _fields_ = [("bytes", ctypes.c_uint8 * 640)]


# Places in them, by llama.h; of two letters: 32 bits, an address, one byte.
_MODEL = {"n_gpu_layers": (16, "i"), "split_mode": (20, "i"), "load_mode": (24, "i"), "main_gpu": (32, "i"),
          "tensor_split": (40, "p"), "use_extra_bufts": (74, "b")}  # fmt: skip
_CONTEXT = {
    "n_ctx": (0, "i"), "n_batch": (4, "i"), "n_ubatch": (8, "i"), "n_seq_max": (12, "i"), "n_outputs_max": (20, "i"),
    "flash_attn_type": (52, "i"), "type_k": (104, "i"), "type_v": (108, "i"), "offload_kqv": (137, "b"),
    "op_offload": (139, "b"), "swa_full": (140, "b"), "kv_unified": (141, "b"),
}  # fmt: skip
OVERRIDES = 8  # tensor_buft_overrides
_KEPT: list[Any] = []  # what C holds pointers to


def _c(kind: Any, function: Any) -> int:
    wrapped = kind(function)
    _KEPT.append(wrapped)
    return ctypes.cast(wrapped, c_void_p).value or 0


def register(library: Any, count: int, free_gib: list[float] | None = None) -> None:
    """Make so many GPUs known to ggml."""
    library.ggml_backend_buffer_init.restype = c_void_p
    library.ggml_backend_buffer_init.argtypes = [c_void_p, _Buffer, c_void_p, c_size_t]
    library.ggml_backend_cpu_buffer_type.restype = c_void_p
    library.ggml_backend_buft_alloc_buffer.restype = c_void_p
    library.ggml_backend_buft_alloc_buffer.argtypes = [c_void_p, c_size_t]
    for name, result in (("ggml_nbytes", c_size_t), ("ggml_is_quantized", c_bool), ("ggml_row_size", c_size_t)):
        getattr(library, name).restype = result
    library.ggml_nbytes.argtypes = [c_void_p]
    library.ggml_row_size.argtypes = [c_int, ctypes.c_int64]
    library.ggml_op_name.restype = c_char_p
    reg = _Reg(
        version=API_VERSION, get_name=_c(Name, lambda _: b"CUDA"), device_count=_c(Number, lambda _: 0),
        proc_address=_c(CFUNCTYPE(c_void_p, c_void_p, c_char_p), lambda *_: None),
    )  # fmt: skip
    _KEPT.append(reg)
    host = _host(library)
    for at in range(count):
        size = int((free_gib[at] if free_gib else 24) * GIB)
        device = ctypes.addressof(_device(library, at, size, reg, ctypes.addressof(host)))
        host.device = host.device or device
        library.ggml_backend_device_register(c_void_p(device))


def _tensor(address: int) -> tuple[int, list[int], int]:
    """Return a tensor's type, numbers of elements and operation."""
    kind = c_int.from_address(address).value
    return kind, list((ctypes.c_int64 * 4).from_address(address + _NE)), c_int.from_address(address + _OP).value


def _host(library: Any) -> _BufferType:
    """Return CUDA_Host: the buffer type of the CPU under another name."""
    cpu = library.ggml_backend_cpu_buffer_type()
    found = _BufferType()
    ctypes.memmove(ctypes.addressof(found), cpu, ctypes.sizeof(found))
    address = ctypes.addressof(found)
    found.get_name = _c(Name, lambda _: b"CUDA_Host")

    def alloc(_: int, size: int) -> int:
        buffer: int = library.ggml_backend_buft_alloc_buffer(cpu, size)
        c_void_p.from_address(buffer + ctypes.sizeof(_Buffer)).value = address
        return buffer

    found.alloc = _c(CFUNCTYPE(c_void_p, c_void_p, c_size_t), alloc)
    found.device = None
    _KEPT.append(found)
    return found


def _device(library: Any, at: int, size: int, reg: _Reg, host: int) -> _Device:
    name = f"CUDA{at}".encode()
    device, buft = _Device(), _BufferType()
    _KEPT.extend((device, buft, name))
    own, of_buft = ctypes.addressof(device), ctypes.addressof(buft)
    anything = _c(Nothing, lambda *_: None)
    done = _c(CFUNCTYPE(c_int, c_void_p, c_void_p), lambda *_: 0)
    ignored = _c(CFUNCTYPE(None, c_void_p, c_void_p, c_void_p, c_size_t, c_size_t), lambda *_: None)
    buffer = _Buffer(
        base=_c(Pointer, lambda _: BASE), free=anything, set=ignored,
        clear=_c(CFUNCTYPE(None, c_void_p, ctypes.c_uint8), lambda *_: None),
        get=ignored,
        memset=_c(CFUNCTYPE(None, c_void_p, c_void_p, ctypes.c_uint8, c_size_t, c_size_t), lambda *_: None),
        copy=_c(CFUNCTYPE(c_bool, c_void_p, c_void_p, c_void_p), lambda *_: True),
    )  # fmt: skip

    def alloc_size(_: int, tensor: int) -> int:
        kind, ne, _op = _tensor(tensor)
        taken: int = library.ggml_nbytes(tensor)
        if library.ggml_is_quantized(kind) and ne[0] % ROW:
            taken += library.ggml_row_size(kind, ROW - ne[0] % ROW)
        return taken

    def offload(_: int, op: int) -> bool:
        _kind, ne, number = _tensor(op)
        what = library.ggml_op_name(number)
        rows = {b"GET_ROWS": 0, b"MUL_MAT": ne[1], b"MUL_MAT_ID": ne[2], b"ROPE": ne[2], b"ROPE_BACK": ne[2]}
        return rows.get(what, ne[1] * ne[2] * ne[3]) >= LARGE_BATCH

    def props(_: int, found: int) -> None:
        said = _Props.from_address(found)
        said.name, said.description, said.free, said.total, said.type = name, b"pretended", size, size, GPU_TYPE
        said.device_id, said.caps = None, _Caps(True, True, False, True, True)

    def memory(_: int, free: Any, total: Any) -> None:
        free[0] = total[0] = size

    def backend(_: int, _params: bytes) -> int:
        made = _Backend(
            guid=ctypes.addressof(_GUID), get_name=_c(Name, lambda _: name), free=anything, synchronize=anything,
            compute=done, event_record=anything, event_wait=anything, device=own,
        )  # fmt: skip
        _KEPT.append(made)
        return ctypes.addressof(made)

    def event(_: int) -> int:
        made = (c_void_p * 2)(own, None)
        _KEPT.append(made)
        return ctypes.addressof(made)

    buft.get_name, buft.device = _c(Name, lambda _: name), own
    buft.alloc = _c(
        CFUNCTYPE(c_void_p, c_void_p, c_size_t),
        lambda _, taken: library.ggml_backend_buffer_init(of_buft, buffer, None, taken),
    )
    buft.alignment, buft.alloc_size = _c(Number, lambda _: ALIGNMENT), _c(Sized, alloc_size)
    device.get_name = device.get_description = buft.get_name
    device.get_memory = _c(CFUNCTYPE(None, c_void_p, POINTER(c_size_t), POINTER(c_size_t)), memory)
    device.get_type = _c(CFUNCTYPE(c_int, c_void_p), lambda _: GPU_TYPE)
    device.get_props = _c(CFUNCTYPE(None, c_void_p, c_void_p), props)
    device.init_backend = _c(CFUNCTYPE(c_void_p, c_void_p, c_char_p), backend)
    device.buffer_type, device.host_buffer_type = _c(Pointer, lambda _: of_buft), _c(Pointer, lambda _: host)
    device.supports_op = _c(Asks, lambda *_: True)
    device.supports_buft = _c(Asks, lambda _, asked: asked == of_buft)
    device.offload_op = _c(Asks, offload)
    device.event_new, device.event_free, device.event_synchronize = _c(Pointer, event), anything, anything
    device.reg = ctypes.addressof(reg)
    return device


_GUID = (ctypes.c_uint8 * 16)(*range(16))


def start(path: Path, gpus: int, **asked: Any) -> Said:
    """Load a model on pretended GPUs and make a context, as a server of so many slots does; return what was logged."""
    from tests.engines.llamacpp.real import read

    said = {"n_ctx": 4096, "n_seq_max": 1, "use_extra_bufts": False, "swa_full": False, **asked}
    said.setdefault("n_outputs_max", said["n_seq_max"])
    command = [sys.executable, __file__, str(path), str(gpus), json.dumps(said)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False, errors="replace")
    if ran.returncode:
        raise RuntimeError((ran.stdout + ran.stderr)[-600:])
    return read(ran.stderr)


def fit(path: Path, free_gib: list[float], target_mib: list[int], least: int = 4096, **asked: Any) -> dict[str, Any]:
    """Return what --fit makes of a model on pretended GPUs: layers on them, of each, patterns of tensors with the
    devices they go to, and the context. `draft` is the file of a draft beside it. Throws what the engine writes where
    it does not end."""
    said = {"n_ctx": 0, "n_seq_max": 1, "use_extra_bufts": False, "swa_full": False, **asked}
    said.setdefault("n_outputs_max", said["n_seq_max"])
    said |= {"free_gib": free_gib, "fit": {"target": target_mib, "least": least, "draft": said.pop("draft", "")}}
    command = [sys.executable, __file__, str(path), str(len(free_gib)), json.dumps(said)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False, errors="replace")
    if ran.returncode:
        raise RuntimeError((ran.stdout + ran.stderr)[-600:])
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def _set(params: _Params, places: dict[str, tuple[int, str]], asked: dict[str, Any]) -> None:
    for name in places.keys() & asked.keys():
        place, kind = places[name]
        value = asked[name]
        if kind == "p":
            floats = (ctypes.c_float * 64)(*value)
            _KEPT.append(floats)
            value = ctypes.addressof(floats)
        to = {"i": c_int, "p": c_void_p, "b": ctypes.c_uint8}[kind]
        to.from_address(ctypes.addressof(params) + place).value = value


def _load(path: str, gpus: int, asked: dict[str, Any]) -> int:
    import xllamacpp.xllamacpp as loaded

    library = ctypes.CDLL(loaded.__file__)
    register(library, gpus, asked.get("free_gib"))
    for name in ("llama_model_default_params", "llama_context_default_params"):
        getattr(library, name).restype = _Params
    library.llama_model_load_from_file.restype = library.llama_init_from_model.restype = c_void_p
    library.llama_model_load_from_file.argtypes = [c_char_p, _Params]
    library.llama_init_from_model.argtypes = [c_void_p, _Params]
    of_model, of_context = library.llama_model_default_params(), library.llama_context_default_params()
    _set(of_model, _MODEL, asked)
    if "on_host" in asked:  # llama_model_tensor_buft_override: pattern and buffer type, ended by a pair of nothing
        library.ggml_backend_cpu_buffer_type.restype = c_void_p
        pattern = ctypes.create_string_buffer(asked["on_host"].encode())
        pairs = (c_void_p * 4)(ctypes.addressof(pattern), library.ggml_backend_cpu_buffer_type(), None, None)
        _KEPT.extend((pattern, pairs))
        c_void_p.from_address(ctypes.addressof(of_model) + OVERRIDES).value = ctypes.addressof(pairs)
    _set(of_context, _CONTEXT, asked)
    if "fit" in asked:
        print(json.dumps(_fit(library, path, gpus, of_model, of_context, asked["fit"])), flush=True)
        return 0
    model = library.llama_model_load_from_file(path.encode(), of_model)
    return 0 if model and library.llama_init_from_model(model, of_context) else 1


# common_fit_params of common/fit.h, as C++ calls it.
FIT = (
    "_Z17common_fit_paramsPKcP18llama_model_paramsP20llama_context_paramsPfP32llama_model_tensor_buft_overridePmjPK22"
    "common_fit_extra_model14ggml_log_level"
)
MOST_OVERRIDES, MOST_DEVICES, ERRORS = 4096, 128, 4  # room for what it writes; GGML_LOG_LEVEL_ERROR


class _Extra(Structure):
    """common_fit_extra_model."""

    _fields_ = [("path", c_void_p), ("model", c_void_p), ("context", c_void_p), ("shares_model", c_bool)]


def _fit(library: Any, path: str, gpus: int, of_model: _Params, of_context: _Params, asked: Any) -> dict[str, Any]:
    overrides, split = (c_void_p * (2 * MOST_OVERRIDES))(), (ctypes.c_float * MOST_DEVICES)()
    target = (c_size_t * MOST_DEVICES)(*[mib * 2**20 for mib in asked["target"]])
    function = getattr(library, FIT)
    function.argtypes = [
        c_char_p, POINTER(_Params), POINTER(_Params), c_void_p, c_void_p, c_void_p, ctypes.c_uint32, c_void_p, c_int
    ]  # fmt: skip
    extra = None
    if asked.get("draft"):
        copies = _Params.from_buffer_copy(of_model), _Params.from_buffer_copy(of_context)
        draft = ctypes.create_string_buffer(asked["draft"].encode())
        extra = ctypes.byref(_Extra(ctypes.addressof(draft), *map(ctypes.addressof, copies), False))
        _KEPT.extend((*copies, draft))
    status = function(path.encode(), of_model, of_context, split, overrides, target, asked["least"], extra, ERRORS)
    patterns = []
    library.ggml_backend_buft_name.restype, library.ggml_backend_buft_name.argtypes = c_char_p, [c_void_p]
    for at in range(0, 2 * MOST_OVERRIDES, 2):
        if not overrides[at]:
            break
        pattern, place = c_char_p(overrides[at]).value or b"", library.ggml_backend_buft_name(overrides[at + 1])
        patterns.append([pattern.decode(), place.decode()])
    return {
        "status": status, "n_ctx": ctypes.c_uint32.from_address(ctypes.addressof(of_context)).value,
        "n_gpu_layers": c_int.from_address(ctypes.addressof(of_model) + _MODEL["n_gpu_layers"][0]).value,
        "split": list(split)[:gpus], "overrides": patterns,
    }  # fmt: skip


if __name__ == "__main__":
    code = _load(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
    sys.stderr.flush()
    os._exit(code)
