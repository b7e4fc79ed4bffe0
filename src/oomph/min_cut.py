"""torch.compile as an estimate: what its min-cut partitioner saves of a step's forward pass for the backward.

The graph is the tape's: tensors, which operation made each of which others, and which of them some backward asks for.
AOTAutograd saves the cheapest set from which the rest can be made again by operations that fuse: pointwise ones, views,
casts. Products, attention and sums over many numbers are never made again, nor is what a product's or attention's own
backward reads. What is left out are the partitioner's limits on long chains of fusions, and what inductor does with
buffers; so it saves as much or more: the cut is a lower bound, what eager torch saves an upper one.
Source: torch 2.13, _functorch/partitioners.py (min_cut_rematerialization_partition, get_default_op_list,
should_ban_recomputation).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from oomph.errors import UnsupportedError
from oomph.job import TrainJob
from oomph.model import Model
from oomph.structure import decoder_stack, shallow, with_layers
from oomph.tape.autograd import Node
from oomph.tape.recorder import Recorder
from oomph.tape.sizes import number
from oomph.tape.sym import Sym

# Names of nodes whose results are made again: fusible ones. Embedding is an index under inductor's decompositions.
AGAIN = frozenset({
    "Add", "AddScalar", "AddScaled", "Alias", "AsStrided", "Cat", "Clamp", "Clone", "ConstantPadNd", "Copy", "Div",
    "Embedding", "Exp", "Expand", "Expm1", "Gather", "Gelu", "Index", "IndexSelect", "Log", "Log1P", "LogSigmoid",
    "LogSoftmax", "MaskedFill", "Maximum", "Minimum", "Mul", "MulScalar", "Neg", "Permute", "Pow", "Relu", "Repeat",
    "Rsqrt", "SafeSoftmax", "Select", "Sigmoid", "Silu", "Slice", "Softmax", "Softplus", "Split", "SplitWithSizes",
    "Stack", "Sub", "Tanh", "ToCopy", "Transpose", "Unbind", "Unsqueeze", "View", "Where",
})  # fmt: skip
# Nodes that are made of fusible parts, sums among them: what their backward reads may be made again for it.
FUSED = AGAIN | {"LayerNorm", "Mean", "Nansum", "NllLoss", "Sum"}


# What the real partitioner saved beyond the cut, at most: 2 to 3 % with fused attention, 34 % of Gemma 2. Six models,
# tests/min_cut.json; docs/frameworks.md has them.
MOST_MORE = 0.34


_Flow = dict[Hashable, dict[Hashable, int]]  # what each edge of a graph still takes


class Cut(NamedTuple):
    """Bytes saved for the backward pass, parameters left out: by eager torch, and by the cheapest cut."""

    eager_bytes: int
    saved_bytes: int


@dataclass
class _Value:
    """A tensor's storage: its bytes, from what it can be made again (None: it cannot), whether a backward reads it."""

    n_bytes: int
    made_of: frozenset[int] | None = None
    read: bool = False


def min_cut(model: Model, job: TrainJob) -> Cut:
    """Return what a job's forward pass saves, eager and cut; depth is told from two shallow models.

    Raises UnsupportedError for what moves or recomputes tensors by itself.
    """
    if job.checkpointing != "none" or job.activation_offload != "none" or job.objective != "sft":
        raise UnsupportedError("oomph estimates torch.compile of plain fine-tuning alone.", "Leave the rest out.")
    layers = len(decoder_stack(model)[1].layers)
    found = shallow(model, job, layers)
    if found is None:
        return _of(model, job)
    depth, period = found
    few, more = (_of(with_layers(model, each), job) for each in (depth, depth + period))
    times = (layers - depth) // period
    return Cut(*(a + times * (b - a) for a, b in zip(few, more, strict=True)))


def _of(model: Model, job: TrainJob) -> Cut:
    from oomph.play import train_step

    found: list[Cut] = []

    def look(loss: Sym) -> None:
        if not found:
            found.append(_cut(values(loss.node, loss.tape.recorder)))

    train_step(model, replace(job, optimizer="none", steady=False, accumulation=1), at_loss=look)
    return found[0]


def values(root: Node, recorder: Recorder) -> dict[int, _Value]:
    """Return the tensors of a graph by the ordinals of their storages; parameters cost nothing."""
    found: dict[int, _Value] = {}
    read: set[int] = set()
    fixed: set[int] = set()  # read by what does not fuse: never made again
    for node in sorted(_nodes(root), key=lambda each: each.sequence):
        below = [edge[0].made.get(edge[1]) if isinstance(edge[0], Node) else edge[0].leaf.storage.ordinal
                 for edge in node.edges if edge is not None]  # fmt: skip
        sources = frozenset(one for one in below if one is not None)
        saved = {one.storage.ordinal for one in node.saved if isinstance(one, Sym)}
        read |= saved
        if node.name not in FUSED:
            fixed |= saved
        for ordinal in node.made.values():
            if ordinal not in found and ordinal not in sources:
                again = sources if node.name in AGAIN else None
                found[ordinal] = _Value(_bytes(recorder, ordinal), again)
        for ordinal in sources | saved:
            found.setdefault(ordinal, _Value(_bytes(recorder, ordinal)))
    for ordinal in read:
        found[ordinal].read = True
    for ordinal in fixed:
        found[ordinal].made_of = None
    return found


def _nodes(root: Node) -> Iterator[Node]:
    seen, stack = {root}, [root]
    while stack:
        node = stack.pop()
        yield node
        for edge in node.edges:
            if edge is not None and isinstance(edge[0], Node) and edge[0] not in seen:
                seen.add(edge[0])
                stack.append(edge[0])


def _bytes(recorder: Recorder, ordinal: int) -> int:
    return 0 if recorder.why.get(ordinal) == "parameter" else number(recorder.allocations[ordinal].n_bytes)


def _cut(found: dict[int, _Value]) -> Cut:
    """Return what is read as it is, and the cheapest cut between what cannot be made again and what is read."""
    endless = 1 + sum(value.n_bytes for value in found.values())
    source, sink = -1, -2
    flow: _Flow = {source: {}, sink: {}}

    def join(a: Hashable, b: Hashable, capacity: int) -> None:
        flow.setdefault(a, {})[b] = capacity
        flow.setdefault(b, {}).setdefault(a, 0)

    for ordinal, value in found.items():
        join((ordinal, False), (ordinal, True), value.n_bytes)
        if value.made_of is None:
            join(source, (ordinal, False), endless)
        for below in value.made_of or ():
            join((below, True), (ordinal, False), endless)
        if value.read:
            join((ordinal, True), sink, endless)
    return Cut(sum(value.n_bytes for value in found.values() if value.read), _max_flow(flow, source, sink))


def _max_flow(left: _Flow, source: Hashable, sink: Hashable) -> int:
    """Return the largest flow, which is the cheapest cut (Edmonds and Karp); `left` is what each edge still takes.

    >>> _max_flow({"s": {"a": 3}, "a": {"t": 2, "s": 0}, "t": {"a": 0}}, "s", "t")
    2
    """
    total = 0
    while True:
        before = {source: source}
        queue = deque([source])
        while queue and sink not in before:
            here = queue.popleft()
            for there, capacity in left[here].items():
                if capacity and there not in before:
                    before[there] = here
                    queue.append(there)
        if sink not in before:
            return total
        path, here = [], sink
        while here != source:
            path.append((before[here], here))
            here = before[here]
        most = min(left[a][b] for a, b in path)
        for a, b in path:
            left[a][b] -= most
            left[b][a] += most
        total += most
