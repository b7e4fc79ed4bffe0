"""What one operation costs, for worked examples in docstrings and for tests: `cost(silu, (4, 256))`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from oomph.tape.autograd import Gradients, Node, Target, backward, made_by, record
from oomph.tape.sizes import number
from oomph.tape.sym import Sym, new
from oomph.tape.tape import Tape

INCOMING = "incoming gradient"


class Cost(NamedTuple):
    """Bytes of tensors, not rounded: what the forward allocates, what is kept from it to its backward (inputs that
    are kept included, each storage once), and all that the backward allocates.
    """

    allocated: int
    saved: int
    backward: int


class Given(NamedTuple):
    """An argument: a tensor of a shape and dtype that wants a gradient or does not."""

    shape: tuple[int, ...]
    dtype: str = "bf16"
    trains: bool = True

    def on(self, tape: Tape) -> Sym:
        """Return it on a tape; one that trains is no leaf, so that no gradient is accumulated."""
        made = tape.empty(self.shape, self.dtype)
        if not self.trains:
            return made
        made.requires_grad = True
        return made_by(made.detach(), record("Given", (made,), lambda node, gradients, saved: [None]))


def fp32(*shape: int) -> Given:
    """Return an fp32 argument."""
    return Given(shape, "fp32")


def frozen(*shape: int) -> Given:
    """Return a bf16 argument that wants no gradient."""
    return Given(shape, trains=False)


def ids(*shape: int) -> Given:
    """Return an int64 argument: token ids, labels."""
    return Given(shape, "int64", trains=False)


def gptq_weight(tape: Tape) -> Any:
    """Return a weight of 256 inputs and 512 outputs, packed in 4 bits in two groups; allocated when it is asked for."""
    from oomph.ops.gptq import GptqWeight

    stored = (((32, 512), "int32"), ((2, 64), "int32"), ((2, 512), "fp16"), ((256,), "int32"))
    return GptqWeight(4, *(tape.empty(shape, dtype, op="given") for shape, dtype in stored))


def hqq_weight(tape: Tape) -> Any:
    """Return a weight of 256 inputs and 512 outputs, packed in 4 bits in groups of 64, with bf16 scales."""
    from oomph.ops.hqq import HqqWeight

    codes = tape.empty((1024, 64), "uint8", op="given")
    return HqqWeight((512, 256), 4, codes, tape.empty((2048, 1), "bf16", op="given"))


def torchao_weight(tape: Tape) -> Any:
    """Return a weight of 256 inputs and 512 outputs in a byte each, with fp32 scales, that passes for bf16."""
    from oomph.ops.torchao import TorchaoWeight

    codes, scales = tape.empty((512, 256), "int8", op="given"), tape.empty((512, 1), "fp32", op="given")
    return TorchaoWeight(codes, scales, "bf16")


def fp8_weight(tape: Tape) -> Any:
    """Return a weight of 256 inputs and 512 outputs in FP8, with a scale for each block of 128 times 128."""
    from oomph.ops.fp8 import Fp8Weight

    return Fp8Weight(tape.empty((512, 256), "fp8_e4m3", op="given"), tape.empty((4, 2), "fp32", op="given"))


def awq_weight(tape: Tape) -> Any:
    """Return a weight of 256 inputs and 512 outputs, packed in 4 bits in two groups."""
    from oomph.ops.awq import AwqWeight

    stored = (((256, 64), "int32"), ((2, 64), "int32"), ((2, 512), "fp16"))
    return AwqWeight(*(tape.empty(shape, dtype, op="given") for shape, dtype in stored))


def aqlm_weight(tape: Tape) -> Any:
    """Return a weight of 256 inputs and 512 outputs as codes of 16 bits for 8 numbers each."""
    from oomph.ops.aqlm import AqlmWeight

    stored = (((1, 65536, 1, 8), "bf16"), ((512, 32, 1), "int16"), ((512, 1, 1, 1), "bf16"))
    return AqlmWeight(*(tape.empty(shape, dtype, op="given") for shape, dtype in stored))


def transposed(kernel: Callable[..., Any], *others: Any) -> Callable[..., Any]:
    """Return a kernel for [B, N, S, D] as models call it: on q, k, v that lie in memory as [B, S, N, D]."""
    from oomph.ops.indexing import transpose

    return lambda *qkv: kernel(*(transpose(each, 1, 2) for each in qkv), *others)


def attending(kernel: Callable[..., Sym], *others: Any) -> Callable[..., Sym]:
    """Return the same with the output turned back, so that its gradient lies as a model's does."""
    from oomph.ops.indexing import transpose

    return lambda *qkv: transpose(transposed(kernel, *others)(*qkv), 1, 2)


def cost(operation: Callable[..., Any], *arguments: tuple[int, ...] | Given, tape: Tape | None = None) -> Cost:
    """Return what an operation on new tensors takes on a GPU, its kernels' buffers included; a bare shape is a bf16
    tensor that wants a gradient. Rates of dropout count.

    >>> cost(lambda a, b: a * b, (4, 256), frozen(4, 256))
    Cost(allocated=2048, saved=2048, backward=2048)
    """
    if tape is None:
        tape = Tape()
        tape.dropout = True
    with tape.playing():
        tensors = [(one if isinstance(one, Given) else Given(one)).on(tape) for one in arguments]
        begin = len(tape.recorder.allocations)
        outputs = _tensors(operation(*tensors))
        end = len(tape.recorder.allocations)
        saved = {kept.storage.ordinal for one in outputs for kept in _saved(one.node)}
        differentiable = [one for one in outputs if one.requires_grad]
        if differentiable:
            backward(_scalar(differentiable))
        made = [number(one.n_bytes) for one in tape.recorder.allocations]
        ops = [one.op for one in tape.recorder.allocations]
    after = sum(made[at] for at in range(end, len(made)) if ops[at] not in (INCOMING, "ones_like"))
    return Cost(sum(made[begin:end]), sum(made[at] for at in saved), after)


def _tensors(result: Any) -> list[Sym]:
    """Return the tensors among an operation's results."""
    return [one for one in (result if isinstance(result, (tuple, list)) else (result,)) if isinstance(one, Sym)]


def _saved(root: Node | None) -> Iterator[Sym]:
    """Yield what the nodes behind a tensor keep."""
    waiting: list[Target | None] = [root]
    seen: set[Target] = set()
    while waiting:
        node = waiting.pop()
        if not isinstance(node, Node) or node in seen:
            continue
        seen.add(node)
        yield from (kept for kept in node.saved if isinstance(kept, Sym))
        waiting += [edge[0] for edge in node.edges if edge is not None]


def _scalar(outputs: list[Sym]) -> Sym:
    """Return a loss whose backward hands each output a contiguous gradient and keeps none."""

    def hand_out(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
        return [new(tape, shape, dtype, op=INCOMING) for shape, dtype in node.inputs]

    tape = outputs[0].tape
    node = record("Loss", outputs, hand_out)
    made = Sym((), "fp32", (), outputs[0].storage)
    return made_by(made, node)
