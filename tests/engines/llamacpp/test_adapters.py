"""LoRA adapters and control vectors beside a model, as a real llama.cpp logs them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from oomph.answer import resolve, subject
from oomph.devices import find
from oomph.engines.ik import IkJob
from oomph.engines.llamacpp.deploy import deploy
from oomph.engines.llamacpp.job import LlamaCppJob
from oomph.errors import UnsupportedError
from oomph.header import Source
from oomph.units import MIB
from tests.engines.llamacpp import loras, real, tiny

HUNDREDTH = 0.0051  # half of the last decimal, in MiB
LLAMA = subject("llama-3.1-8b")
_COMPUTE = re.compile(r"sched_reserve: +\S+ compute buffer size = +([\d.]+) MiB")
_ADAPTER = re.compile(r"LoRA buffer size = +([\d.]+) MiB")


def _gguf() -> None:
    pytest.importorskip("gguf", reason="pip install gguf: what writes the files of these tests")


def _of(name: str) -> Any:
    return resolve(Source(name, "config", tiny.CONFIGS[name]))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "changed", "ranks"), [
    ("llama", ("attn_q", "ffn_down", "output"), (512,)),
    ("qwen3moe", ("attn_q", "ffn_down_exps", "ffn_up_exps"), (512, 33)),
])  # fmt: skip
def test_adapters_take_what_a_real_server_logs(
    name: str, changed: tuple[str, ...], ranks: tuple[int, ...], tmp_path: Path
) -> None:
    """Their matrices, and the compute buffer of the graph that multiplies by them, of experts too."""
    real.needed()
    tiny.write(tmp_path / "model.gguf", tiny.CONFIGS[name], "q8_0")
    paths = [tmp_path / f"{rank}.gguf" for rank in ranks]
    for path, rank in zip(paths, ranks, strict=True):
        loras.write(path, tiny.CONFIGS[name], rank, changed)
    said = real.start(
        tmp_path / "model.gguf", lora=list(map(str, paths)), warmup=True, n_ctx=2048, n_parallel=1, flash_attn_type=1,
        no_extra_bufts=True,
    )  # fmt: skip
    job = LlamaCppJob(format="q8_0", ctx_size=2048, parallel=1, gpu_layers=0, lora=",".join(map(str, paths)))
    ours = deploy(_of(name), job)
    held = sum(item.n_bytes for share in ours.shares for item in share.items if item.group == "adapters")
    assert held / MIB == pytest.approx(sum(map(float, _ADAPTER.findall(said.text))), abs=len(ranks) * HUNDREDTH)
    computed = next(line.value for line in ours.printed if line.name == "host_buffer_mib")
    assert computed == pytest.approx(float(_COMPUTE.findall(said.text)[-1]), abs=HUNDREDTH)


def test_matrices_lie_with_those_they_change(tmp_path: Path) -> None:
    """On the GPU of their layer, padded as its own are; loaded only, they leave the graph as it was."""
    _gguf()
    config, path = tiny.CONFIGS["qwen3moe"], str(tmp_path / "lora.gguf")
    loras.write(Path(path), config, 64, ("attn_q", "ffn_down_exps", "ffn_up_exps"))
    gpus = [find("rtx-4090")] * 2
    plain = LlamaCppJob(format="q8_0", context=2048, cpu_moe=True)
    applied, later, alone = (
        deploy(_of("qwen3moe"), job, gpus)
        for job in (
            LlamaCppJob(format="q8_0", context=2048, cpu_moe=True, lora_scaled=f"{path}:0.5"),
            LlamaCppJob(format="q8_0", context=2048, cpu_moe=True, lora=path, lora_later=True),
            plain,
        )
    )
    held = [{item.name: item.n_bytes for item in share.items}.get("LoRA adapters", 0) for share in applied.shares]
    assert all(held)
    assert held[-1] > 5 * sum(held[:-1]), "experts, with the host"
    assert [share.items for share in applied.shares] == [share.items for share in later.shares]
    assert later.shares[0].needs(2048, 1) == alone.shares[0].needs(2048, 1)
    for share, without, n_bytes in zip(applied.shares[:-1], alone.shares[:-1], held, strict=False):
        assert share.room_bytes == (without.room_bytes or 0) - n_bytes


def test_a_control_vector_has_one_for_each_layer_but_the_first() -> None:
    """4096 of F32 with each of 31 layers; several are added up into one."""
    job = LlamaCppJob(format="q8_0", context=2048, control_vector="happy.gguf", control_vector_scaled="honest.gguf:0.5")
    found = deploy(LLAMA, job, [find("rtx-4090")])
    assert next(item.n_bytes for item in found.shares[0].items if item.name == "control vectors") == 31 * 4 * 4096


@pytest.mark.parametrize(("keys", "names", "named"), [
    ({"general.type": "model"}, loras.OF_LAYERS, "no LoRA"), ({"adapter.type": "ia3"}, loras.OF_LAYERS, "no LoRA"),
    ({"general.architecture": "qwen2"}, loras.OF_LAYERS, "qwen2"), ({}, ("token_embd",), "embedding"),
    ({}, ("attn_q",), "no blk"),
])  # fmt: skip
def test_adapters_of_another_kind_or_model_are_named(
    keys: dict[str, str], names: tuple[str, ...], named: str, tmp_path: Path
) -> None:
    """Files that are no adapters, of other architectures, of other depths."""
    _gguf()
    config = tiny.CONFIGS["llama"]
    loras.write(tmp_path / "lora.gguf", {**config, "num_hidden_layers": 9} if not keys else config, 8, names, keys)
    job = LlamaCppJob(format="q8_0", context=2048, lora=str(tmp_path / "lora.gguf"))
    with pytest.raises(UnsupportedError, match=named):
        deploy(_of("llama"), job)


def test_what_is_not_there_is_named() -> None:
    """A file that is missing, ik_llama.cpp, and rows across GPUs, with which new builds do not start."""
    with pytest.raises(UnsupportedError, match="gone"):
        deploy(LLAMA, LlamaCppJob(format="q8_0", context=2048, lora="gone.gguf"))
    with pytest.raises(UnsupportedError, match="lora is nothing that is modelled"):
        IkJob(lora="x.gguf")
    with pytest.raises(UnsupportedError, match="split buffers"):
        LlamaCppJob(split_mode="row")
