"""What a layer keeps of a sequence between tokens: keys and values of each token, or a state of fixed size.

Sizes are in elements. How many bytes an element takes, which tokens are kept, and how they are paged, padded, shared or
replicated is up to the engine that serves the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal


@dataclass(frozen=True)
class TokenCache:
    """`heads` keys of `key_dim` and values of `value_dim` for each token that may still be attended to.

    `kind`: "attention" of the sequence on itself, "latent" (one vector for all heads, which an engine must not divide
    among devices; no values beside it), "compressed" (a latent vector for `ratio` tokens together, each made of what is
    in `overlap` times as many), "cross" (tokens of an encoder or of images: there from the start, none added;
    `source_tokens` if their number is always the same).
    `window`: tokens a query sees, itself included, None all. `chunk`: a query sees those of its own chunk of so many.
    `index_dim`: one more key per token, or per compressed vector, of an indexer that picks what is attended to.

    Llama 3 8B keeps 2048 elements per token and layer, DeepSeek-V3 576.
    >>> TokenCache(8, 128, 128).per_token, TokenCache(1, 576, 0, "latent").per_token
    (2048, 576)
    """

    heads: int
    key_dim: int
    value_dim: int
    kind: Literal["attention", "latent", "compressed", "cross"] = "attention"
    window: int | None = None
    chunk: int | None = None
    index_dim: int = 0
    ratio: int = 1
    overlap: int = 1
    source_tokens: int | None = None

    @property
    def per_token(self) -> int:
        """Elements of one token's keys and values, the indexer's key left out."""
        return self.heads * (self.key_dim + self.value_dim)


@dataclass(frozen=True)
class StateCache:
    """A state that takes in every token, and the last inputs of a convolution before it. Both of fixed size.

    `kind` is the recurrence. The convolution's `conv_channels` see `conv_kernel` tokens, of which a class keeps all or
    all but the newest; RWKV's shift by one token is a convolution of two. `state` is the shape of the recurrent state
    of one sequence, () where there is none.

    Qwen3-Next: 32 heads of 128 x 128, and 8192 channels.
    >>> StateCache("gated_delta_net", 8192, 4, (32, 128, 128)).state_elements
    524288
    """

    kind: Literal["mamba", "mamba2", "gated_delta_net", "kda", "lightning", "rg_lru", "short_conv", "rwkv"]
    conv_channels: int = 0
    conv_kernel: int = 0
    state: tuple[int, ...] = ()

    @property
    def state_elements(self) -> int:
        """Elements of the recurrent state of one sequence."""
        return prod(self.state) if self.state else 0


Cached = TokenCache | StateCache
