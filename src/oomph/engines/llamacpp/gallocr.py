"""ggml's graph allocator: where each tensor of a graph lies in the compute buffer, and so how large that buffer is.

Two questions, answered one after the other. `lifetimes`: which tensors get memory of their own, which take over that of
an operand, and when each is free again; that depends on the graph alone. `place`: which free block each of them gets,
best fit, the lowest end of the buffer last; that depends on bytes alone. Source: ggml/src/ggml-alloc.c of llama.cpp
0c1e57098 (ggml_gallocr_alloc_graph_impl, ggml_dyn_tallocr_alloc); unchanged in what it does since b2400, chunks since
b6700.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from oomph.engines.llamacpp.ggml import Tensor

# Operations that may write their result over an operand of the same layout (ggml_op_can_inplace).
IN_PLACE = frozenset(
    ("FILL", "SCALE", "ADD", "ADD_ID", "SUB", "MUL", "DIV", "SQR", "SQRT", "LOG", "UNARY", "ROPE", "RMS_NORM", "CLAMP",
     "SOFT_MAX")
)  # fmt: skip

MAX_CHUNKS = 16  # GGML_VBUFFER_MAX_CHUNKS: backend buffers that one compute buffer may consist of
ENDLESS = (2**64 - 1) // 2  # SIZE_MAX/2: the length of a chunk without a limit
LEAST = -(2**63)  # INT64_MIN

Amount = Any  # an int, or a number along contexts (along.py)
Address = tuple[int, Amount]  # a chunk, and an offset in it


class Step(NamedTuple):
    """`n_bytes` of memory are taken for a slot, or are free again but for `kept` at its start."""

    taken: bool
    buffer: int
    slot: int
    n_bytes: Amount
    kept: Amount = 0


@dataclass(slots=True)
class _Use:
    """What ggml keeps of a tensor while it goes through a graph."""

    children: int = 0
    views: int = 0
    slot: int = -1  # its memory; -1 for none, or no longer its own
    buffer: int = 0


@dataclass(slots=True)
class _Lifetimes:
    """One pass over a graph. `size(tensor, buffer)` is what a tensor takes in a buffer."""

    size: Callable[[Tensor, int], int]
    in_place: frozenset[str]
    uses: dict[Tensor, _Use] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    slots: int = 0

    def use(self, tensor: Tensor) -> _Use:
        found = self.uses.get(tensor)
        if found is None:
            found = self.uses[tensor] = _Use()
        return found

    def allocate(self, node: Tensor, buffer: int) -> None:
        """Give a tensor memory, unless it has some: that of an operand that nothing else needs, or new memory."""
        mine = self.use(node)
        if mine.slot >= 0 or node.buffer is not None or node.view is not None:
            return
        if node.op in self.in_place:
            for parent in node.src:
                theirs = self.use(parent)
                if self._may_take_over(node, parent, theirs):
                    mine.slot, mine.buffer, theirs.slot = theirs.slot, theirs.buffer, -1
                    before, after = self.size(parent, theirs.buffer), self.size(node, mine.buffer)
                    if before > after:
                        self.steps.append(Step(False, mine.buffer, mine.slot, before, after))
                    return
        mine.slot, mine.buffer = self.slots, buffer
        self.slots += 1
        self.steps.append(Step(True, buffer, mine.slot, self.size(node, buffer)))

    @staticmethod
    def _may_take_over(node: Tensor, parent: Tensor, theirs: _Use) -> bool:
        # A view has no memory of its own, so that a result never takes over the memory behind a reshaped operand.
        if theirs.slot < 0 or parent.output or (theirs.children, theirs.views) != (1, 0):
            return False
        return parent.type is node.type and parent.ne == node.ne and parent.nb == node.nb

    def release(self, tensor: Tensor) -> None:
        """Free a tensor's memory, but never that of an output."""
        mine = self.use(tensor)
        if not tensor.output:
            self.steps.append(Step(False, mine.buffer, mine.slot, self.size(tensor, mine.buffer)))
            mine.slot = -1

    def done_with(self, parent: Tensor) -> None:
        """A node has read an operand: free what now nothing else reads."""
        theirs = self.use(parent)
        theirs.children -= 1
        if theirs.children or theirs.views:
            return
        if parent.view is None:
            if theirs.slot >= 0:
                self.release(parent)
            return
        behind = self.use(parent.view)
        behind.views -= 1
        if not behind.views and not behind.children and behind.slot >= 0:
            self.release(parent.view)


def lifetimes(
    nodes: Sequence[Tensor],
    leafs: Sequence[Tensor],
    size: Callable[[Tensor, int], int],
    node_buffers: Sequence[int] | None = None,
    leaf_buffers: Sequence[int] | None = None,
    marks: Sequence[Tensor] = (),
    in_place: frozenset[str] = IN_PLACE,
) -> tuple[list[Step], list[int]]:
    """Return what a graph takes and frees, in order, and how many steps that is when each of `marks` is computed.

    `node_buffers` and `leaf_buffers` say in which buffer each tensor lies (all in 0). `in_place` are the operations
    that may write their result over an operand.
    """
    of_node, of_leaf = node_buffers or [0] * len(nodes), leaf_buffers or [0] * len(leafs)
    run = _Lifetimes(size, in_place)
    for leaf, buffer in zip(leafs, of_leaf, strict=True):
        run.allocate(leaf, buffer)
    for node, buffer in zip(nodes, of_node, strict=True):
        # A node without an operation only keeps its sources from being freed (a copy between devices).
        if node.view is not None and node.op != "NONE":
            run.use(node.view).views += 1
        if node.input:
            run.allocate(node, buffer)
        for source in node.src:
            run.use(source).children += 1
            if source.input:
                run.allocate(source, buffer)
    reached = dict.fromkeys(marks, 0)
    for node, buffer in zip(nodes, of_node, strict=True):
        for source in node.src:
            run.allocate(source, buffer)
        run.allocate(node, buffer)
        for source in node.src:
            run.done_with(source)
        if node in reached:
            reached[node] = len(run.steps)
    return run.steps, [reached[each] for each in marks]


@dataclass
class Chunk:
    """One backend buffer: its free blocks as [offset, length] in order, the last open-ended, and how far it was
    used."""

    free: list[list[Amount]]
    used: Amount = 0


@dataclass
class Buffer:
    """The allocator of one compute buffer.

    >>> buffer = Buffer(alignment=32)
    >>> a, b = buffer.take(100), buffer.take(64)
    >>> buffer.give(a, 100)
    >>> buffer.take(40), buffer.n_bytes
    ((0, 0), 192)
    """

    alignment: int
    max_chunk: int = ENDLESS
    chunks: list[Chunk] = field(default_factory=list)

    @property
    def n_bytes(self) -> Amount:
        """What the buffer has to be."""
        return sum(chunk.used for chunk in self.chunks)

    def aligned(self, n_bytes: Amount) -> Amount:
        """Return bytes rounded up to the alignment."""
        return -(-n_bytes // self.alignment) * self.alignment

    def take(self, n_bytes: Amount) -> Address:
        """Take memory; return its chunk and its offset there."""
        size = self.aligned(n_bytes)
        at, index = self._best_fit(size) or self._at_an_end(size) or self._new_chunk(size)
        chunk = self.chunks[at]
        block = chunk.free[index]
        offset = block[0]
        block[0] += size
        block[1] -= size
        if not block[1]:
            del chunk.free[index]
        chunk.used = max(chunk.used, offset + size)
        return at, offset

    def _best_fit(self, size: Amount) -> tuple[int, int] | None:
        """The smallest block that fits, the last of equals, of the last chunk that has one; never an open end."""
        found = None
        for at, chunk in enumerate(self.chunks):
            best: Amount = ENDLESS
            for index, (_, length) in enumerate(chunk.free[:-1]):
                if size <= length <= best:
                    found, best = (at, index), length
        return found

    def _at_an_end(self, size: Amount) -> tuple[int, int] | None:
        """The open end that wastes least: of one that need not grow the least left over, else the least growth."""
        found, best = None, LEAST
        for at, chunk in enumerate(self.chunks):
            if not chunk.free:
                continue
            offset, length = chunk.free[-1]
            spare = chunk.used - offset - size
            if length >= size and ((best < 0 and spare > best) or 0 <= spare < best):
                found, best = (at, len(chunk.free) - 1), spare
        return found

    def _new_chunk(self, size: Amount) -> tuple[int, int]:
        last = len(self.chunks) == MAX_CHUNKS - 1
        self.chunks.append(Chunk([[0, ENDLESS if last else max(size, self.max_chunk)]]))
        return len(self.chunks) - 1, 0

    def give(self, address: Address, n_bytes: Amount) -> None:
        """Free memory: join it to the first block that it touches, and that to the next or last."""
        at, offset = address
        size = self.aligned(n_bytes)
        free, end = self.chunks[at].free, offset + size
        for index, block in enumerate(free):
            if block[0] + block[1] == offset:
                block[1] += size
                break
            if block[0] == end:
                block[0] = offset
                block[1] += size
                index -= 1  # the block before it may touch it now
                break
        else:
            free.insert(sum(block[0] < offset for block in free), [offset, size])
            return
        if 0 <= index < len(free) - 1 and free[index][0] + free[index][1] == free[index + 1][0]:
            free[index][1] += free.pop(index + 1)[1]


State = tuple[object, ...]


@dataclass
class Memory:
    """The buffers of a graph, and where in them lies what is in use, while steps are played."""

    buffers: Sequence[Buffer]
    live: dict[int, tuple[Address, Amount]] = field(default_factory=dict)

    def play(self, steps: Sequence[Step]) -> None:
        """Take and free memory as the steps say."""
        live = self.live
        for taken, buffer, slot, n_bytes, kept in steps:
            there = self.buffers[buffer]
            if taken:
                live[slot] = there.take(n_bytes), n_bytes
                continue
            (at, offset), _ = live[slot]
            stays = there.aligned(kept)
            if not stays or stays < there.aligned(n_bytes):
                there.give((at, offset + stays), there.aligned(n_bytes) - stays)
            if kept:
                live[slot] = (at, offset), kept
            else:
                del live[slot]

    @property
    def n_bytes(self) -> list[Amount]:
        """What each buffer has to be."""
        return [buffer.n_bytes for buffer in self.buffers]

    @property
    def state(self) -> State:
        """What is free, and where what is in use lies. Where two are the same, the same steps have the same effect."""
        chunks = [chunk for buffer in self.buffers for chunk in buffer.chunks]
        free = tuple((chunk.used, *map(tuple, chunk.free)) for chunk in chunks)
        return free, tuple(self.live[slot] for slot in sorted(self.live))

    def copy(self, number: Callable[[Amount], Amount] = lambda n: n) -> Memory:
        """Return the same with every number as `number` gives it."""
        buffers = [
            replace(
                buffer,
                chunks=[
                    Chunk([[number(offset), number(length)] for offset, length in chunk.free], number(chunk.used))
                    for chunk in buffer.chunks
                ],
            )
            for buffer in self.buffers
        ]
        live = {
            slot: ((chunk, number(offset)), number(n_bytes)) for slot, ((chunk, offset), n_bytes) in self.live.items()
        }
        return Memory(buffers, live)


def place(steps: Sequence[Step], buffers: Sequence[Buffer], marks: Sequence[int] = ()) -> list[State]:
    """Play steps; afterwards `n_bytes` of each buffer is what it has to be. Returns the state after each number of
    steps in `marks`."""
    memory, states, done = Memory(buffers), [], 0
    for mark in (*marks, len(steps)):
        memory.play(steps[done:mark])
        states.append(memory.state)
        done = mark
    return states[:-1]
