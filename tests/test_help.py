"""The pages that --help prints."""

from __future__ import annotations

import pytest

from tests.test_cli import run

WIDE = 80  # columns of a terminal that nobody made wider


@pytest.mark.parametrize("command", ["serve", "max", "reconcile"])
def test_help_of_serving_fits_a_terminal(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No line is cut or wrapped by the terminal, examples among them."""
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert not [line for line in out.splitlines() if len(line) > WIDE]
