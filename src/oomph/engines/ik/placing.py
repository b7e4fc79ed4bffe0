"""How ik_llama.cpp's newest builds divide layers among several GPUs: by what each of them takes, cache included; and
whose experts -ncmoe leaves with the host.

Source: llm_load_tensors and get_layer_sizes of src/llama.cpp, create_tensors_helper of src/llama-load-tensors.cpp,
ik_llama.cpp 8337e4cd.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate

from oomph.engines.llamacpp.file import EMBEDDING, OUTPUT, File, FileTensor
from oomph.engines.llamacpp.ggml import F32
from oomph.engines.llamacpp.placing import Placement
from oomph.formats.gguf_types import BY_NAME
from oomph.units import MIB

PARTS = {"exps": re.compile(r"ffn_(up|gate|down)_exps\."), "shexp": re.compile(r"ffn_(up|gate|down)_shexp\."),
         "dense": re.compile(r"ffn_(up|gate|down)\.weight")}  # fmt: skip
LATENT_USERS = 3  # the -mla that is reckoned with


@dataclass(frozen=True)
class Reckoned:
    """What the division goes by: layers that are read, a batch, a context, the experts of a token, -mla, -amb, tokens
    with logits. Prediction layers are not read, but have room in the cache."""

    n_layer: int
    n_ubatch: int
    n_ctx: int
    n_expert_used: int
    mla: int
    attention_batch: int
    outputs: int


def divided(file: File, cache: Sequence[int], asked: int | None, shares: Sequence[float], by: Reckoned) -> Placement:
    """Return where layers go, `asked` of them on GPUs (None: all), whose shares are of all that lies there.

    `cache` are the bytes of each layer's keys and values.
    """
    sizes, computed = layer_sizes(file, cache, by)
    count = len(cache)
    wanted = count + 1 if asked is None else asked
    start, end = max(count - wanted, 0), count + (wanted > count)
    devices = [len(shares) - 1] * (count + 1)
    whole = computed * len(shares) + sum(sizes[start:end])
    ends = [each / sum(shares) for each in accumulate(shares)]
    last, loaded = start, 0.0
    for gpu, share in enumerate(ends):
        loaded += computed
        room = share * whole
        while last < end:
            nearer = loaded + sizes[last] - room < room - loaded
            if loaded + sizes[last] > room and not nearer:
                break
            stop = loaded + sizes[last] > room
            devices[last] = gpu
            loaded += sizes[last]
            last += 1
            if stop:
                break
    return Placement(
        tuple(-1 if il < start else devices[il] for il in range(count)), devices[count] if wanted > count else -1
    )


def without_experts(file: File, placed: Placement, gpus: int, asked: int, n_layer: int) -> tuple[int, ...]:
    """Return the layers whose experts stay with the host: the last `asked` that have some; of several GPUs' layers as
    many of each as its part of all layers. Of layers from `n_layer` on (prediction layers) only several GPUs' count."""
    count = file.layers
    if gpus < 2 or asked >= count:
        with_experts = {tensor.layer for tensor in file.tensors if PARTS["exps"].search(tensor.name)}
        return tuple(sorted((layer for layer in with_experts if layer < n_layer), reverse=True)[:asked])
    of_layer = [device if device >= 0 else gpus - 1 for device in placed.layers]
    left = _shared_out(asked, [of_layer.count(gpu) for gpu in range(gpus)])
    found = []
    for layer in reversed(range(count)):
        if left[of_layer[layer]] > 0:
            left[of_layer[layer]] -= 1
            found.append(layer)
    return tuple(found)


def _shared_out(asked: int, counts: Sequence[int]) -> list[int]:
    """Return each GPU's part of so many layers, rounded; what is then too many or too few is where it is least wrong.

    >>> _shared_out(5, [24, 24]), _shared_out(20, [31, 16])
    ([2, 3], [13, 7])
    """
    whole, gpus = sum(counts), range(len(counts))
    found = [(2 * asked * count + whole) // (2 * whole) for count in counts]

    def above(gpu: int) -> Fraction:
        return found[gpu] - Fraction(asked * counts[gpu], whole)

    while sum(found) > asked:
        found[max((gpu for gpu in gpus if found[gpu]), key=above)] -= 1
    while sum(found) < asked:
        found[min((gpu for gpu in gpus if found[gpu] < counts[gpu]), key=above)] += 1
    return found


def layer_sizes(file: File, cache: Sequence[int], by: Reckoned) -> tuple[list[float], float]:
    """Return the bytes reckoned for each layer and the output, and for a compute buffer."""
    count = len(cache)
    sizes, hidden = [float(each) for each in cache], [dict.fromkeys(PARTS, 0) for _ in cache]
    output = embedding = n_vocab = n_embd = 0
    maps: list[dict[str, FileTensor]] = [{} for _ in cache]
    for tensor in file.tensors:
        if tensor.name == EMBEDDING:
            embedding, (n_vocab, n_embd) = tensor.n_bytes, tensor.shape
        elif tensor.name == OUTPUT:
            output = tensor.n_bytes
        elif 0 <= tensor.layer < by.n_layer:
            sizes[tensor.layer] += tensor.n_bytes
            maps[tensor.layer][tensor.name.split(".")[2]] = tensor
            for part, pattern in PARTS.items():
                if pattern.search(tensor.name) and len(tensor.shape) > 1:
                    used = by.n_expert_used if part == "exps" else 1
                    hidden[tensor.layer][part] += tensor.shape[-2] * by.n_ubatch * used * F32.size
    computed = 0.0
    for il in range(count):
        normed = 2 * n_embd * by.n_ubatch * F32.size
        sizes[il] += _made(maps[il])
        computed = max(computed, max(hidden[il].values()) + normed, _latent(maps[il], by))
    logits = max(n_vocab * by.outputs * F32.size, computed) - computed
    return [*sizes, (output or embedding) + logits], computed


def _made(maps: dict[str, FileTensor]) -> int:
    """Bytes reckoned for the maps that are made of others when a model of latent attention is loaded."""
    k, v, both = (maps.get(name) for name in ("attn_k_b", "attn_v_b", "attn_kv_b"))
    if both is not None:
        return ((k is None) + (v is None)) * (both.n_bytes // 2)
    if k is None or v is None:
        return 0
    kind = BY_NAME["Q8_0"] if k.type.block > 1 else k.type
    return kind.row_bytes(v.shape[-1]) * (v.shape[-2] + k.shape[-2]) * v.shape[0] * 2


def _latent(maps: dict[str, FileTensor], by: Reckoned) -> float:
    """Bytes reckoned for the keys and values made of a latent cache at a time."""
    v = maps.get("attn_v_b")
    if v is None or by.mla != LATENT_USERS:
        return 0.0
    heads, width = v.shape[0], v.shape[-2]
    taken, at_once = 2 * width * heads * by.n_ctx * F32.size / MIB, heads
    if 0 < by.attention_batch < taken:
        parts = (each for each in range(2, heads) if heads % each == 0 and taken / each <= by.attention_batch)
        at_once = heads // next(parts, heads)
    return 2.0 * width * at_once * by.n_ctx * F32.size
