"""DeepSpeed's optimizer around a model: when gradients go to buckets, are reduced, kept and used.

It takes the place of optimizers.Optimizer; what is allocated for each of its tasks is in deepspeed.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from oomph.optimizers import deepspeed
from oomph.optimizers.settings import Settings, named
from oomph.structure import STACKS
from oomph.tape.autograd import backward
from oomph.tape.sizes import Size, product, yes
from oomph.tape.sym import Sym, new

if TYPE_CHECKING:
    from oomph.job import TrainJob

LAYERS = tuple(f"{path}." for path in STACKS)
Total = Callable[[Callable[[Sym], Size]], Size]  # of what is counted of each parameter, in a model as deep as is meant


class Zero:
    """Flat copies of what trains, and the buckets and gradients of a step.

    `bucket` is how many elements one holds. `total` sums up over the parameters of a model that is as deep as it is
    meant to be; `shallow` says that the model at hand stands for a deeper one.
    """

    fuses_backward = False
    makes_at_once = False

    def __init__(self, job: TrainJob, bucket: Size, parameters: Sequence[Sym], total: Total, shallow: bool) -> None:
        self.parameters = list(parameters)
        self.settings: Settings = named(job.optimizer, job.implementation)
        self.bucket, self.overlap, self.offload = bucket, job.zero_overlap, job.zero_offload != "none"
        self.waits = job.zero_stage == 1 and not job.zero_overlap  # for the last micro-batch
        self.micro_batches, self.shallow = job.accumulation, shallow
        self.in_layers = {id(one): one.made_for.startswith(LAYERS) for one in self.parameters}
        self.trained = total(lambda one: product(one.shape))
        self.elements = (self.trained + deepspeed.ALIGNMENT - 1) // deepspeed.ALIGNMENT * deepspeed.ALIGNMENT
        largest = self._largest()
        self.flat, *self.kept = deepspeed.flattened(self.parameters, self.elements, self.offload)
        self._name()
        if self.offload:
            self.kept = [new(self.flat.tape, (largest,), self.flat.dtype, op="temp_grad_buffer_for_gpu_offload")]
        self.buffers: list[Sym] = []
        self.left: list[Sym] = []
        self.norms: list[Sym] = []
        self.partition: Sym | None = None
        self.averaged: Sym | None = None
        self.done, self.seen_layers, self.past_layers = 0, False, False
        self._empty()

    @property
    def is_last(self) -> bool:
        """Tell whether a micro-batch is the last one of a step."""
        return self.done % self.micro_batches == 0

    def _largest(self) -> Size:
        sizes = [product(one.shape) for one in self.parameters]
        largest = sizes[0]
        for size in sizes:
            largest = size if yes(size > largest) else largest
        return largest

    def _name(self) -> None:
        for one in self.kept:
            one.tape.recorder.name(one.storage.ordinal, deepspeed.ALL, "optimizer state")

    def _empty(self) -> None:
        """Begin a bucket."""
        self.filled: Size = 0
        self.in_bucket: list[Sym] = []
        self.too_large: list[Sym] = []

    def make_states(self) -> None:
        """Make the moments that an earlier step left."""
        if not self.offload:
            self.kept += deepspeed.state(self.settings, self.kept[0])
            self._name()

    def updates(self, leaf: Sym) -> bool:
        """Tell whether a leaf is one of the parameters."""
        return id(leaf) in self.in_layers

    def to_bucket(self, leaf: Sym) -> None:
        """Take a gradient when it is complete; in stage 1 it stays where it is until the last micro-batch's are."""
        if not self.updates(leaf):
            return
        if not self.buffers:
            self.buffers = deepspeed.buckets(self.bucket, leaf.dtype, leaf, self.overlap)
        if not self.waits:
            self._take(leaf)

    def _take(self, leaf: Sym) -> None:
        """Copy a gradient to the bucket, which is reduced first if it is too full; a larger one stays as it is."""
        size = product(leaf.shape)
        inside = self.in_layers[id(leaf)]
        self.seen_layers, self.past_layers = self.seen_layers or inside, self.seen_layers and not inside
        if yes(self.filled + size > self.bucket):
            self._reduce()
        if yes(size > self.bucket):
            self.too_large.append(leaf)
        else:
            leaf.grad = None
        self.filled += size
        self.in_bucket.append(leaf)

    def _reduce(self) -> None:
        """Copy what is in the bucket to where it stays, or send it to the host."""
        for leaf in self.in_bucket:
            if self.offload:
                self.norms += [deepspeed.offload(leaf.detach())] if self.is_last else []
            elif self.partition is None:
                self._fits_all_depths()
                self.partition = deepspeed.partition(self.elements, leaf, self.overlap)
                self.partition.tape.recorder.name(self.partition.storage.ordinal, deepspeed.ALL, "gradient")
        if self.offload and not self.is_last:
            self.left += self.too_large  # nothing frees them before the backward pass is over
        else:
            _free_gradients(self.too_large)
        self._empty()

    def _fits_all_depths(self) -> None:
        """Give up few layers for many where the first bucket is full in layers that are not there."""
        from oomph.fold import Unfoldable

        if self.shallow and self.past_layers and yes(self.trained > self.bucket):
            raise Unfoldable

    def backward(self, loss: Sym) -> None:
        """Play the backward pass, and what becomes of its gradients."""
        self.done, self.seen_layers, self.past_layers = self.done + 1, False, False
        backward(loss)
        if self.waits:
            if not self.is_last:
                return
            self.parameters[0].tape.recorder.mark("reduce gradients")
            for one in self.parameters:
                if one.grad is not None:
                    self._take(one)
        self.past_layers = True
        self._reduce()
        self.averaged = self.averaged or self.partition
        self.buffers.clear()
        self.partition = None
        _free_gradients(self.left)
        self.left.clear()

    def step(self) -> None:
        """Play one update."""
        if self.averaged is None:
            self.parameters[0].tape.recorder.mark("optimizer step")
            self.norms.clear()
            return
        self.kept.append(self.averaged)
        self.averaged = None
        deepspeed.step(self.settings, self.parameters, [self.kept])
        self._name()


def _free_gradients(parameters: Sequence[Sym]) -> None:
    for one in parameters:
        one.grad = None
