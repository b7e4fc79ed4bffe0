"""What llama.cpp knows of a model beside its tensors (llama_hparams): from a config, or from a file's metadata.

Source: src/llama-hparams.cpp and src/models/*.cpp of llama.cpp 0c1e57098.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from oomph.blocks.cached import StateCache, TokenCache
from oomph.caches import layer_caches
from oomph.errors import UnsupportedError
from oomph.formats.gguf_convert import arch_of

if TYPE_CHECKING:
    from oomph.header import Header
    from oomph.model import Model

# Architectures whose windows llama.cpp keeps apart (swa_type in their load_arch_hparams); with the period in which a
# layer of all tokens comes, where the file does not say: load_swa_pattern.
WINDOWED: Mapping[str, int] = {
    "gemma2": 2, "gemma3": 6, "gemma3n": 5, "gemma4": 0, "cohere2": 4, "gpt-oss": 2, "llama4": 4, "olmo2": 4,
    "exaone4": 4, "exaone-moe": 4, "afmoe": 4, "mimo2": 0, "step35": 0, "smallthinker": 4, "lfm2": 0,
}  # fmt: skip
LLAMA4_CHUNK = 8192  # n_swa of llama4.cpp, whatever the file says
EXAONE4_LAYERS = 64  # the depth of the only EXAONE 4 with windows
RECURRENT = frozenset({"mamba", "mamba2"})
FULL_EVERY = 4  # full_attention_interval of qwen3next and qwen35 where the file does not say
# Architectures with layers that keep nothing: no mixers, or the keys of another layer.
WITHOUT_CACHE = frozenset({"nemotron_h", "nemotron_h_moe", "gemma3n", "gemma4", "deci"})
# Architectures whose cache is of a kind that is not modelled.
OTHER_CACHES = {
    "deepseek32": "an indexer's keys beside it", "glm-dsa": "an indexer's keys beside it",
    "deepseek4": "compressed keys", "minimax-m3": "an indexer's keys beside it", "t5": "an encoder's keys",
    "bert": "nothing", "nomic-bert": "nothing", "modern-bert": "nothing",
}  # fmt: skip


@dataclass(frozen=True)
class Kept:
    """What one layer keeps: keys of `k` and values of `v` elements a token, or `r` and `s` elements of a sequence.

    `swa`: of a window only.
    """

    k: int = 0
    v: int = 0
    swa: bool = False
    r: int = 0
    s: int = 0


@dataclass(frozen=True, eq=False)
class Sizes:
    """A model's numbers. `kept` has an entry for each layer that is computed, `n_swa` tokens are in a window.

    `latent`: one vector for all heads instead of keys and values (is_mla).
    """

    arch: str
    kept: tuple[Kept, ...]
    n_ctx_train: int
    n_vocab: int
    n_embd: int
    n_swa: int = 0
    latent: bool = False

    @cached_property
    def windowed(self) -> bool:
        """Whether some layers keep a window only, in a cache of their own."""
        return any(each.swa for each in self.kept)

    @cached_property
    def widest_v(self) -> int:
        """The most elements of a token's values in any layer."""
        return max((each.v for each in self.kept), default=0)


def of_model(model: Model) -> Sizes:
    """Return the numbers of a model that a family read; raises UnsupportedError for caches of another kind."""
    arch = arch_of(model).name
    _refuse(arch)
    kept = [Kept()] * model.num_layers
    windows: set[int] = set()
    latent = False
    for group in layer_caches(model):
        merged = Kept()
        for cache in group.cached:
            if isinstance(cache, TokenCache):
                if cache.kind not in ("attention", "latent") or cache.index_dim:
                    raise UnsupportedError(f"{arch}: keys of an encoder or an indexer are not modelled for llama.cpp.")
                latent = latent or cache.kind == "latent"
                span = cache.window or cache.chunk
                swa = arch in WINDOWED and span is not None
                windows |= {span} if swa and span else set()
                merged = Kept(cache.heads * cache.key_dim, cache.heads * cache.value_dim, swa, merged.r, merged.s)
            else:
                merged = Kept(merged.k, merged.v, merged.swa, *_state(cache))
        for layer in group.layers:
            kept[layer] = merged
    if arch not in WITHOUT_CACHE and not all(each.k or each.r or each.s for each in kept):
        raise UnsupportedError(f"{arch}: what {sum(not each.k for each in kept)} of its layers keep is not known.")
    if len(windows) > 1:
        raise UnsupportedError(f"{arch}: windows of {len(windows)} lengths are not modelled for llama.cpp.")
    return Sizes(
        arch,
        tuple(kept),
        model.context_length or 0,
        model.vocab_size,
        model.hidden_size,
        max(windows, default=0),
        latent,
    )


def _state(cache: StateCache) -> tuple[int, int]:
    """Return n_embd_r and n_embd_s: the first column of a convolution is never kept."""
    if cache.kind in ("rg_lru", "rwkv", "lightning"):
        raise UnsupportedError(f"What llama.cpp keeps of {cache.kind} layers is not modelled.")
    return cache.conv_channels * max(cache.conv_kernel - 1, 0), cache.state_elements


def _refuse(arch: str) -> None:
    if arch in OTHER_CACHES:
        raise UnsupportedError(f"The cache that llama.cpp makes for {arch} ({OTHER_CACHES[arch]}) is not modelled.")


def of_header(header: Header, layers: int) -> Sizes:
    """Return the numbers that a GGUF file's metadata tells; `layers` are those in the file."""
    arch = header.metadata.get("general.architecture")
    if not isinstance(arch, str):
        raise UnsupportedError("The GGUF file does not name its architecture.", "Download it again.")
    _refuse(arch)
    said = Metadata(header.metadata, arch, layers)
    n_layer = layers - said.number("nextn_predict_layers", 0)
    n_vocab = next((t.shape[0] for t in header.tensors if t.name == "token_embd.weight" and t.shape), 0)
    latent = said.number("attention.key_length_mla", 0) > 0
    window = said.number("attention.sliding_window", 0)
    swa = _windows(said, arch, n_layer, window)
    n_embd = said.number("embedding_length")
    kept = tuple(_kept(said, at, swa[at], n_embd, latent) for at in range(n_layer))
    return Sizes(
        arch, kept, said.number("context_length"), n_vocab, n_embd,
        (LLAMA4_CHUNK if arch == "llama4" else window) if any(swa) else 0, latent,
    )  # fmt: skip


@dataclass(frozen=True)
class Metadata:
    """A file's keys of its architecture; every value is bounded or refused."""

    keys: Mapping[str, Any]
    arch: str
    layers: int

    def number(self, key: str, default: int | None = None) -> int:
        """Return a whole number, the first of a list."""
        return self.of_layer(key, 0, default)

    def of_layer(self, key: str, layer: int, default: int | None = None) -> int:
        """Return a layer's number: of a list its entry."""
        value = self.keys.get(f"{self.arch}.{key}")
        if isinstance(value, list):
            value = value[layer] if layer < len(value) else None
        if value is None and default is not None:
            return default
        if isinstance(value, bool):
            return int(value)
        if not isinstance(value, int) or not 0 <= value < 2**31:
            raise UnsupportedError(
                f"The GGUF file says {str(value)[:40]} for {self.arch}.{key}.",
                "Download it again, or convert it again.",
            )
        return value

    def has(self, key: str) -> bool:
        """Tell whether the file has a key."""
        return f"{self.arch}.{key}" in self.keys


def _windows(said: Metadata, arch: str, n_layer: int, window: int) -> list[bool]:
    """Return which layers keep a window only."""
    if arch not in WINDOWED or (not window and arch != "llama4") or (arch == "exaone4" and n_layer != EXAONE4_LAYERS):
        return [False] * n_layer
    if arch == "lfm2":
        return [said.of_layer("attention.head_count_kv", at) > 0 for at in range(n_layer)]
    pattern = said.keys.get(f"{arch}.attention.sliding_window_pattern")
    if isinstance(pattern, list):
        return [bool(pattern[at]) for at in range(min(n_layer, len(pattern)))] + [False] * (n_layer - len(pattern))
    period = pattern if isinstance(pattern, int) and not isinstance(pattern, bool) else WINDOWED[arch]
    return [period == 0 or at % period < period - 1 for at in range(n_layer)]


def _kept(said: Metadata, at: int, swa: bool, n_embd: int, latent: bool) -> Kept:
    """Return what layer `at` keeps."""
    arch = said.arch
    state = Kept(r=_convolved(said, n_embd), s=_recurrent(said))
    heads, kv_heads = said.of_layer("attention.head_count", at, 0), said.of_layer("attention.head_count_kv", at, 0)
    if arch in RECURRENT or (said.has("ssm.conv_kernel") and _is_recurrent(said, at, kv_heads)):
        return state
    if arch.startswith("lfm2") and not kv_heads:
        return state
    if not heads or not kv_heads:
        return Kept()
    if at >= said.layers - said.number("attention.shared_kv_layers", 0):
        return Kept(swa=swa)  # the keys and values of an earlier layer
    tail = "_swa" if swa and said.has("attention.key_length_swa") else ""
    key = said.number(f"attention.key_length{tail}", n_embd // heads)
    value = said.number(f"attention.value_length{tail}", n_embd // heads)
    both = state if arch == "falcon-h1" else Kept()
    return Kept(kv_heads * key, 0 if latent else kv_heads * value, swa, both.r, both.s)


def _is_recurrent(said: Metadata, at: int, kv_heads: int) -> bool:
    if said.arch in ("qwen3next", "qwen35", "qwen35moe"):
        return (at + 1) % said.number("full_attention_interval", FULL_EVERY) != 0
    if said.arch.startswith("nemotron_h"):
        return not kv_heads and not said.of_layer("feed_forward_length", at, 0)
    return not kv_heads and said.arch != "falcon-h1"


def _convolved(said: Metadata, n_embd: int) -> int:
    """Return n_embd_r."""
    if said.has("shortconv.l_cache"):
        return n_embd * (said.number("shortconv.l_cache") - 1)
    if said.has("kda.head_dim"):
        inner = said.number("attention.head_count") * said.number("kda.head_dim")
        return 3 * (said.number("ssm.conv_kernel") - 1) * inner
    kernel, groups = said.number("ssm.conv_kernel", 0), said.number("ssm.group_count", 0)
    return max(kernel - 1, 0) * (said.number("ssm.inner_size", 0) + 2 * groups * said.number("ssm.state_size", 0))


def _recurrent(said: Metadata) -> int:
    """Return n_embd_s."""
    if said.has("kda.head_dim"):
        return said.number("kda.head_dim") ** 2 * said.number("attention.head_count")
    return said.number("ssm.state_size", 0) * said.number("ssm.inner_size", 0)
