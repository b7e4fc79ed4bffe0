"""What SGLang sets by itself: worked by hand from its rules, and met by a log."""

from __future__ import annotations

from dataclasses import replace

import pytest

from oomph.answer import subject
from oomph.devices import Device, find
from oomph.engines.sglang.fraction import prompt_graphs, taken
from oomph.engines.sglang.job import SglangJob
from oomph.errors import UnsupportedError
from oomph.units import GIB, MIB

B300 = replace(find("gb300"), driver_bytes=284208 * MIB, program_bytes=int(276.26 * GIB))


def _taken(job: SglangJob, device: Device, model: str = "qwen3-8b", latent: bool = False) -> tuple[float, int]:
    found = taken(subject(model), job, device, latent)
    return found.fraction, found.step_tokens


def test_a_log_on_a_b300() -> None:
    """234.56 GiB of pool of the 260.48 that were free, 275.75 before loading, make 0.906; a step has 16,384 tokens."""
    assert _taken(SglangJob(), B300) == (0.906, 16384)
    assert pytest.approx(0.906, abs=0.0005) == 1 - (260.48 - 234.56) / 275.75


def test_an_h100_by_hand() -> None:
    """512 + 8192 x 1.5 + 128 + 256 x 2 + 58 graphs x 8 MiB of 81,559; 464 less before there were graphs of prompts."""
    h100 = find("h100-sxm")
    assert len(prompt_graphs(8192)) == 58
    assert _taken(SglangJob(), h100) == (round(1 - 13904 / 81559, 3), 8192)
    assert _taken(SglangJob(version="0.5.9"), h100)[0] == round(1 - 13440 / 81559, 3)
    assert _taken(SglangJob(version="0.5.12"), h100)[0] == round(1 - 13904 / 81559, 3)
    assert _taken(SglangJob(version="0.5.12", speculative_algorithm="EAGLE"), h100)[0] == round(
        1 - (13440 + 4096) / 81559, 3
    )
    assert _taken(SglangJob(tensor_parallel=8, disable_cuda_graph=True), h100)[0] == round(1 - 13824 / 81559, 3)


def test_small_cards() -> None:
    """Below 20 and 35 GiB steps are smaller; 0.5.20 doubled those of a 24 GiB card."""
    assert _taken(SglangJob(), find("rtx-4090"))[1] == 4096
    assert _taken(SglangJob(version="0.5.9"), find("rtx-4090")) == (round(1 - (512 + 3072 + 128 + 48) / 24564, 3), 2048)
    assert _taken(SglangJob(), find("t4"))[1] == 2048


def test_flags_go_before_rules() -> None:
    """What is said is taken; -1 reads whole prompts, in steps of --max-prefill-tokens."""
    job = SglangJob(mem_fraction_static=0.7, chunked_prefill_size=-1, max_prefill_tokens=5000)
    assert _taken(job, find("h100-sxm")) == (0.7, 5000)


def test_towers_take_a_share() -> None:
    """Gemma 3's tower has 27 layers of 1152: 1.424 of ViT-L/14, so 0.95 x (1 - 0.0424); no graphs of prompts."""
    h100 = find("h100-sxm")
    factor = 0.95 * (1 - 0.1 * (27 * 1152**2 / (24 * 1024**2) - 1))
    assert _taken(SglangJob(), h100, "gemma-3-27b-it")[0] == pytest.approx(round(1 - 13440 / 81559, 3) * factor)


@pytest.mark.parametrize("version", ["0.4.6", "0.5.1", "0.5.16"])
def test_rules_that_were_not_read_are_refused(version: str) -> None:
    """Then the share has to be said."""
    with pytest.raises(UnsupportedError, match="leaves to activations by itself is not known"):
        _taken(SglangJob(version=version), find("h100-sxm"))
    assert _taken(SglangJob(version=version, mem_fraction_static=0.8), find("h100-sxm"))[0] == 0.8
