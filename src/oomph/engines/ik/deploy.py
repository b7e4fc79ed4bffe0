"""ik_llama.cpp: llama.cpp's files and places, with a cache of its own: latent attention in three ways, no windows.

All slots share one cache of `-c` tokens.
Source: ik_llama.cpp 8337e4cd (August 2026): src/llama.cpp (llama_kv_cache_init), common/common.cpp, ggml/src/ggml.c.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from oomph.engines.base import Deployment, Engine, Later, Limit, Share, flag
from oomph.engines.checks import typed
from oomph.engines.ik.builds import build_of
from oomph.engines.ik.compute import NEWEST, IkQuestion, buffers, exactly
from oomph.engines.ik.graph import GRAPHS, LATE_ONLY
from oomph.engines.ik.placing import Reckoned, divided
from oomph.engines.ik.setup import IkBuild
from oomph.engines.llamacpp import GGUF
from oomph.engines.llamacpp.deploy import (
    context_of,
    gpu_share,
    host_items,
    limits_of,
    split_of,
    taken_for_granted,
    used_gpus,
)
from oomph.engines.llamacpp.job import LlamaCppJob
from oomph.engines.llamacpp.kv import LayerBytes, Window
from oomph.engines.llamacpp.placing import GPU_ALIGNMENT, GPU_ROW, Placement, aligned, place
from oomph.engines.llamacpp.printing import printed
from oomph.engines.llamacpp.served import Served, known
from oomph.engines.serving import HOST
from oomph.errors import UnsupportedError, UsageError
from oomph.formats.gguf_types import BY_NAME, GgmlType

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.devices import Device
    from oomph.engines.llamacpp.file import File

Amount = Any  # an int or a numpy array of them

SOURCE = "ik_llama.cpp 8337e4cd"
CACHE_TYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0", "q4_1": "Q4_1",
               "iq4_nl": "IQ4_NL", "q5_0": "Q5_0", "q5_1": "Q5_1", "q6_0": "Q6_0", "q8_KV": "Q8_KV"}  # fmt: skip
MLA = (0, 1, 2, 3)
PADDING, PADDING_PLAIN = 256, 32  # tokens that a cache is padded to, with flash attention and without
MOST = 2**31


@dataclass(frozen=True)
class IkJob(LlamaCppJob):
    """A `llama-server` command of ik_llama.cpp. `mla`: 0 keeps keys and values of every head, 1 the latent and, without
    flash attention, its transposed copy, 2 and 3 the latent alone."""

    gpu_layers: int | None = flag(None, "-ngl", "--gpu-layers", "--n-gpu-layers", help="layers on the GPU")
    parallel: int | None = flag(1, "-np", "--parallel", help="slots: requests at a time")
    mla: int = flag(3, "-mla", "--mla-use", help="how latent attention is kept and computed: 0 to 3")
    attention_batch: int = flag(256, "-amb", "--attention-max-batch", help="MiB of attention scores at a time")
    fused_moe: bool = flag(True, "-fmoe/-no-fmoe", "--fused-moe/--no-fused-moe", help="gate and up in one operation")
    fused_up_gate: bool = flag(
        True, "-fug/-no-fug", "--fused-up-gate/--no-fused-up-gate", help="the same of other layers"
    )
    fused_sum: bool = flag(
        True, "-mmad/-no-mmad", "--fused-mul-multiadd/--no-fused-mul-multiadd", help="experts weighed and summed in one"
    )
    worst_graph_tokens: int = flag(0, "-wgt", "--worst-graph-tokens", help="tokens of a batch with logits; 0: all")
    k_hadamard: bool = flag(False, "-khad", "--k-cache-hadamard", help="keys are turned before they are kept")
    v_hadamard: bool = flag(False, "-vhad", "--v-cache-hadamard", help="so are values")
    repack: bool = flag(False, "-rtr", "--run-time-repack", help="weights of the host are repacked, not mapped")

    def __post_init__(self) -> None:
        """Refuse what the server would not start with, or what is not modelled."""
        typed(self)
        super().__post_init__()
        for name, value in (("-amb", self.attention_batch), ("-wgt", self.worst_graph_tokens)):
            if not 0 <= value < MOST:
                raise UsageError(f"{name} {value} is not within 0 and {MOST:,}.", "Give a whole number.")
        if self.mla not in MLA:
            raise UsageError(f"-mla {self.mla} is not known.", "Choose 0, 1, 2 or 3.")
        for spelled, said in (("-md", self.draft), ("--spec-type", self.spec_type), ("--mmproj", self.mmproj),
                              ("--lora", self.lora or self.lora_scaled),
                              ("--control-vector", self.control_vector or self.control_vector_scaled)):  # fmt: skip
            if said:
                raise UnsupportedError(
                    f"What ik_llama.cpp takes for {spelled} is not modelled.", "Leave it out: the rest is."
                )
        if self.fits:
            raise UnsupportedError("What --fit of ik_llama.cpp arrives at is not known.", "Say -ngl and -c.")
        if self.kv_unified is not None or self.swa_full:
            raise UsageError(
                "ik_llama.cpp has one cache for all slots and no windows.", "Leave -kvu and --swa-full out."
            )

    @property
    def types(self) -> tuple[GgmlType, GgmlType]:
        """The types of keys and values."""
        for name in (self.cache_type_k, self.cache_type_v):
            if name not in CACHE_TYPES:
                raise UsageError(f"A cache of {name[:20]!r} is not known.", f"Choose one of {', '.join(CACHE_TYPES)}.")
        return BY_NAME[CACHE_TYPES[self.cache_type_k]], BY_NAME[CACHE_TYPES[self.cache_type_v]]

    @property
    def unified(self) -> bool:
        """All slots share one cache."""
        return True

    def check_defaults(self) -> None:
        """Refuse an old build whose own choices are asked for."""
        if self.build is None:
            return
        build_of(self.build)
        if self.gpu_layers is None or str(self.flash_attn).lower() == "auto":
            raise UnsupportedError(
                f"Build {self.build} of ik_llama.cpp puts no layer on a GPU and uses no flash attention by itself.",
                "Give -ngl and -fa.",
            )


@dataclass(frozen=True)
class IkServed(Served):
    """A model with a job in ik_llama.cpp."""

    job: IkJob

    @cached_property
    def heads(self) -> tuple[int, int]:
        """Elements of a token's keys and values of all heads of latent attention, as the maps of the file have them."""
        return _heads(self.file)

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
        piped = gpus > 1 and all_there and job.kv_offload and not (build.late and job.patterns)
        turned = job.k_hadamard and job.types[0].block > 1, job.v_hadamard and job.types[1].block > 1
        return IkQuestion(
            loaded=self.loaded, sizes=self.sizes, hparams=self.hparams, rules=self.rules, gpus=gpus,
            layers=placed.layers, output=placed.output, kv_offload=job.kv_offload, op_offload=job.op_offload,
            pipeline=piped, mla=job.mla, attention_batch=job.attention_batch, fused_moe=job.fused_moe,
            fused_up_gate=job.fused_up_gate, fused_sum=job.fused_sum, most_outputs=job.worst_graph_tokens,
            hadamard=turned, repack=job.repack, of_ik=build,
        )  # fmt: skip

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
        by = Reckoned(len(self.sizes.kept), n_ubatch, int(at.n_ctx), used, job.mla, job.attention_batch, outputs)
        return divided(self.file, cache, job.layers_asked, self.shares, by)

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
            if self.sizes.latent and job.mla:
                # Without flash attention only -mla 1 keeps the latent in the type of keys.
                kind = key_type if job.flash or job.mla == 1 else value_type
                turned = value_type.row_bytes(kept.k - self._rope) if job.mla == 1 and not job.flash else 0
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


def deploy(found: Subject, job: IkJob, devices: Sequence[Device] = ()) -> Deployment:
    """Return a model in ik_llama.cpp's server; raises UnsupportedError for what is not modelled."""
    job.check_defaults()
    model = known(found, job.format)
    used = used_gpus(job, devices)
    mapped = replace(job, mmap=False) if job.repack else job
    served = IkServed(*model, mapped, split_of(job, used), present=bool(devices))
    most = int(served.window(1, 1).n_ctx) // (job.slots or 1)  # a slot's part of the cache, whoever else is there
    limits = limits_of(served)
    if "context" in limits:
        limits["context"] = Limit(most, "-c and -np leave so many tokens for each slot")
    context = most if job.context is None and job.ctx_size is not None else context_of(served)
    gpus = [gpu_share(served, at, used[at] if devices else None, len(used)) for at in range(len(used))]
    host = Share(HOST, host_items(served), partial(served.needs, -1), partial(served.held, -1))
    slots = "-np gives 1 slot" if (job.slots or 1) == 1 else f"-np gives {job.slots} slots that share one cache"
    kept = tuple(each for each in taken_for_granted(served, context) if not each.startswith("-ngl"))
    said = ("-ngl not given: all layers on the GPUs",) if job.layers_asked is None else ()
    return Deployment(
        shares=(*gpus, host),
        context=context,
        printed=Later(partial(printed, served, context)),
        limits=limits,
        assumptions=(*kept, *said, slots),
        warnings=_warnings(served),
    )


def _warnings(served: IkServed) -> tuple[str, ...]:
    if served.question is not None:
        return ()
    what = f"oomph does not know the graph that ik_llama.cpp builds for {served.sizes.arch}"
    return (f"{what}: its compute buffers are not counted; -amb bounds them",)


def command(model: str, job: IkJob) -> list[str]:
    """Return the words that serve a model so."""
    slots = job.slots or 1
    size = job.ctx_size if job.ctx_size is not None else job.context * slots if job.context else None
    words = ["ik_llama.cpp/build/bin/llama-server", "-m", model, *(["-c", str(size)] if size is not None else [])]
    usual = IkJob()
    for name, spelled in (
        ("batch_size", "-b"), ("ubatch_size", "-ub"), ("parallel", "-np"), ("gpu_layers", "-ngl"),
        ("override_tensor", "-ot"), ("n_cpu_moe", "-ncmoe"), ("tensor_split", "-ts"), ("flash_attn", "-fa"),
        ("cache_type_k", "-ctk"), ("cache_type_v", "-ctv"), ("mla", "-mla"), ("attention_batch", "-amb"),
        ("worst_graph_tokens", "-wgt"),
    ):  # fmt: skip
        if getattr(job, name) != getattr(usual, name):
            words += [spelled, str(getattr(job, name))]
    switches = (
        (not job.fused_moe, "-no-fmoe"),
        (not job.fused_up_gate, "-no-fug"),
        (not job.fused_sum, "-no-mmad"),
        (job.k_hadamard, "-khad"),
        (job.v_hadamard, "-vhad"),
        (job.repack, "-rtr"),
        (job.cpu_moe, "-cmoe"),
        (not job.mmap, "--no-mmap"),
    )
    return [*words, *(spelled for on, spelled in switches if on)]


ENGINE = Engine(
    name="ik_llama.cpp",
    title="ik_llama.cpp",
    source=SOURCE,
    job=IkJob,
    starts=(("ik_llama.cpp/llama-server",),),
    deploy=deploy,
    command=command,
    models=("-m", "--model"),
    harmless=frozenset({
        "-t=", "--threads=", "-tb=", "--threads-batch=", "--host=", "--port=", "-ser=", "-ger", "-gr", "-no-gr",
        "--alias=", "-a=", "--temp=", "--top-k=", "--top-p=", "--min-p=", "--numa=", "--jinja", "--no-warmup",
        "--warmup-batch",
    }),
    refused={"--swa-compress": "windows of one sequence kept apart", "-mtp": "prediction layers", "-dsa": "an indexer"},
    formats=GGUF,
)  # fmt: skip
