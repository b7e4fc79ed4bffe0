"""ggml's scheduler: which backend computes each node of a graph, where the graph is split, what is copied between them.

Source: ggml/src/ggml-backend.cpp of llama.cpp 0c1e57098 (ggml_backend_sched_split_graph), passes 1 to 6. Backends are
those of NVIDIA GPUs and the CPU, the CPU last; each computes every operation of these graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from oomph.engines.llamacpp import cuda, ggml
from oomph.engines.llamacpp.ggml import Graph, Tensor

VIEWS = frozenset(("VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE"))
OFFLOAD_FROM = 32  # tokens: from here on a GPU copies weights in from the host (GGML_OP_OFFLOAD_MIN_BATCH)
COPIES = 4  # GGML_SCHED_MAX_COPIES: batches under way at a time with pipeline parallelism
MAX_SOURCES = 10  # GGML_MAX_SRC


@dataclass
class Scheduled:
    """A graph as the allocator gets it: nodes and leafs with the number of the backend each lies on."""

    nodes: list[Tensor] = field(default_factory=list)
    node_backends: list[int] = field(default_factory=list)
    leafs: list[Tensor] = field(default_factory=list)
    leaf_backends: list[int] = field(default_factory=list)
    n_splits: int = 0

    def node(self, tensor: Tensor, backend: int) -> None:
        """Add a node."""
        self.nodes.append(tensor)
        self.node_backends.append(backend)

    def leaf(self, tensor: Tensor, backend: int) -> None:
        """Add a leaf."""
        self.leafs.append(tensor)
        self.leaf_backends.append(backend)


@dataclass
class Split:
    """Nodes that one backend computes in a row, and what has to be copied there first."""

    backend: int
    start: int
    inputs: list[Tensor] = field(default_factory=list)
    end: int = 0


@dataclass
class Scheduler:
    """One pass over a graph. `devices` are those of the backends in order of preference, the CPU last.

    `n_copies` batches are under way; `copies_unused`: inputs that no node reads have copies too. `fused`: GPUs
    keep operands of kernels that do several nodes at once.
    """

    devices: Sequence[str]
    op_offload: bool = True
    n_copies: int = 1
    copies_unused: bool = True
    fused: bool = False
    on: dict[Tensor, int] = field(default_factory=dict)
    copies: dict[tuple[Tensor, int], list[Tensor]] = field(default_factory=dict)

    @property
    def cpu(self) -> int:
        """The CPU's backend."""
        return len(self.devices) - 1

    def schedule(self, graph: Graph) -> Scheduled:
        """Assign backends, split, add copies; the graph's nodes read the copies afterwards."""
        if len(self.devices) == 1:
            done = Scheduled(graph.nodes, [0] * len(graph.nodes), graph.leafs, [0] * len(graph.leafs), 1)
            return done
        self._assign(graph)
        used = {source for node in graph.nodes for source in node.src}
        splits = self._split(graph)
        inputs = [leaf for leaf in graph.leafs if leaf.input and (self.copies_unused or leaf in used)]
        if self.n_copies > 1:
            self._copy_inputs(inputs)
        return self._copied(graph, splits, inputs)

    # Passes 1 to 4

    def _assign(self, graph: Graph) -> None:
        for tensor in (*graph.leafs, *graph.nodes):
            if tensor.pinned is not None:
                self.on[tensor] = self.devices.index(tensor.pinned)
            elif (found := self._by_place(tensor)) is not None:
                self.on[tensor] = found
        computed = [node for node in graph.nodes if node.op not in VIEWS]
        for skip_cpu in (True, False):
            self._expand(computed, skip_cpu)
            self._expand(computed[::-1], skip_cpu)
        for node in computed:
            if node not in self.on:
                self.on[node] = self._most_inputs(node)
        for node in graph.nodes:
            if node not in self.on and node.view is not None and node.view in self.on:
                self.on[node] = self.on[node.view]
            for source in node.src:
                if source not in self.on:
                    behind = source.view
                    self.on[source] = self.on[behind] if behind is not None else self.on.get(node, 0)
            self.on.setdefault(node, 0)

    def _by_place(self, tensor: Tensor) -> int | None:
        """Where a tensor lies, or where the weights of its operation lie."""
        device = tensor.owner.buffer
        if device is not None:
            return self.devices.index(device)
        if tensor.input:
            return self.cpu
        if tensor.op in ("ROPE", "FLASH_ATTN_EXT"):
            return None
        for source in tensor.src:
            if source.weight:
                assert source.buffer is not None
                place = self.devices.index(source.buffer)
                return 0 if place == self.cpu and self._offloads(tensor) else place
        return None

    def _offloads(self, tensor: Tensor) -> bool:
        if not self.op_offload or tensor.op == "GET_ROWS":
            return False
        ne = tensor.ne
        rows = {"MUL_MAT": ne[1], "MUL_MAT_ID": ne[2], "ROPE": ne[2]}.get(tensor.op, ne[1] * ne[2] * ne[3])
        return rows >= OFFLOAD_FROM

    def _expand(self, nodes: Sequence[Tensor], skip_cpu: bool) -> None:
        current: int | None = None
        for node in nodes:
            found = self.on.get(node)
            if found is not None:
                current = None if skip_cpu and found == self.cpu else found
            elif current is not None:
                self.on[node] = current

    def _most_inputs(self, node: Tensor) -> int:
        """The backend that can read most of a node's operands where they are, the first of equals."""
        counts = [
            sum(self._readable(s, b) for s in node.src if s in self.on or s.view in self.on)
            for b in range(len(self.devices))
        ]
        return counts.index(max(counts))

    def _readable(self, tensor: Tensor, backend: int) -> bool:
        """Whether a backend reads a tensor where it is: a GPU its own memory, the CPU what is on the host."""
        if tensor.owner.buffer is not None:
            return self.devices.index(tensor.owner.buffer) == backend
        found = self.on.get(tensor)
        if found is None and tensor.view is not None:
            found = self.on.get(tensor.view)
        return found == backend

    # Passes 5 and 6

    def _split(self, graph: Graph) -> list[Split]:
        first = next((i for i, node in enumerate(graph.nodes) if node.op not in VIEWS), 0)
        splits = [Split(self.on[graph.nodes[first]], 0)]
        for i in range(first, len(graph.nodes)):
            node, current = graph.nodes[i], splits[-1]
            if node.op in VIEWS:
                continue
            if self.on[node] != current.backend or (current.inputs and self._begins(node, current)):
                current.end = i
                current = Split(self.on[node], i)
                splits.append(current)
            for j, source in enumerate(node.src):
                self._meet(source)
                if self.on[source] != current.backend and not self._readable(source, current.backend):
                    if (source, current.backend) not in self.copies:
                        self._copy(source, current.backend)
                        current.inputs.append(source)
                    node.src[j] = self.copies[source, current.backend][0]
        splits[-1].end = len(graph.nodes)
        return splits

    def _meet(self, source: Tensor) -> None:
        """Take note of an operand, in the order of the graph."""

    def _begins(self, node: Tensor, current: Split) -> bool:
        """Whether a node begins a split: it reads weights of another device, so that the last ones' memory is used
        again."""
        here = current.backend
        return any(s.weight and self.on[s] != here and not self._readable(s, here) for s in node.src)

    def _copy(self, source: Tensor, backend: int) -> None:
        made = []
        for _ in range(self.n_copies):
            copy = ggml.Tensor("NONE", source.type, source.ne, source.nb, name=f"{source.name}#copy")
            copy.input = copy.output = self.n_copies > 1
            made.append(copy)
        self.copies[source, backend] = made

    def _copy_inputs(self, inputs: Sequence[Tensor]) -> None:
        """Make as many of each input of the whole graph as there are batches under way."""
        for leaf in inputs:
            others = [ggml.Tensor("NONE", leaf.type, leaf.ne, leaf.nb) for _ in range(self.n_copies - 1)]
            self.copies[leaf, self.on[leaf]] = [leaf, *others]
            for each in (leaf, *others):
                each.input = each.output = True

    def _copied(self, graph: Graph, splits: Sequence[Split], inputs: Sequence[Tensor]) -> Scheduled:
        """The graph with what is copied at the start of each split; every copy is a leaf where there are several."""
        done = Scheduled(n_splits=len(splits))
        for split in splits:
            for source in split.inputs:
                kept = ggml.Tensor("NONE", source.type, source.ne, source.nb, [source], view=source.owner)
                done.node(kept, self.on[source])
                done.node(self.copies[source, split.backend][0], split.backend)
            nodes = graph.nodes[split.start : split.end]
            kept_until = cuda.kept_until(nodes) if self.fused and split.backend != self.cpu else {}
            for node in nodes:
                done.node(node, self.on[node])
                keep = kept_until.get(node, [])
                for at in range(0, len(keep), MAX_SOURCES):
                    first, some = keep[at], keep[at : at + MAX_SOURCES]
                    kept = ggml.Tensor("NONE", first.type, first.ne, first.nb, some, view=first.owner)
                    done.node(kept, split.backend)
        if self.n_copies > 1:
            for source in inputs:
                for copy in self.copies[source, self.on[source]]:
                    done.leaf(copy, self.on[source])
            for split in splits:
                for source in split.inputs:
                    for copy in self.copies[source, split.backend]:
                        done.leaf(copy, split.backend)
        for leaf in graph.leafs:
            done.leaf(leaf, self.on[leaf])
        return done
