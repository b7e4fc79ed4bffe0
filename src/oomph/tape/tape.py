"""The state a playing job has: its recorder, whether gradients are recorded, hooks on saved tensors, autocast."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal
from weakref import ReferenceType

from oomph.tape.offload import Offload
from oomph.tape.recorder import Recorder
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym, new

if TYPE_CHECKING:
    from oomph.tape.activation_offload import Streamed
    from oomph.tape.autograd import Task
    from oomph.tape.selective import Selection
    from oomph.tape.turns import Turns

Pack = Callable[[Sym], Any]


# Whose events: a GPU's, with the buffers its kernels allocate inside an operation; a CPU's, without them; or those that
# a trace sees, under which torch also never adds gradients of a tensor that is used twice in place.
Place = Literal["gpu", "cpu", "trace"]


class Tape:
    """Where symbolic tensors live while a job plays.

    `on` says whose events are played, see Place.
    """

    def __init__(self, on: Place = "gpu") -> None:
        self.recorder = Recorder()
        self.on = on
        self.scope = ""  # the path of the module at work
        self.grad_enabled = True
        self.next_sequence = 0
        self.pack_hooks: list[Pack | None] = []  # None: what is saved is left alone
        self.autocast: Autocast | None = None
        self.autocast_paused = False  # inside an operation that autocast has prepared
        self.tower_kernel = ""  # what towers attend with where it is not that of all
        self.kernel = "flash"
        self.mixers: frozenset[str] = frozenset()  # packages for layers that keep a state: words of job.mixers
        self.experts = "grouped_mm"  # the form in which experts are computed
        self.routing = "balanced"  # how tokens are assumed to be spread, where that changes a byte
        self.keeps_softmax_inputs = False  # as torch up to 1.10
        self.release = "5"  # whose generate() runs
        self.heads_of_4_51 = False  # a cache of views, and copies of heads for torch's attention
        self.repeats_keys = False  # for flash-attn, as some classes of transformers up to 4.47
        self.keeps_inputs = False  # of 4-bit maps, as long as the graph: bitsandbytes up to 0.42
        self.scratch: Sym | None = None  # a buffer that weights share while they are dequantised, once there is one
        self.offload: Offload | None = None  # Unsloth's checkpoints, once there is one
        self.streamed: Streamed | None = None  # what moves saved tensors to the host, once there is one
        self.selection: Selection | None = None  # what the checkpointed call at work keeps
        self.tasks: list[Task] = []  # runs of the backward engine, the inner one last
        self.stays: Literal["", "head", "loss"] = ""  # what saves nothing that is moved: the head, or all from it on
        self.head = ""  # what happens to logits: "scaled", "softcap" (bounded by a tanh and scaled), or that "at once"
        self.loaded = ""  # the dtype that the model was loaded in, which its buffers keep
        self.loss = "hf"  # which of oomph.losses the end of the model is
        self.scored: tuple[str, ...] = ("entropy", "is_top1")  # what TRL's fused head is asked for; these by SFTTrainer
        self.prompt_len: Size = 0  # tokens at the start of each sequence that are not scored
        self.images, self.image_size = 0, ""  # of each sequence, and how large they are
        self.audio = 0  # seconds of a recording in each sequence
        self.holes = True  # whether a padding mask has any
        self.sequences: Size = 0  # that lie behind each other in each row; 0: no position ids come along
        self.cu_seq_lens: Sym | None = None  # where each begins, if the batch says so
        self.seq_idx: Sym | None = None  # and to which sequence each token belongs
        # What flash-linear-attention's functions remember of arguments that they were called with last.
        self.memos: dict[str, deque[tuple[Sym, Sym]]] = {}
        # Tells by its path whether a weight waits in the machine's memory, and comes when its module is called.
        self.waits: Callable[[str], bool] = lambda path: False
        self.adapters = True  # whether they are switched on
        self.turns: Turns = "all"  # of loops over tokens, that are played
        self.work = "forward"  # what the pass through the layers is for
        self.at_layer = 0  # the one at work
        self.dropout = False  # whether anything is dropped out
        self.training = True  # whether modules are in train mode
        # Variables of a loop written out in one function: what each holds lives until it gets another value.
        self.variables: dict[str, Any] = {}
        self.shared: dict[str, Sym] = {}  # what many blocks read, by its path in the model
        self.presents: list[Sym] | None = None  # what layers leave for a cache that is kept whole (GPTBigCode)
        self.inputs_train = False  # whether embedded inputs want gradients though their table may be frozen
        self.reentrant = False  # whether layers are checkpointed so that they train only if their input does
        # Where each layer's operations begin and where the last layer's end, by sequence number, and what lies before
        # that: the backward pass crosses them in reverse, which is how its segments are marked.
        self.borders: list[tuple[int, str]] = []
        self.captured: list[Sym] | None = None  # hidden states before, between and after layers, where they are wanted
        self.at_loss: Callable[[Sym], None] | None = None  # called with a loss before its backward pass
        # Called with a node's sequence number before it runs backward.
        self.on_node: Callable[[int], None] | None = None
        # Called with a leaf when its gradient comes, before it is accumulated, as a tensor's hook is.
        self.before_gradient: Callable[[Sym], None] | None = None
        # Called with a leaf when its gradient is complete, as a post-accumulate-grad hook is.
        self.on_gradient: Callable[[Sym], None] | None = None

    def empty(self, shape: Sequence[Size], dtype: str, op: str = "empty") -> Sym:
        """Return a new tensor that nothing made: an input, a mask, a temporary."""
        return new(self, shape, dtype, op=op)

    def parameter(self, shape: Sequence[Size], dtype: str, requires_grad: bool = True) -> Sym:
        """Return a leaf that may want a gradient."""
        made = new(self, shape, dtype, op="parameter")
        made.requires_grad = requires_grad
        self.note(made, "parameter")
        return made

    def note(self, tensor: Sym, why: str) -> Sym:
        """Say why a tensor is alive, where it is more than a temporary; return it."""
        self.recorder.why[tensor.storage.ordinal] = why
        return tensor

    def keep_tower_kernel(self) -> None:
        """Run attention with the eager kernel from now on, but that of a tower with the kernel that was asked for: its
        class can use it.
        """
        if self.kernel != "eager":
            self.kernel, self.tower_kernel = "eager", self.kernel

    @contextmanager
    def in_tower(self) -> Iterator[None]:
        """Run attention as a tower does."""
        outer, self.kernel = self.kernel, self.tower_kernel or self.kernel
        try:
            yield
        finally:
            self.kernel = outer

    def begin_layer(self, index: int, path: str) -> None:
        """Begin the forward pass of a decoder layer."""
        self.recorder.mark(f"layer {index} {self.work}")
        self._border(f"layer {index - 1}" if index else "embedding")
        self.at_layer = index
        self.scope = path

    def hand_out(self, hidden_states: Sym) -> None:
        """Keep hidden states where a caller asked for those of all layers."""
        if self.captured is not None:
            self.captured.append(hidden_states)

    def hand_out_last(self, hidden_states: Sym) -> None:
        """Put the model's output in the place of the last layer's, as transformers' capture_outputs does."""
        if self.captured is not None:
            self.captured[-1] = hidden_states

    def end_layers(self) -> None:
        """Begin what follows the last layer."""
        self.recorder.mark(f"head {self.work}")
        self._border(f"layer {self.at_layer}")
        self.scope = ""

    def _border(self, before: str) -> None:
        if self.grad_enabled:
            of_another = f"{self.work}_" if self.work != "forward" else ""
            self.borders.append((self.next_sequence, f"{before} {of_another}backward"))

    @contextmanager
    def no_grad(self) -> Iterator[None]:
        """Record nothing for a backward pass inside."""
        with self._grad_mode(False):
            yield

    @contextmanager
    def enable_grad(self) -> Iterator[None]:
        """Record operations for a backward pass inside, also within another one."""
        with self._grad_mode(True):
            yield

    @contextmanager
    def _grad_mode(self, enabled: bool) -> Iterator[None]:
        before, self.grad_enabled = self.grad_enabled, enabled
        try:
            yield
        finally:
            self.grad_enabled = before

    @contextmanager
    def without_autocast(self) -> Iterator[None]:
        """Cast nothing inside."""
        before, self.autocast_paused = self.autocast_paused, True
        try:
            yield
        finally:
            self.autocast_paused = before

    @contextmanager
    def playing(self) -> Iterator[None]:
        """Switch the cycle collector off: only reference counts may end a tensor's life."""
        was_on = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if was_on:
                gc.enable()


class Autocast:
    """torch.autocast: the low dtype, and the cache of weights cast to it, kept until the context ends."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.casts: dict[int, tuple[ReferenceType[Sym], Sym]] = {}


@contextmanager
def autocast(tape: Tape, dtype: str | None) -> Iterator[None]:
    """Play the inside under autocast to `dtype`; None changes nothing."""
    if dtype is None:
        yield
        return
    before, tape.autocast = tape.autocast, Autocast(dtype)
    try:
        yield
    finally:
        tape.autocast = before
