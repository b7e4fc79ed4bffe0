"""ExLlamaV2 and ExLlamaV3: caches and scratch space as their own classes make them, layers over GPUs, refusals.

Goldens: the real classes of both, made on the CPU or the meta device (scripts/record_exllama_golden.py).
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from oomph.answer import Subject, subject
from oomph.blocks.attention import Attention
from oomph.blocks.base import Module
from oomph.blocks.cached import StateCache, TokenCache
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.moe import MoE, Router
from oomph.devices import find
from oomph.engines import engine
from oomph.engines.command_line import read_text
from oomph.engines.exllama import v2, v3
from oomph.engines.exllama.common import ExllamaJob
from oomph.engines.serving import HOST, POOL, serve
from oomph.errors import OomphError, UnsupportedError

GOLDEN = json.loads((Path(__file__).parent / "exllama_golden.json").read_text())
GPU = find("rtx-4090")
STATES = {
    "gated_delta_net": StateCache("gated_delta_net", 8192, 4, (32, 128, 128)),
    "short_conv": StateCache("short_conv", 2048, 3),
}
JOB = ExllamaJob(context=8192, format="exl3-4bpw")


def _ledger(job: ExllamaJob, name: str = "llama-3-8b", gpus: int = 1, program: str = "exllamav3") -> Any:
    if program == "exllamav2":
        job = v2.Exllama2Job(**{each.name: getattr(job, each.name) for each in fields(job)})
    return serve(subject(name), engine(program), job, [GPU] * gpus)


@pytest.mark.parametrize("row", GOLDEN["v3"], ids=lambda row: "-".join(map(str, row.values())))
def test_a_layers_cache_is_what_v3s_class_holds(row: dict) -> None:
    """Pages of keys and values, of latents, windows and states of slots, to the byte."""
    bits = v3.bits_of(row.get("mode", "FP16"))
    kind, rope = row["kind"], 0
    if kind in STATES:
        cached: Any = STATES[kind]
    elif kind == "latent":
        cached, rope = TokenCache(1, row["heads"] + row["dim"], 0, "latent"), row["dim"]
    else:
        cached = TokenCache(row["heads"], row["dim"], row["dim"], window=row.get("window"))
    less = 0 if kind == "window" else None
    assert v3.cache_bytes(cached, 4096, row.get("slots", 1), bits, rope, less) == row["bytes"]


@pytest.mark.parametrize("row", GOLDEN["v2"], ids=lambda row: "-".join(map(str, row.values())))
def test_a_cache_is_what_v2s_class_holds(row: dict) -> None:
    """Codes, scales, and the layer in fp16 that quantised ones are worked on in, to the byte."""
    cached = TokenCache(row["heads"], row["dim"], row["dim"])
    layers = row["layers"] * v2.cache_bytes(cached, row["tokens"], row["mode"])
    working = v2.beside([cached] * row["layers"], row["tokens"], 0, row["mode"], row["dim"])
    assert layers + working == row["bytes"]


@pytest.mark.parametrize("row", GOLDEN["v2_scratch"], ids=lambda row: "-".join(map(str, row["shape"])))
def test_the_scratch_space_is_what_v2s_modules_ask_for(row: dict) -> None:
    """The largest of attention and MLP, dense or a mixture, to the byte."""
    hidden, ffn, heads, kv_heads, dim, experts, chunk = row["shape"]
    attention = Module({"self_attn": Attention(hidden, heads, kv_heads, dim)})
    assert v2.scratch_bytes(attention, chunk, hidden) == row["attention"]
    dense = GatedMLP(hidden, ffn)
    expert = GatedMLP(hidden, ffn, role="expert")
    mlp = MoE(Router(hidden, experts), expert, experts, 2) if experts else dense
    assert v2.scratch_bytes(Module({"mlp": mlp}), chunk, hidden) == row["mlp"]


def test_the_embedding_stays_in_the_machines_memory() -> None:
    """And tied embeddings have a head of their own on the GPU."""
    items = _ledger(JOB, "qwen3-4b").items
    assert [item.device for item in items if item.kind == "embedding"] == [HOST]
    assert {item.device for item in items if item.kind == "lm_head"} == {"gpu"}


def test_layers_fill_one_gpu_after_the_other() -> None:
    """Mixtral in 4 bits takes two; every layer lies somewhere, the head on the last."""
    found = _ledger(replace(JOB, concurrency=8), "mixtral-8x7b", gpus=3)
    weights = [item for item in found.items if item.name.startswith("layers")]
    assert [item.device for item in weights] == ["gpu 0", "gpu 1"]
    assert weights[0].name.startswith("layers 0 to ")
    assert weights[1].name.endswith(" to 31")
    assert {item.device for item in found.items if item.kind == "lm_head"} == {"gpu 1"}
    assert found.verdict.fits
    one = _ledger(replace(JOB, concurrency=8), "mixtral-8x7b")
    assert found.groups["kv_cache"] == one.groups["kv_cache"]
    assert abs(found.groups["weights"] - one.groups["weights"]) < 2**20


def test_a_cache_of_a_size_is_there_whatever_is_asked() -> None:
    """cache_size is allocated at the start; a request longer than it is refused."""
    found = _ledger(replace(JOB, cache_size=65536))
    assert any(item.name == POOL for item in found.items)
    assert found.groups["kv_cache"] == 32 * 2 * 8 * 128 * 2 * 65536
    assert "65,536" in _ledger(replace(JOB, context=70000, cache_size=65536)).verdict.sentence


def test_tokens_are_whole_pages() -> None:
    """One token more than a page is two pages."""
    share = engine("exllamav3").deploy(subject("llama-3-8b"), JOB, [GPU]).shares[0]
    assert share.needs(257, 3) == share.needs(512, 3) == 3 * share.needs(512, 1)


@pytest.mark.parametrize("program", ["exllamav2", "exllamav3"])
def test_a_map_says_what_single_answers_say(program: str) -> None:
    """Arrays and ints."""
    np = pytest.importorskip("numpy")
    kind = v2.Exllama2Job if program == "exllamav2" else ExllamaJob
    job = kind(context=8192, format="fp16", cache_mode="Q6")
    share = engine(program).deploy(subject("llama-3-8b"), job, [GPU]).shares[0]
    contexts = np.array([1, 256, 257, 9000])
    assert share.needs(contexts, 2).tolist() == [share.needs(int(each), 2) for each in contexts]
    for context in contexts:
        assert share.needs(int(context), 2) == sum(item.n_bytes for item in share.held(int(context), 2))


@pytest.mark.parametrize(
    ("program", "job", "name", "named"),
    [
        ("exllamav3", replace(JOB, cache_mode="Q9"), "llama-3-8b", "'Q9'"),
        ("exllamav2", replace(JOB, cache_mode="8,6"), "llama-3-8b", "'8,6'"),
        ("exllamav2", JOB, "deepseek-v3", "deepseek_v3"),
        ("exllamav3", replace(JOB, context=10**12), "llama-3-8b", "in no machine"),
        ("exllamav3", replace(JOB, chunk_size=0), "llama-3-8b", "at least 1"),
    ],
)
def test_what_is_not_there_is_refused_by_name(program: str, job: ExllamaJob, name: str, named: str) -> None:
    """Modes, families and sizes."""
    with pytest.raises(OomphError, match=named):
        _ledger(job, name, program=program)


def test_a_command_is_read_and_written() -> None:
    """TabbyAPI's own flags."""
    found = read_text("python main.py --model-name q --max-seq-len 16384 --cache-mode 8,6 --autosplit-reserve 512 96")
    assert found.engine.name == "exllamav3"
    assert found.job == ExllamaJob(max_seq_len=16384, cache_mode="8,6", autosplit_reserve=(512, 96))
    words = engine("exllamav3").command("q", found.job)
    assert read_text(" ".join(words)).job == replace(found.job, cache_size=16384)
    chat = read_text("python examples/chat.py -m q -l 8192 -cq6 -mode llama")
    assert (chat.engine.name, chat.model, chat.job.mode) == ("exllamav2", "q", "Q6")
    with pytest.raises(OomphError, match="Q6 and Q4"):
        _ = replace(chat.job, cache_q4=True).mode
    with pytest.raises(UnsupportedError, match="--tensor-parallel"):
        read_text("python main.py --model-name q --tensor-parallel true")


def test_the_models_context_is_said_to_be_taken() -> None:
    """TabbyAPI's default, never in silence."""
    assert any("8,192" in each for each in _ledger(ExllamaJob(format="exl3-4bpw")).assumptions)
    found = subject("llama-3-8b")
    unknown = Subject(found.source, replace(found.model, context_length=None), "config")
    with pytest.raises(OomphError, match="--context"):
        serve(unknown, engine("exllamav3"), ExllamaJob(format="exl3-4bpw"), [GPU])
