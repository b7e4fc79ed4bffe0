"""LFM2's short convolution: two gates around a causal convolution of a few tokens. H hidden, K kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oomph.blocks.base import Block, Parts
from oomph.blocks.basic import Linear
from oomph.blocks.cached import Cached, StateCache
from oomph.blocks.mamba import depthwise

if TYPE_CHECKING:
    from oomph.programs.cache import Cache
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym

STREAMS = 3  # B, C and x


@dataclass(frozen=True)
class ShortConv(Block):
    """in (H, 3·H) for B, C and x; a depthwise convolution over B·x; out (H, H) of C times its result.

    LFM2-1.2B: 4·2048² + 3·2048 parameters.
    >>> from oomph.blocks.base import walk
    >>> sum(w.numel for w in walk(ShortConv(2048, 3)))
    16783360
    """

    hidden_size: int
    conv_kernel: int
    bias: bool = False
    kind: str = "short_conv"

    @property
    def parts(self) -> Parts:
        """The convolution and the two maps."""
        hidden = self.hidden_size
        return {
            "conv": depthwise(hidden, self.conv_kernel, self.bias),
            "in_proj": Linear(hidden, STREAMS * hidden, self.bias),
            "out_proj": Linear(hidden, hidden, self.bias),
        }

    @property
    def cached(self) -> tuple[Cached, ...]:
        """What the convolution saw last."""
        return (StateCache("short_conv", self.hidden_size, self.conv_kernel),)

    @staticmethod
    def program(
        m: Bound,
        hidden_states: Sym,
        past_key_values: Cache | None = None,
        attention_mask: Sym | None = None,
        index: int = 0,
    ) -> Sym:
        """Mirror Lfm2ShortConv.forward: hidden_states [B, S, H] in and out."""
        from oomph import ops
        from oomph.programs.causal_conv import causal_conv1d_fn, causal_conv1d_update, last_tokens, masked, squeezed
        from oomph.tape.sizes import yes

        seq_len = hidden_states.shape[1]
        hidden_states = masked(hidden_states, attention_mask)
        projected = ops.transpose(m.in_proj(hidden_states), 1, 2)
        before, after, x = ops.split_axis(projected, 1, (m.hidden_size,) * STREAMS)
        hidden_states = before * x
        conv_state = None if past_key_values is None else past_key_values.conv_state(index)
        if conv_state is not None and yes(seq_len == 1):
            hidden_states = causal_conv1d_update(hidden_states, conv_state, squeezed(m.conv), m.conv.parts["bias"])
        else:
            if past_key_values is not None:
                hidden_states = past_key_values.update_conv_state(hidden_states, index, m.conv_kernel)
            hidden_states = causal_conv1d_fn(hidden_states, squeezed(m.conv), m.conv.parts["bias"])
            if past_key_values is not None:
                hidden_states = last_tokens(hidden_states, seq_len)
        y: Sym = after * hidden_states
        y = ops.contiguous(ops.transpose(y, 1, 2))
        y = m.out_proj(y)
        return y
