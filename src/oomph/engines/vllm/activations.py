"""What is alive on one device while vLLM profiles itself: the tensors of each instant at which most may be.

vLLM runs a forward pass of all tokens of a step, once, and takes torch's peak. Compiled, the pass is cut at attention;
a piece between two attentions (output map, norm, MLP, norm, input map) is Inductor's, which holds a tensor of the size
of a later one until that takes its place. Its kernels run for the first time, so each pointwise one is timed with
several block sizes, before each of which a buffer as large as the GPU's second-level cache is written. Earlier still,
when a piece is compiled, each of its kernels is called on tensors made up for it: the one of the first piece that looks
words up and norms them, on a whole table of words.

Letters: T tokens of the step, H hidden, F ffn, K experts of a token; all of one device, in bytes. Sources: vLLM 0.19.0,
v1/worker/gpu_model_runner.py profile_run, _dummy_run; compilation/backends.py split_graph, compiler_interface.py;
model_executor/layers/fused_moe/. torch 2.10, _inductor/standalone_compile.py (triton.autotune_at_compile_time),
codegen/wrapper.py generate_and_run_autotune_block, memory_plan_reuse; runtime/triton_heuristics.py pointwise,
runtime/benchmarking.py InductorBenchmarker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oomph import dtypes
from oomph.units import MIB

if TYPE_CHECKING:
    from oomph.engines.vllm.cards import Card
    from oomph.engines.vllm.shapes import Experts, Shapes

Version = tuple[int, ...]
Tensors = dict[str, int]  # bytes by name

OWN_BENCHMARK: Version = (0, 9)  # torch 2.7; 2.6 times kernels with triton.testing.do_bench
TRITON_BENCHMARK = 256 * MIB
TIMING = "buffer that empties the cache between timings"
TRIES_KERNELS: Version = (0, 10, 2)  # torch 2.8: kernels are called when they are compiled
KEEPS_WORKSPACE: Version = (0, 15)  # of mixtures, beyond its layer (v1/worker/workspace.py); not so in 0.13
UNCHUNKED: Version = (0, 18)  # tokens go through a mixture at once; before, in pieces of VLLM_FUSED_MOE_CHUNK_SIZE:
CHUNKS = (((0, 12), 16384), ((0, 0), 65536))
ALIGN = 256  # WorkspaceManager.get_simultaneous

WIDE = dtypes.BITS["fp32"] // 8
LONG = dtypes.BITS["int64"] // 8

# determine_chunked_prefill_workspace_size of mla_attention.py: full requests or pages of each, within bounds
MLA_REQUESTS, MLA_PAGES, MLA_PAGE, MLA_MOST = 8, 4, 16, 64 * 1024


@dataclass(frozen=True)
class Run:
    """A profile run: `tokens` of a step, `rows` of them sampled from, `width` bytes of a number, what runs it where.

    `second_core` is V1, which the first versions did not have; `compiled`: on that core, without --enforce-eager.
    `first` and `last` say whether the device has the first and the last layers of a pipeline. `transient` mixtures give
    their buffers back, `dequantised` maps are made anew for each product. `second_runner`: runner.py. `images` of a
    prompt are None where nothing limits them.
    """

    tokens: int
    rows: int
    seqs: int
    width: int
    context: int
    version: Version
    second_core: bool
    compiled: bool
    card: Card
    first: bool = True
    last: bool = True
    transient: bool = False
    dequantised: bool = False
    second_runner: bool = False
    images: int | None = None

    @property
    def tries_kernels(self) -> bool:
        """Whether kernels are called on tensors made up for them when they are compiled."""
        return self.compiled and self.version >= TRIES_KERNELS


def products(of: Shapes, run: Run) -> Tensors:
    """Return cuBLAS's workspace, there from the first product on, and cuBLASLt's where a product has a bias."""
    return {
        "workspace of cuBLAS": run.card.cublas_bytes,
        **({"workspace of cuBLASLt": run.card.lt_bytes} if of.biased else {}),
    }


def received(of: Shapes, run: Run) -> Tensors:
    """Return what a stage that is not the first is handed: two tensors [T, H], made in the profile run itself."""
    if run.first:
        return {}
    one = run.tokens * of.hidden * run.width
    return {"hidden states of the stage before": one, "residual of the stage before": one}


def lookup_tried(of: Shapes, run: Run) -> Tensors:
    """Return what the kernel that looks words up is called on when it is compiled.

    It norms them too, on one device. On several the sum over all comes between: words alone, by a kernel that is timed.
    Llama 3.1 8B: a table [128256, 4096] and two results [8192, 4096] in bf16, 1130 MiB: 1.10 GiB is what the first of
    several stages prints, which samples nothing.
    """
    if not (run.tries_kernels and run.first) or of.tower:  # with images words are looked up outside of what is compiled
        return {}
    one = run.tokens * of.hidden * run.width
    found = {"table of words, made up": of.table_rows * of.hidden * run.width, "words": one}
    if of.table_rows < of.padded_vocab:
        return {**found, **_timed(run)}
    return {**found, "normed words": one}


def _between(of: Shapes, run: Run) -> Tensors:
    """Return what is alive around an MLP beside its own tensors.

    Compiled: the sum is made again from both its parts, and down_proj's result will stand where the normed states do.
    """
    hidden = run.tokens * of.hidden * run.width
    found = {"residual": hidden, "normed hidden states": hidden}
    return {**found, "output of o_proj": hidden} if run.compiled else found  # normed in its place otherwise


def _timed(run: Run) -> Tensors:
    """Return what Inductor's benchmark writes before each timing; that of Triton, used before, writes 256 MiB."""
    if not run.compiled:
        return {}
    return {TIMING: run.card.cache_bytes if run.version >= OWN_BENCHMARK else TRITON_BENCHMARK}


def mlp(of: Shapes, run: Run) -> Tensors:
    """Return what is alive when a dense MLP's activation is made; Inductor times that kernel."""
    if not of.ffn:
        return {}
    found = {
        **_between(of, run),
        "output of gate_up_proj": run.tokens * of.inner * run.width,
        "activation": run.tokens * of.ffn * run.width,
        **_timed(run),
    }
    if run.dequantised:
        found |= {"map, dequantised": dequantised_map(of, run)}
    return found


def dequantised_map(of: Shapes, run: Run) -> int:
    """Return the bytes of the largest map of an MLP in the dtype of activations, 0 where none is made anew."""
    return of.ffn * of.hidden * run.width if run.dequantised else 0


def mixer(of: Shapes, run: Run) -> Tensors:
    """Return what is alive when positions are put into queries and keys, for which Inductor makes new tensors.

    The end of a piece: the residual, what attention will write to, the fused map's result.
    """
    found = {
        "residual": run.tokens * of.hidden * run.width,
        "output of attention": run.tokens * of.heads_out * run.width,
        "output of qkv_proj": run.tokens * of.into * run.width,
    }
    if not run.compiled or not of.turned:  # a kernel turns them in their place
        return found
    return {**found, "queries and keys with their positions": run.tokens * of.turned * run.width, **_timed(run)}


def workspace(of: Shapes, run: Run) -> int:
    """Return the bytes of the two buffers that a mixture's products go through, 256 B aligned.

    TritonExperts.workspace_shapes: [T, K, max(F, H)] and [T, K, max(inner, H)]; the result reuses the first.
    DeepSeek-V2-Lite: 8192 · 6 · (2048 + 2816) numbers, 456 MiB in bf16, whatever else is alive.
    """
    if of.experts is None:
        return 0
    experts, width = of.experts, run.width
    pairs = _tokens_at_once(run) * experts.per_token
    sizes = (pairs * max(experts.ffn, of.hidden) * width, pairs * max(experts.inner, of.hidden) * width)
    return sum(-(-size // ALIGN) * ALIGN for size in sizes)


def _tokens_at_once(run: Run) -> int:
    if run.version >= UNCHUNKED:
        return run.tokens
    return min(run.tokens, next(size for since, size in CHUNKS if run.version >= since))


def kept_workspace(of: Shapes, run: Run) -> Tensors:
    """Return the workspace of mixtures where it outlives its layer."""
    if of.experts is None or run.transient or run.version < KEEPS_WORKSPACE:
        return {}
    return {"workspace of the experts": workspace(of, run)}


def mixture(of: Shapes, run: Run) -> Tensors:
    """Return what is alive inside a mixture of experts: its buffers, and what tokens and experts are matched with."""
    if of.experts is None:
        return {}
    hidden, experts = run.tokens * of.hidden * run.width, of.experts
    return {
        **_between(of, run),
        "router logits": run.tokens * experts.count * run.width,
        "chosen experts": _chosen(experts, run.tokens),
        **_shared(of, run),
        **({} if kept_workspace(of, run) else {"buffers of the experts": workspace(of, run)}),
        "output of the experts": hidden,
    }


def _chosen(experts: Experts, tokens: int) -> int:
    """Return the bytes of weights (fp32), numbers of experts and of places (int32) of each token."""
    narrow = dtypes.BITS["int32"] // 8
    return tokens * experts.per_token * (WIDE + 2 * narrow)


def _shared(of: Shapes, run: Run) -> Tensors:
    if of.experts is None or not of.experts.shared_ffn:
        return {}
    each = run.tokens * run.width
    return {
        "output of the shared gate_up_proj": each * of.experts.shared_inner,
        "shared activation": each * of.experts.shared_ffn,
    }


def latent(of: Shapes, run: Run) -> Tensors:
    """Return what is alive in latent attention: a large context, projected up, is made room for while profiling."""
    if of.latent is None:
        return {}
    heads, up = of.latent
    most = min(max(MLA_REQUESTS * run.context, MLA_PAGES * run.seqs * MLA_PAGE), MLA_MOST)
    held = max(most, run.seqs * MLA_PAGE)
    return {
        "residual": run.tokens * of.hidden * run.width,
        "queries": run.tokens * heads * up * run.width,
        "output of attention": run.tokens * of.heads_out * run.width,
        "keys and values of a context, projected up": held * heads * up * run.width,
    }


def images(of: Shapes, run: Run) -> Tensors:
    """Return dummy images and what they are encoded to: both live to the end of the run.

    As many of the largest images as a step has room for, at least one, and no more than its requests may have
    (multimodal/encoder_budget.py).
    """
    if of.tower is None or not run.first:
        return {}
    tower = of.tower
    fitting = run.context // tower.item_tokens
    of_requests = run.seqs * max(1, fitting if run.images is None else min(run.images, fitting))
    tokens = max(1, min(run.tokens // tower.item_tokens, of_requests)) * tower.item_tokens
    return {
        "pixels of images": tokens * tower.merged * tower.patch_values * run.width,
        "encoded images": tokens * tower.out_states * of.hidden * run.width,
    }


def tower(of: Shapes, run: Run) -> Tensors:
    """Return what is alive in the MLP of a tower's layer; towers are not compiled."""
    if of.tower is None or not run.first:
        return {}
    patches = images(of, run)["pixels of images"] // of.tower.patch_values
    return {
        "pixels of images": patches * of.tower.patch_values,
        "patches": patches * of.tower.hidden,
        "normed patches": patches * of.tower.hidden,
        "first product of the MLP": patches * of.tower.inner,
        "its activation": patches * of.tower.ffn,
    }
