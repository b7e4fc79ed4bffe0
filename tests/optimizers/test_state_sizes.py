"""Bytes of states against the real libraries' own tensors, and per parameter against what was measured by others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from oomph.errors import UnsupportedError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.optimizers import muon
from oomph.optimizers.settings import named
from oomph.peak import by_group
from oomph.steps import step
from oomph.tape.sym import Sym
from oomph.tape.testing import cost, frozen
from tests.referee import models

MISTRAL_7B: dict[str, Any] = {
    "model_type": "mistral", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "sliding_window": None,
}  # fmt: skip

PARAMS = 7_241_732_096


def played(raw: dict[str, Any], **inputs: Any) -> Any:
    return step(model_from_config(raw), TrainJob(1, 64, **inputs))


def kept(one: Any, group: str) -> int:
    return max(height for heights in by_group(one, group)[one.begin :] for height in heights)


@pytest.mark.parametrize(("raw", "params"), [(MISTRAL_7B, 7.242e9), (models.LLAMA3_8B, 8.030e9)])
def test_pure_bf16_with_foreach_is_ten_bytes_a_parameter(raw: dict[str, Any], params: float) -> None:
    """Weights, gradients, two states, roots: 72.43e9 B of Mistral-7B and 80.32e9 B of Llama-3-8B were measured."""
    assert played(raw).peak / params == pytest.approx(10.0, rel=2e-3)


def test_fused_has_no_fifth_copy() -> None:
    """Without the roots it is eight bytes a parameter."""
    assert played(MISTRAL_7B, optimizer="adamw_torch_fused").peak / PARAMS == pytest.approx(8.0, rel=2e-3)


def test_after_a_step_weights_and_states_are_there() -> None:
    """Six bytes a parameter in pure bf16: 43.47e9 B of Mistral-7B were measured."""
    assert played(MISTRAL_7B).end == pytest.approx(43.47e9, rel=1e-3)


def test_8bit_states_are_two_bytes_and_the_scales() -> None:
    """2 + 8/256 bytes per parameter, but for norms and, as the Trainer has it, the embedding, both in fp32."""
    head_and_layers, embedding, norms = PARAMS - 32000 * 4096 - 65 * 4096, 32000 * 4096, 65 * 4096
    exact = (2 + 8 / 256) * head_and_layers + 8 * embedding
    assert kept(played(MISTRAL_7B, optimizer="adamw_8bit"), "optimizer") == pytest.approx(exact, rel=1e-4)
    everything = (2 + 8 / 256) * (head_and_layers + embedding + norms)
    plain = played(MISTRAL_7B, optimizer="adamw_8bit", embedding_32bit=False)
    assert kept(plain, "optimizer") == pytest.approx(everything, rel=1e-4)


def test_32bit_states_of_bitsandbytes_are_fp32_whatever_the_weights() -> None:
    """torch keeps them as the weights are, bitsandbytes in fp32: 8 bytes a parameter, not 4."""
    assert kept(played(MISTRAL_7B, optimizer="adamw_bnb_32bit"), "optimizer") == pytest.approx(8 * PARAMS, rel=1e-3)
    assert kept(played(MISTRAL_7B), "optimizer") == pytest.approx(4 * PARAMS, rel=1e-3)


def test_states_of_torchao_have_scales_and_tables() -> None:
    """An fp32 scale per 256 elements and a table for each state of each parameter, counted in blocks of 512 bytes."""
    parameters, norms, unused = 9 * 32 + 3, 65, 512 - 4096 // 256 * 4  # a norm has 16 scales
    for bits, table in ((8, 1024), (4, 512)):
        exact = 2 * (bits * PARAMS // 8 + 4 * PARAMS // 256 + table * parameters + unused * norms)
        assert kept(played(MISTRAL_7B, optimizer=f"adamw_torch_{bits}bit"), "optimizer") == exact


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw_torch_8bit", "adamw_torch_4bit", "torchao-adamw-4bit", "torchao-adamw-fp8"])
@pytest.mark.parametrize("shape", [(64, 64), (4095,), (65, 64), (33, 128), (3, 40, 64), (2, 4096)])
def test_states_are_those_of_torchao_itself(name: str, shape: tuple[int, ...]) -> None:
    """Real tensors: fewer than 4096 elements and no whole number of blocks are kept as they are."""
    torch = pytest.importorskip("torch")
    optim = pytest.importorskip("torchao.optim")
    from oomph.optimizers.torchao import CODES, state
    from oomph.referee.jobs import parts
    from oomph.referee.optimizers import TORCHAO

    kind = named(name).name
    parameter = torch.zeros(shape, dtype=torch.bfloat16)
    real = getattr(optim, TORCHAO[kind])([parameter], block_size=CODES[kind].block)
    buffers = (real._new_buffer(parameter, signed) for signed in (True, False))
    exact = sum(each.nbytes for one in buffers for _, each in parts("", one))
    assert cost(lambda one: state(named(name), one), frozen(*shape)).allocated == exact


def test_paged_states_are_not_on_the_gpu_but_their_scales_are() -> None:
    """Of 8-bit states the allocator sees the scales of the large parameters, and the states of small ones."""
    seen = kept(played(MISTRAL_7B, optimizer="paged_adamw_8bit", embedding_32bit=False), "optimizer")
    norms, code_books = 65 * 2 * (4096 + 512), 2 * 1024  # of 4096 elements: 8-bit, not paged; their scales rounded up
    assert seen == 8 * (PARAMS - 65 * 4096) // 256 + norms + code_books
    assert kept(played(MISTRAL_7B, optimizer="paged_adamw_32bit"), "optimizer") == 65 * 2 * 4 * 4096


def test_adafactor_keeps_rows_and_columns_but_computes_in_fp32() -> None:
    """States are next to nothing; a step takes four fp32 tensors of the largest weight."""
    one = played(MISTRAL_7B, optimizer="adafactor")
    assert kept(one, "optimizer") < 0.002 * PARAMS
    assert one.peak - 4 * PARAMS == pytest.approx(4 * 4 * 32000 * 4096, rel=0.02)


def test_galore_takes_states_away_and_leaves_gradients() -> None:
    """Ranks of 32 and 128 differ by three percent (measured runs show no more), and gradients are all there."""
    low, high = (played(MISTRAL_7B, optimizer="galore_adamw", optim_rank=rank) for rank in (32, 128))
    assert high.peak == pytest.approx(low.peak, rel=0.03)
    assert kept(high, "gradients") == pytest.approx(2 * PARAMS, rel=1e-3)
    assert kept(high, "optimizer") < 0.2 * kept(played(MISTRAL_7B), "optimizer")


def test_galore_in_fp32_keeps_whole_matrices_of_singular_vectors() -> None:
    """The projection is a view of them: as many rows as the matrix's smaller side, whatever the rank."""
    half, full = (
        kept(played(MISTRAL_7B, optimizer="galore_adamw", precision=precision, attention="math"), "optimizer")
        for precision in ("bf16", "fp32")
    )
    # q and o are [4096, 4096]; k and v [1024, 4096], whose left vectors are [1024, 1024]; three of the MLP
    assert full - 2 * half == 32 * 4 * (2 * (4096 - 128) * 4096 + 2 * (1024 - 128) * 1024 + 3 * (4096 - 128) * 4096)


@pytest.mark.parametrize("optimizer", ["galore_adamw", "muon"])
def test_packed_maps_are_no_matrices_for_an_optimizer(optimizer: str) -> None:
    """GPTQ's map has codes in the place of a weight: what is projected, or made orthogonal, are adapters alone."""
    base: dict[str, Any] = {"method": "lora", "quantization": "gptq-4bit-g128", "targets": "q_proj,v_proj"}
    assert kept(played(MISTRAL_7B, optimizer=optimizer, **base), "optimizer") > 0


def test_muon_passes_by_matrices_without_gradients() -> None:
    """Where none of them has one nothing is allocated."""

    def update(one: Sym) -> None:
        muon.step(replace(named("muon"), targets={one.storage.ordinal}), [one], [[one]])

    assert cost(update, frozen(4, 256)).allocated == 0


def test_apollo_projects_matrices_of_one_row() -> None:
    """Adapters of rank one: the limiter of an update's norm is a number, whatever the matrix is."""
    job: dict[str, Any] = {"method": "lora", "rank": 1, "targets": "q_proj,v_proj"}
    assert kept(played(MISTRAL_7B, optimizer="apollo_adamw", **job), "optimizer") > 0


def test_q_galore_quantises_whole_groups() -> None:
    """Its own assertion: 256 numbers share a scale, and a projection must be made of whole groups."""
    with pytest.raises(UnsupportedError, match="256 numbers at a time, which 3 x 192"):
        played(models.LLAMA, optimizer="q_galore_adamw8bit", optim_rank=3)


def test_galore_needs_linear_maps() -> None:
    """GPT-2 has none: its class is Conv1D, for which the Trainer finds no target either."""
    with pytest.raises(UnsupportedError, match="finds no matrices"):
        played(models.GPT2, optimizer="galore_adamw")


def test_muon_keeps_one_state_of_hidden_matrices() -> None:
    """Two bytes each in bf16 where AdamW keeps four; the tables and norms still have AdamW's."""
    hidden = PARAMS - 2 * 32000 * 4096 - 65 * 4096
    exact = 2 * hidden + 4 * (PARAMS - hidden)
    assert kept(played(MISTRAL_7B, optimizer="muon"), "optimizer") == exact
