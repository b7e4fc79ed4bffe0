"""The lines that llama.cpp's server logs of a model's buffers."""

from __future__ import annotations

from oomph.engines.llamacpp.kv import Window, states_of
from oomph.engines.llamacpp.served import Served
from oomph.ledger import Printed
from oomph.units import MIB


def printed(served: Served, context: int) -> tuple[Printed, ...]:
    """Return the lines that the server logs, in MiB."""
    job = served.job
    at = served.window(context, job.concurrency)
    layers = served.kv(at)
    k, v = sum(int(each.k) for each in layers), sum(int(each.v) for each in layers)
    gpus = range(len(served.shares))
    on_gpus = sum(int(served.kv_bytes(gpu, context, job.concurrency)) for gpu in gpus)
    loaded = served.loaded
    host = loaded.mapped_bytes if job.mmap else loaded.host_bytes
    rows = [
        ("model_gpu_mib", "model buffer size on GPUs", sum(loaded.gpu_bytes.values())),
        ("model_host_mib", "model buffer size on the host", host),
        ("kv_mib", "KV self size", k + v),
        ("kv_mib_k", "K", k),
        ("kv_mib_v", "V", v),
        ("kv_gpu_mib", "KV buffer size on GPUs", on_gpus),
        ("rs_mib", "RS buffer size", _states(served, job.concurrency)),
        ("output_buffer_mib", "output buffer size", int(served.output_bytes(context, job.concurrency))),
    ]
    if served.question is not None:
        of_device = served.computed(Window(*map(int, at)))
        rows.append(("compute_buffer_mib", "compute buffer size on GPUs", sum(of_device.values()) - of_device[-1]))
        rows.append(("host_buffer_mib", "compute buffer size on the host", of_device[-1]))
    lines = [Printed(name, f"{what} = {n / MIB:8.2f} MiB", n / MIB) for name, what, n in rows if n]
    if layers:
        cells = max(int(at.cells), 0)
        lines.append(Printed("kv_cells", f"{cells} cells", cells))
        lines.append(Printed("kv_layers", f"{len(layers)} layers", len(layers)))
    return tuple(lines)


def _states(served: Served, concurrency: int) -> int:
    return sum(int(states_of(alike, served.slots(concurrency))) for alike in served.recurrent.values())
