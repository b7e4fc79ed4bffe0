"""causal-conv1d's operation: what it refuses, and what layouts of its input decide."""

from __future__ import annotations

import pytest

from oomph.errors import UnsupportedError
from oomph.ops import causal_conv1d, causal_conv1d_update, transpose
from oomph.tape.testing import cost, fp32, frozen


def test_kernels_of_other_widths_are_refused() -> None:
    """Two to four places, as the host code checks."""
    for operation, given in ((causal_conv1d, [(1, 8, 16)]), (causal_conv1d_update, [(1, 8, 1), (1, 8, 5)])):
        with pytest.raises(UnsupportedError, match="2 to 4 places"):
            cost(operation, *given, (8, 5))


def test_channels_that_lie_last_come_in_eights() -> None:
    """Where time lies innermost any number will do."""
    with pytest.raises(UnsupportedError, match="multiple of 8"):
        cost(lambda x, weight: causal_conv1d(transpose(x, 1, 2), weight), (1, 16, 12), (12, 4))
    assert cost(causal_conv1d, (1, 12, 16), (12, 4)).allocated == 12 * 16 * 2


def test_a_gradient_that_lies_otherwise_is_copied() -> None:
    """x has its channels last, what comes in as a gradient has time: one more tensor for the kernel."""
    conv = lambda x, weight: causal_conv1d(transpose(x, 1, 2), weight)  # noqa: E731
    given = (2, 64, 16), fp32(16, 4)
    assert cost(conv, *given).backward == 2 * 4096 + 16 * 4 * 4
    assert cost(lambda x, weight: transpose(conv(x, weight), 1, 2), *given).backward == 4096 + 16 * 4 * 4


def test_gradients_in_fp32_need_no_cast() -> None:
    """The weight's gradient is made in fp32; a weight of 16 bits costs a cast more."""
    assert cost(causal_conv1d, (2, 16, 64), fp32(16, 4)).backward == 4096 + 16 * 4 * 4
    assert cost(causal_conv1d, (2, 16, 64), (16, 4)).backward == 4096 + 16 * 4 * (4 + 2)


def test_one_token_is_one_tensor() -> None:
    """The state is written in place."""
    state = frozen(2, 16, 4)
    assert cost(causal_conv1d_update, frozen(2, 16, 1), state, frozen(16, 4)).allocated == 2 * 16 * 2
    with pytest.raises(UnsupportedError, match="another dtype"):
        cost(causal_conv1d_update, fp32(2, 16, 1), state, frozen(16, 4))
