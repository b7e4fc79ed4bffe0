"""A model in ik_llama.cpp's server: where it lies, and what its cache and its graph take.

Source: llama_kv_cache_init and llm_prepare_mla of src/llama.cpp, ggml/src/ggml.c, ik_llama.cpp 8337e4cd.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

from oomph.engines.ik.builds import build_of
from oomph.engines.ik.compute import NEWEST, IkQuestion, buffers, exactly
from oomph.engines.ik.graph import GRAPHS, LATE_ONLY
from oomph.engines.ik.job import IkJob
from oomph.engines.ik.placing import Reckoned, divided, without_experts
from oomph.engines.ik.setup import IkBuild, of_both, of_keys
from oomph.engines.llamacpp.deploy import context_of
from oomph.engines.llamacpp.job import EXPERTS
from oomph.engines.llamacpp.kv import LayerBytes, Window
from oomph.engines.llamacpp.placing import GPU_ALIGNMENT, GPU_ROW, Overrides, Placement, aligned, place
from oomph.engines.llamacpp.served import Known, Served
from oomph.engines.llamacpp.sizes import Metadata
from oomph.errors import UnsupportedError, UsageError
from oomph.formats.gguf_types import GgmlType

if TYPE_CHECKING:
    from oomph.engines.llamacpp.file import File, FileTensor
    from oomph.header import Header

Amount = Any  # an int or a numpy array of them


LATENT = frozenset({"deepseek2"})
LATENT_MAP = re.compile(r"attn_(kv|k|v)_b\.weight$")
PADDING, PADDING_PLAIN = 256, 32  # tokens that a cache is padded to, with flash attention and without


def as_kept(model: Known, header: Header | None) -> Known:
    """Return a model with one latent vector a token, also of a file that llama.cpp keeps whole heads of.

    Files of before April 2025 say nothing of attention.key_length_mla, which llama.cpp goes by.
    """
    sizes = model.sizes
    if header is None or header.kind != "gguf" or sizes.arch not in LATENT or sizes.latent or not sizes.kept:
        return model
    said = Metadata(header.metadata, sizes.arch, model.file.layers)
    rank, rope = said.number("attention.kv_lora_rank"), said.number("rope.dimension_count")
    count = len(sizes.kept)
    sizes = replace(sizes, kept=(replace(sizes.kept[0], k=rank + rope, v=0),) * count, latent=True)
    if model.hparams is None:
        return model._replace(sizes=sizes)
    one, keys, values = (1,) * count, (rank + rope,) * count, (rank,) * count
    hparams = replace(model.hparams, n_head_kv=one, head_k=keys, head_v=values, rope_dim=rope)
    return model._replace(sizes=sizes, hparams=hparams)


@dataclass(frozen=True)
class IkServed(Served):
    """A model with a job in ik_llama.cpp."""

    job: IkJob

    @cached_property
    def heads(self) -> tuple[int, int]:
        """Elements of a token's keys and values of all heads of latent attention, as the maps of the file have them."""
        return _heads(self.file)

    @cached_property
    def mla(self) -> int:
        """The -mla in force: newest builds take 3 where some layers of a latent model lie with the host."""
        asked = self.job.layers_asked
        some = asked is not None and 0 < asked < len(self.sizes.kept)
        return 3 if some and self.sizes.latent and self.job.build is None else self.job.attention.mla

    @cached_property
    def question(self) -> IkQuestion | None:
        """What the compute buffers are asked for, in no context yet; None where there is no graph of the model."""
        number = self.job.build
        return self.asked(NEWEST if number is None else build_of(number))

    def asked(self, build: IkBuild) -> IkQuestion | None:
        """Return the same of a build."""
        arch = self.sizes.arch
        if self.hparams is None or arch not in GRAPHS or (arch in LATE_ONLY and not build.late):
            return None
        job, placed = self.job, self.placed
        used = self.present or max(placed.output, *placed.layers) >= 0
        gpus = len(self.shares) if used else 0
        all_there = min(placed.layers) >= 0 and placed.output >= 0
        piped = gpus > 1 and all_there and job.kv_offload and not (build.late and job.ordered)
        turned = job.k_hadamard and job.types[0].block > 1, job.v_hadamard and job.types[1].block > 1
        return IkQuestion(
            loaded=self.loaded, sizes=self.sizes, hparams=self.hparams, rules=self.rules, gpus=gpus,
            layers=placed.layers, output=placed.output, kv_offload=job.kv_offload, op_offload=job.op_offload,
            pipeline=piped, mla=self.mla, attention_batch=job.attention.attention_batch,
            fused_moe=job.attention.fused_moe,
            fused_up_gate=job.fused_up_gate, fused_sum=job.fused_sum, most_outputs=job.worst_graph_tokens,
            hadamard=turned, repack=job.repack, of_ik=build,
        )  # fmt: skip

    @cached_property
    def _overrides(self) -> Overrides:
        least = max((device for _, device in self.job.ordered), default=-1) + 1
        if least > len(self.shares):
            raise UsageError(f"-ot names CUDA{least - 1}, of {len(self.shares)} GPUs.", "They are numbered from 0.")
        gpus, asked = len(self.shares), self.job.layers_without_experts
        layers = without_experts(self.file, self.placed, gpus, asked, len(self.sizes.kept))
        return (*self.job.ordered, *((re.compile(rf"blk\.{layer}{EXPERTS}"), -1) for layer in layers))

    @cached_property
    def placed(self) -> Placement:
        """The device of each layer: the output is the last that goes to a GPU."""
        job, layers = self.job, max(self.file.layers, len(self.sizes.kept))
        if len(self.shares) < 2 or job.build is not None or self.hparams is None:
            return place(layers, job.layers_asked, self.shares, output_first=False)
        at = self.window(context_of(self), job.concurrency)
        kept = {each.layer: int(each.k + each.v) for each in self.kv(at)}
        last = kept.get(len(self.sizes.kept) - 1, 0)
        cache = [kept.get(il, last if il >= len(self.sizes.kept) else 0) for il in range(layers)]
        n_ubatch, used = job.ubatch_size or job.batch_size, self.hparams.n_expert_used
        outputs = job.worst_graph_tokens or n_ubatch
        by = Reckoned(
            len(self.sizes.kept), n_ubatch, int(at.n_ctx), used, self.mla, job.attention.attention_batch, outputs
        )
        return divided(self.file, cache, job.layers_asked, self.shares, by)

    @cached_property
    def made(self) -> Mapping[int, int]:
        """Bytes of the maps of latent attention that are made of others when the model is loaded, by device."""
        of_layer: dict[int, dict[str, tuple[FileTensor, int]]] = {}
        for tensor, at in self.loaded.tensors:
            if tensor.layer >= 0 and (found := LATENT_MAP.search(tensor.name)):
                of_layer.setdefault(tensor.layer, {})[found[1]] = tensor, at
        taken: dict[int, int] = {}
        for maps in of_layer.values():
            if "kv" not in maps and self.mla != 1 and {"k", "v"} <= maps.keys():
                (k, at), (v, _) = maps["k"], maps["v"]
                heads, value, rank = v.shape
                rows = heads * (value + prod(k.shape) // (heads * rank))
                taken[at] = taken.get(at, 0) + of_both(k.type, v.type).tensor_bytes((rows, rank))
            elif "kv" in maps and "k" not in maps and self.mla:
                (both, at), (_, values) = maps["kv"], self.heads
                rows, rank = both.shape
                keys = of_keys(both.type).tensor_bytes((rows - values, rank))
                taken[at] = taken.get(at, 0) + keys + both.type.tensor_bytes((values, rank))
        return taken

    def computed(self, at: Window) -> Mapping[int, int]:
        """Return the compute buffer of each GPU, and of the host (-1), in a context; {} where there is no graph."""
        return buffers(self.question, int(at.n_ctx)) if self.question is not None else {}

    def compute_bytes(self, device: int, context: Amount, concurrency: Amount) -> Amount:
        """Return the compute buffer of a device; 0 where there is no graph of the model."""
        asked = self.question
        if asked is None or device >= asked.gpus:
            return 0 * (context * concurrency)
        return exactly(asked, device, self.window(context, concurrency).n_ctx)

    def window(self, context: Amount, concurrency: Amount) -> Window:
        """Return the context: of all slots together, as many tokens for each."""
        slots = self.slots(concurrency)
        to = PADDING if self.job.flash else PADDING_PLAIN
        if self.job.ctx_size is not None:
            asked = (self.job.ctx_size or self.sizes.n_ctx_train) + 0 * (context * concurrency)
        else:
            asked = context * slots
        n_ctx = aligned(asked, to)
        return Window(n_ctx, n_ctx, 1 + 0 * n_ctx, slots)

    def kv(self, at: Window) -> list[LayerBytes]:
        """Return what each layer's keys and values take."""
        return [LayerBytes(layer, False, k, v) for layer, k, v, _ in self._tensors(at)]

    def kv_bytes(self, device: int, context: Amount, concurrency: Amount) -> Amount:
        """Return what keys and values take on a device; a GPU's buffer pads quantised rows and aligns both."""
        total = 0 * (context * concurrency)
        key_type, value_type = self.job.types
        for layer, k, v, rows in self._tensors(self.window(context, concurrency)):
            if self.device(layer) == device:
                total = total + (_on_gpu(k, key_type, rows) + _on_gpu(v, value_type, 0) if device >= 0 else k + v)
        return total

    def _tensors(self, at: Window) -> Iterator[tuple[int, Amount, Amount, int]]:
        """Yield each layer with the bytes of its keys and of its values, and the elements of a row of keys."""
        job, (key_type, value_type) = self.job, self.job.types
        for layer, kept in enumerate(self.sizes.kept):
            if not kept.k:
                continue
            if self.sizes.latent and self.mla:
                # Without flash attention only -mla 1 keeps the latent in the type of keys.
                kind = key_type if job.flash or self.mla == 1 else value_type
                turned = value_type.row_bytes(kept.k - self._rope) if self.mla == 1 and not job.flash else 0
                yield layer, at.cells * kind.row_bytes(kept.k), at.cells * turned, kept.k
                continue
            k, v = self.heads if self.sizes.latent else (kept.k, kept.v)
            row = self._head(layer, k)
            # Values are one long row.
            values = at.cells * (value_type.row_bytes(v) - value_type.row_extra) + value_type.row_extra
            yield layer, at.cells * (k // row) * key_type.row_bytes(row), values, row

    @cached_property
    def _rope(self) -> int:
        """Return the width of the rotary key beside the latent."""
        norm = next((t for t in self.file.tensors if t.name.endswith("attn_kv_a_norm.weight")), None)
        latent = next((each.k for each in self.sizes.kept if each.k), 0)
        if norm is None:
            raise UnsupportedError("How wide the latent is, is not told by the file.", "Use -mla 3 -fa on.")
        return latent - norm.shape[-1]

    @cached_property
    def _norms(self) -> dict[int, int]:
        """Elements of the norms of one head's keys, by layer, where there are such."""
        found = (each for each in self.file.tensors if each.name.endswith(".attn_k_norm.weight"))
        return {each.layer: each.shape[0] for each in found if len(each.shape) == 1}

    def _head(self, layer: int, width: int) -> int:
        """Return the elements of one head's keys: a row of the tensor."""
        head = self._norms.get(layer, HEAD)
        return head if width % head == 0 else width


HEAD = 128  # of nearly every model; what a row's length changes is bytes of padding at the end of each layer


def _heads(file: File) -> tuple[int, int]:
    """Return the elements of keys and values of all heads: rows of the query map, columns of the output map."""
    found: dict[str, int] = {}
    for tensor in file.tensors:
        name = tensor.name.split(".", 2)[-1]
        if name in ("attn_q_b.weight", "attn_q.weight"):
            found.setdefault("k", tensor.shape[0])
        elif name == "attn_output.weight":
            found.setdefault("v", tensor.shape[1])
    if len(found) != 2:
        raise UnsupportedError("The heads of latent attention are not told by the file.", "Use -mla 3.")
    return found["k"], found["v"]


def _on_gpu(n_bytes: Amount, kind: GgmlType, row: int) -> Amount:
    short = -row % GPU_ROW if kind.block > 1 and row else 0
    return aligned(n_bytes + (kind.row_bytes(short) if short else 0), GPU_ALIGNMENT)
