"""What torch.compile's forward graph saves for its backward: AOTAutograd's own min-cut partitioner, run on a CPU.

The graph is made and cut as for inductor, with its decompositions; nothing is compiled. Counted are the storages that
go from one graph to the other and are no parameter, input or view of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from oomph.job import TrainJob
from oomph.referee.models import build


def saved_bytes(raw: Mapping[str, Any], job: TrainJob) -> int:
    """Return the bytes that the compiled forward pass of a job's model saves."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.aot_autograd import make_boxed_func
    from torch._functorch.partitioners import min_cut_rematerialization_partition
    from torch._inductor.decomposition import select_decomp_table

    found: list[int] = []

    def partition(joint: Any, inputs: Any, *, num_fwd_outputs: int, **options: Any) -> Any:
        forward, backward = min_cut_rematerialization_partition(
            joint, inputs, num_fwd_outputs=num_fwd_outputs, **options
        )
        outputs = next(node for node in forward.graph.nodes if node.op == "output").args[0]
        found.append(_bytes(outputs[num_fwd_outputs:]))
        return forward, backward

    backend = aot_autograd(
        fw_compiler=lambda module, inputs: make_boxed_func(module.forward),
        bw_compiler=lambda module, inputs: make_boxed_func(module.forward),
        partition_fn=partition,
        decompositions=select_decomp_table(),
    )
    model = build(raw, job)
    torch._dynamo.reset()
    ids = torch.randint(model.config.vocab_size, (job.batch, job.seq_len))
    outputs = torch.compile(model, backend=backend, fullgraph=True, dynamic=False)(
        input_ids=ids, labels=ids, use_cache=False
    )
    outputs.loss.backward()
    return sum(found)


VIEWS = ("view", "_unsafe_view", "reshape", "t", "permute", "transpose", "expand", "unsqueeze", "squeeze", "slice",
         "select", "alias", "as_strided", "detach", "split", "getitem")  # fmt: skip


def _bytes(saved: Any) -> int:
    """Return the bytes of the storages behind saved nodes that are no placeholders."""
    bases: dict[Any, int] = {}
    for node in saved:
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            continue
        base = node
        while base.op == "call_function" and _name(base) in VIEWS and isinstance(base.args[0], torch.fx.Node):
            below = base.args[0]
            if _name(base) == "getitem" and _name(below) not in VIEWS:
                break
            base = below
        if base.op == "placeholder":
            continue
        whole = base.meta["val"]
        bases[base] = whole.numel() * whole.element_size() if isinstance(whole, torch.Tensor) else value.nbytes
    return sum(bases.values())


def _name(node: Any) -> str:
    target = node.target
    return (
        str(getattr(target, "overloadpacket", target)).rpartition(".")[2]
        if hasattr(target, "overloadpacket")
        else str(getattr(target, "__name__", target))
    )
