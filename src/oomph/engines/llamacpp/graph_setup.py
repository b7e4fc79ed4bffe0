"""What llama.cpp builds a graph from: a file's tensors and where they lie, the sizes beside them, the context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from oomph.formats.gguf_types import BY_NAME, GgmlType

CPU = "CPU"


@dataclass(frozen=True)
class Stored:
    """A tensor of the file: its dimensions, fastest first, its ggml type, and the device it was loaded to."""

    ne: tuple[int, ...]
    type: GgmlType
    device: str = CPU


@dataclass(frozen=True, eq=False)
class Hparams:
    """What the tensors' shapes do not tell (llama_hparams). Tuples have one entry for each layer.

    `n_head`, `n_head_kv` (0 in a layer without attention), `head_k` and `head_v` elements of a head, `swa` whether the
    layer attends to a window, `rope` whether it rotates. `deepstack` first layers add embeddings of images. `parallel`:
    attention and feed-forward layer read the same input (GPT-NeoX). `softcap` bounds attention scores, `logit_softcap`
    the logits by a tanh, `clamp_kqv` queries, keys and values; `embedding_scale`, `residual_scale`, `logit_scale`:
    whether they are multiplied by a number. `norm_weights`, `scale_weights`, `gating` ("softmax", "sigmoid",
    "softmax_weight") and groups are of the experts' router. `rope_dim` is that of latent attention, whose `head_k` and
    `head_v` are those of the cache; `recurrent` which layers keep a state, and what follows its sizes (ssm_* and
    shortconv_* of the file).
    """

    n_head: tuple[int, ...]
    n_head_kv: tuple[int, ...]
    head_k: tuple[int, ...]
    head_v: tuple[int, ...]
    swa: tuple[bool, ...]
    rope: tuple[bool, ...]
    deepstack: int = 0
    parallel: bool = False
    softcap: bool = False
    logit_softcap: bool = False
    clamp_kqv: bool = False
    embedding_scale: bool = False
    residual_scale: bool = False
    logit_scale: bool = False
    n_expert_used: int = 0
    norm_weights: bool = True
    scale_weights: bool = False
    gating: str = "softmax"
    n_expert_groups: int = 0
    n_group_used: int = 0
    rope_dim: int = 0
    recurrent: tuple[bool, ...] = ()
    conv_kernel: int = 0
    state_size: int = 0
    inner_size: int = 0
    time_step_rank: int = 0
    group_count: int = 0

    @property
    def n_layer(self) -> int:
        """Layers of the graph; prediction layers that the file holds beside them are not in it."""
        return len(self.n_head)


@dataclass(frozen=True)
class Build:
    """How a build of llama.cpp differs from the others, as far as compute buffers go. The newest is the default.

    `mask_f16`: the mask is made in F16 where flash attention reads it (else in F32, and cast). `embd_leaf`: embeddings
    that a request may bring instead of tokens have memory of their own (pull request 18550). `mixed`: so have those of
    a request that brings both. `values_first`: values go into the graph before keys. `row_writes`: keys and values are
    written into the caches row by row, by numbers that are an input. `rotations`: quantised caches are turned.
    `whole_states`: states of all sequences are read at once, whichever a batch has. `late_rows`: models with prediction
    layers drop tokens without logits after the last layer only (before its feed-forward layer otherwise).
    `copies_unused`: inputs that a batch does not use are copied for each of several batches under way.
    `kernel_copies` and `fused`: what cuda.py has. `image_mask_f16`: so is the mask of a tower's windows.
    """

    mask_f16: bool = True
    embd_leaf: bool = True
    mixed: bool = True
    values_first: bool = True
    row_writes: bool = True
    rotations: bool = True
    whole_states: bool = True
    late_rows: bool = False
    copies_unused: bool = True
    kernel_copies: bool = True
    fused: bool = True
    image_mask_f16: bool = True


@dataclass(frozen=True)
class GraphSetup:
    """A model in a context. Everything that decides the compute buffers, and nothing else.

    `devices` are those of the backends, the CPU last; `layer_devices` where each layer was put. `n_ctx` is padded,
    `cells` and `swa_cells` are those of one stream of the caches. `full_offload`: all layers, and the output, are on
    GPUs. `n_outputs_max` are the tokens of a batch whose logits may be asked for. `measured`: as --fit reckons, which
    plans the graph of a prompt only, and forgets which devices some nodes were meant for
    (ggml_backend_sched_reserve_size). `adapted`: matrices of adapters are among the tensors.
    """

    arch: str
    tensors: Mapping[str, Stored]
    hparams: Hparams
    n_ctx: int
    cells: int
    swa_cells: int = 0
    n_ubatch: int = 512
    n_seq_max: int = 1
    n_outputs_max: int = 2048
    kv_unified: bool = False
    flash_attn: bool = True
    type_k: GgmlType = BY_NAME["F16"]
    type_v: GgmlType = BY_NAME["F16"]
    devices: tuple[str, ...] = (CPU,)
    layer_devices: tuple[str, ...] = ()
    kv_devices: tuple[str, ...] = ()
    full_offload: bool = False
    offload_kqv: bool = True
    op_offload: bool = True
    pipeline: bool = False
    measured: bool = False
    adapted: bool = False
    build: Build = Build()

    @property
    def n_streams(self) -> int:
        """Streams that the caches are divided into."""
        return 1 if self.kv_unified else self.n_seq_max
