"""Tables of saved tensors against the ones worked out by hand from traces of the real classes, row by row."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oomph.cli import main
from oomph.errors import UnsupportedError
from oomph.explain import Row, SavedTensors, model_of, saved_tensors
from oomph.families import class_defaults, model_from_config
from oomph.job import TrainJob
from oomph.play import train_step
from oomph.stream import ROUND
from tests.configs import LLAMA_3_8B
from tests.tape.test_tape import GPT2, QWEN3_8B

FLASH = "_scaled_dot_product_flash_attention"
NORMS = ("input_layernorm", "post_attention_layernorm")
Line = tuple[str, str, int, str, str]  # name, dtype, bytes, closed form, the first backward that needs it


def lines(found: SavedTensors) -> list[Line]:
    """The rows of a layer as the tests write them."""
    return sorted(_line(row, found.stack) for row in found.rows)


def _line(row: Row, stack: str) -> Line:
    module = row.module.removeprefix(f"{stack}.*").removeprefix(".")
    return f"{module}: {row.operation}", row.dtype, row.n_bytes, row.formula, row.needed_by.removesuffix(" backward")


def explained(raw: dict[str, Any], job: TrainJob) -> SavedTensors:
    return saved_tensors(model_from_config(raw), job)


# Llama-3-8B, one sequence of 2048 tokens: T tokens, h hidden, a heads, k key/value heads, d head size, i ffn, s seq.
T = s = 2048
h, a, k, d, i = 4096, 32, 8, 128, 14336


def norm(name: str) -> list[Line]:
    """RMSNorm written out in bf16: the fp32 copy, 1/sqrt, the normed copy for the weight's gradient, the result."""
    return [
        (f"{name}: _to_copy", "fp32", 4 * T * h, "4·T·h", "Pow"),
        (f"{name}: rsqrt", "fp32", 4 * T, "4·T", "Rsqrt"),
        (f"{name}: _to_copy", "bf16", 2 * T * h, "2·T·h", "Mul"),
        (f"{name}: mul", "bf16", 2 * T * h, "2·T·h", "Mm"),
    ]


def gated_mlp(ffn: int) -> list[Line]:
    """SwiGLU: gate, silu(gate), up, their product."""
    return [
        ("mlp.gate_proj: mm", "bf16", 2 * T * ffn, "2·T·i", "Silu"),
        ("mlp: silu", "bf16", 2 * T * ffn, "2·T·i", "Mul"),
        ("mlp.up_proj: mm", "bf16", 2 * T * ffn, "2·T·i", "Mul"),
        ("mlp: mul", "bf16", 2 * T * ffn, "2·T·i", "Mm"),
    ]


def flash(made: str) -> list[Line]:
    """The flash kernel: q and k as `made`, v as it was projected, the output, log-sum-exp, random state."""
    return [
        (f"self_attn: {made}", "bf16", 2 * T * a * d, "2·T·a·d", "Flash"),
        (f"self_attn: {made}", "bf16", 2 * T * k * d, "2·T·k·d", "Flash"),
        ("self_attn.v_proj: mm", "bf16", 2 * T * k * d, "2·T·k·d", "Flash"),
        (f"self_attn: {FLASH}", "bf16", 2 * T * a * d, "2·T·a·d", "Flash"),
        (f"self_attn: {FLASH}", "fp32", 4 * T * a, "4·T·a", "Flash"),
        (f"self_attn: {FLASH}", "uint64", ROUND, "512", "Flash"),
        (f"self_attn: {FLASH}", "uint64", ROUND, "512", "Flash"),
    ]


def both_norms() -> list[Line]:
    return [line for name in NORMS for line in norm(name)]


def test_llama_3_8b_with_flash() -> None:
    """19 tensors a layer, 411,321,344 bytes: 16Th + 8T + 4Tad + 4Tkd + 4Ta + 8Ti + 1024."""
    found = explained(LLAMA_3_8B, TrainJob())
    assert lines(found) == sorted([*both_norms(), *gated_mlp(i), *flash("add")])
    expected = 16 * T * h + 8 * T + 4 * T * a * d + 4 * T * k * d + 4 * T * a + 8 * T * i + 1024
    assert found.row_bytes == expected == 411_321_344
    assert found.formula == "4·T·a·d + 4·T·k·d + 16·T·h + 4·T·a + 8·T·i + 8·T + 1024"
    assert (found.every, found.layers_bytes) == (1, 32 * expected)


def test_llama_3_8b_eager() -> None:
    """Scores in fp32 and bf16, keys and values repeated: 16Th + 8T + 6bas² + 8Tad + 8Ti."""
    found = explained(LLAMA_3_8B, TrainJob(attention="eager"))
    attention = [
        ("self_attn: softmax", "fp32", 4 * a * s * s, "4·b·s²·a", "Softmax"),
        ("self_attn: _to_copy", "bf16", 2 * a * s * s, "2·b·s²·a", "Bmm"),
        ("self_attn: add", "bf16", 2 * T * a * d, "2·T·a·d", "Bmm"),
        ("self_attn: clone", "bf16", 2 * 2 * T * a * d, "4·T·a·d", "Bmm"),  # repeated keys and values
        ("self_attn: clone", "bf16", 2 * T * a * d, "2·T·a·d", "Mm"),
    ]
    assert lines(found) == sorted([*both_norms(), *gated_mlp(i), *attention])
    expected = 16 * T * h + 8 * T + 6 * a * s * s + 8 * T * a * d + 8 * T * i
    assert found.row_bytes == expected == 1_241_530_368


def test_llama_3_8b_under_autocast() -> None:
    """fp32 residuals and norms, an input cast for each map, weights cast once: 26Th + ... + 2·N_linear."""
    found = explained(LLAMA_3_8B, TrainJob(precision="amp-bf16"))
    norms = [
        line
        for name in NORMS
        for line in ((f"{name}: mul", "fp32", 4 * T * h, "4·T·h", "Mul"), norm(name)[1])
    ]  # fmt: skip
    inputs = [
        (f"{name}: _to_copy", "bf16", 2 * T * h, "2·T·h", "Mm")
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
    ]
    maps = {"q": (a * d, "2·h·a·d"), "k": (k * d, "2·h·k·d"), "v": (k * d, "2·h·k·d"), "o": (a * d, "2·h·a·d")}
    cache = "autocast's cache of weights"
    weights = [
        *((f"self_attn.{name}_proj: _to_copy", "bf16", 2 * h * n, form, cache) for name, (n, form) in maps.items()),
        *((f"mlp.{name}_proj: _to_copy", "bf16", 2 * h * i, "2·h·i", cache) for name in ("gate", "up", "down")),
    ]
    residuals = (": add", "fp32", 2 * 4 * T * h, "8·T·h", "Pow")
    assert lines(found) == sorted([residuals, *norms, *inputs, *weights, *gated_mlp(i), *flash("_to_copy")])
    linear = 2 * h * (a * d + k * d) + 3 * h * i
    expected = 26 * T * h + 8 * T + 4 * T * a * d + 4 * T * k * d + 4 * T * a + 8 * T * i + 1024 + 2 * linear
    assert found.row_bytes == expected == 931_415_040


def test_llama_3_8b_checkpointed() -> None:
    """Only a layer's input stays, 2Th; the first layer's is the embedding's output and counted there."""
    found = explained(LLAMA_3_8B, TrainJob(checkpointing="non-reentrant"))
    assert lines(found) == [(": add", "bf16", 2 * T * h, "2·T·h", "the layer's second forward")]
    assert found.row_bytes == 2 * T * h == 16_777_216
    assert not [row for row in found.outside if row.operation == "embedding"]


def test_llama_3_8b_checkpointed_under_autocast() -> None:
    """The fp32 input, 4Th; autocast's cache ends with its context, before backward."""
    found = explained(LLAMA_3_8B, TrainJob(precision="amp-bf16", checkpointing="non-reentrant"))
    assert lines(found) == [(": add", "fp32", 4 * T * h, "4·T·h", "the layer's second forward")]


def test_qwen3_8b() -> None:
    """Norms on queries and keys keep 6Tad + 4Ta + 6Tkd + 4Tk more than a Llama layer."""
    found = explained(QWEN3_8B, TrainJob())
    head_norms = [
        (f"self_attn.{name}: {operation}", dtype, width * T * size, form, backward)
        for name, heads, letter in (("q_norm", a, "a"), ("k_norm", k, "k"))
        for operation, dtype, width, size, form, backward in (
            ("_to_copy", "fp32", 4, heads * d, f"4·T·{letter}·d", "Pow"),
            ("rsqrt", "fp32", 4, heads, f"4·T·{letter}", "Rsqrt"),
            ("_to_copy", "bf16", 2, heads * d, f"2·T·{letter}·d", "Mul"),
        )
    ]
    assert lines(found) == sorted([*both_norms(), *gated_mlp(12288), *flash("add"), *head_norms])
    assert found.row_bytes == 377_766_912 + 63_242_240 == 441_009_152


def test_gpt2_with_dropout() -> None:
    """The unfused GELU keeps five tensors of 4h: 58Th + 4Ta + 16T + 1024 in all.

    A trace has 8T, 365,364,224 bytes (tests/tape/test_tape.py): on a GPU mean and rstd are fp32.
    """
    found = explained(GPT2, TrainJob(8, 1024))
    tokens, hidden, heads = 8 * 1024, 768, 12
    ffn = 4 * hidden
    wide = ("2·T·i", 2 * tokens * ffn)
    gelu = [
        ("mlp.c_fc: addmm", "Pow"),
        ("mlp: mul", "Mul"),
        ("mlp: tanh", "Tanh"),
        ("mlp: add", "Mul"),
        ("mlp: mul", "Addmm"),
    ]
    expected = [
        *((name, "bf16", wide[1], wide[0], backward) for name, backward in gelu),
        ("attn.c_attn: addmm", "bf16", 6 * tokens * hidden, "6·T·a·d", "Flash"),  # a·d = h
        (": add", "bf16", 2 * 2 * tokens * hidden, "4·T·h", "LayerNorm"),  # both residual sums
        ("ln_1: native_layer_norm", "bf16", 2 * tokens * hidden, "2·T·h", "Addmm"),
        ("ln_2: native_layer_norm", "bf16", 2 * tokens * hidden, "2·T·h", "Addmm"),
        ("ln_1: native_layer_norm", "fp32", 2 * 4 * tokens, "8·T", "LayerNorm"),  # mean and rstd
        ("ln_2: native_layer_norm", "fp32", 2 * 4 * tokens, "8·T", "LayerNorm"),
        (f": {FLASH}", "bf16", 2 * tokens * hidden, "2·T·a·d", "Flash"),
        (f": {FLASH}", "fp32", 4 * tokens * heads, "4·T·a", "Flash"),
        (f": {FLASH}", "uint64", ROUND, "512", "Flash"),
        (f": {FLASH}", "uint64", ROUND, "512", "Flash"),
        ("attn.resid_dropout: native_dropout", "bool", tokens * hidden, "T·h", "Dropout"),  # masks
        ("mlp.dropout: native_dropout", "bool", tokens * hidden, "T·h", "Dropout"),
    ]
    found_lines = lines(found)
    assert [line for line in found_lines if line not in expected] == []
    assert found_lines == sorted(expected)
    assert found.row_bytes == 58 * tokens * hidden + 4 * tokens * heads + 16 * tokens + 1024
    assert found.row_bytes == 365_364_224 + 8 * tokens


def test_gpt2_under_autocast() -> None:
    """Weights cast once (2·N_linear), norms and residuals in fp32: 555,746,304 bytes a layer, as traced."""
    found = explained(GPT2, TrainJob(8, 1024, precision="amp-bf16"))
    assert found.row_bytes == 555_746_304
    weights = [row for row in found.rows if row.needed_by == "autocast's cache of weights" and len(row.shape) > 1]
    assert sum(row.n_bytes for row in weights) == 2 * 12 * 768**2  # c_attn 3h², c_proj h², two maps of 4h²


@pytest.mark.parametrize("checkpointing", ["reentrant", "non-reentrant"])
def test_every_second_layer_checkpointed(checkpointing: Any) -> None:
    """Two layers keep what one layer keeps and one layer's input; of 33 layers one is left over."""
    raw = {**LLAMA_3_8B, "num_hidden_layers": 33}
    found = explained(raw, TrainJob(checkpointing=checkpointing, checkpoint_every=2))
    assert (found.every, found.periods) == (2, 16)
    assert found.row_bytes == 411_321_344 + 2 * T * h
    whole = explained(LLAMA_3_8B, TrainJob())
    # Layer 32 is checkpointed, as layers 0, 2, 4 ... are.
    assert found.outside_bytes - whole.outside_bytes in range(2 * T * h, 2 * T * h + 2 * 8 * T)


SMALL = {
    "model_type": "llama", "vocab_size": 515, "hidden_size": 96, "intermediate_size": 331, "num_attention_heads": 6,
    "num_key_value_heads": 2,
}  # fmt: skip
JOBS = st.builds(
    TrainJob,
    batch=st.integers(1, 3),
    seq_len=st.integers(1, 100),
    precision=st.sampled_from(["bf16", "amp-bf16"]),
    attention=st.sampled_from(["flash", "eager"]),
    checkpointing=st.sampled_from(["none", "non-reentrant", "reentrant"]),
    checkpoint_every=st.integers(1, 3),
    accumulation=st.integers(1, 2),
    hold_logits=st.booleans(),
    optimizer=st.just("none"),
)


@settings(deadline=None, max_examples=20)
@given(JOBS, st.integers(1, 9))
def test_rows_add_up_to_what_the_full_play_holds(job: TrainJob, layers: int) -> None:
    """Layers and the rest together are the bytes that forward added, at any depth; no row is negative."""
    model = model_from_config({**SMALL, "num_hidden_layers": layers})
    found, played = saved_tensors(model, job), train_step(model, job)
    forward = played.live[played.forward_end] - played.resident - _gradient_bytes(played)
    assert found.layers_bytes + found.outside_bytes == forward
    assert all(row.count > 0 for row in (*found.rows, *found.outside))
    assert found.every == (1 if job.checkpointing == "none" else job.checkpoint_every)


def _gradient_bytes(played: Any) -> int:
    """Bytes of gradients alive when the loss of the last micro-batch is known: what earlier ones left."""
    recorder = played.recorder
    alive: set[int] = set()
    for event in recorder.events[: played.forward_end]:
        (alive.add if event >= 0 else lambda one: alive.discard(~one))(event)
    of = [recorder.allocations[at].n_bytes for at in alive if recorder.why.get(at) == "gradient"]
    return sum(-(-n_bytes // ROUND) * ROUND for n_bytes in of)


@settings(deadline=None, max_examples=20)
@given(JOBS)
def test_closed_forms_give_the_bytes(job: TrainJob) -> None:
    """Every formula, evaluated at the letters' sizes, is its row's bytes."""
    found = saved_tensors(model_from_config({**SMALL, "num_hidden_layers": 6}), job)
    sizes = {letter: size for letter, _, size in found.letters}
    for row in (*found.rows, *found.outside):
        assert evaluated(row.formula, sizes) == row.n_bytes, row
    assert evaluated(found.formula, sizes) == found.row_bytes


def evaluated(formula: str, sizes: dict[str, int]) -> int:
    """A formula as Python would compute it."""
    for sign, python in (("·", "*"), ("²", "**2"), ("³", "**3")):
        formula = formula.replace(sign, python)
    names = {**sizes, "T": sizes.get("b", 1) * sizes.get("s", 1), "round512": lambda n: -(-n // ROUND) * ROUND}
    return eval(formula, {"__builtins__": {}}, names)


def test_a_shallow_model_shows_the_same_layer() -> None:
    """Two layers are too few to fold; the table of a layer is that of 32."""
    shallow, deep = (explained({**LLAMA_3_8B, "num_hidden_layers": n}, TrainJob()) for n in (2, 32))
    assert lines(shallow) == lines(deep)
    assert shallow.outside == deep.outside
    assert shallow.layers_bytes == 2 * deep.row_bytes


def test_a_bare_model_type_means_the_class_defaults() -> None:
    """`llama` is transformers' default Llama: the size of Llama-1-7B."""
    model = model_of("llama")
    assert (model.hidden_size, model.num_layers, model.vocab_size) == (4096, 32, 32000)
    assert class_defaults("llama")["intermediate_size"] == 11008
    assert model_of("gpt2").vocab_size == 50257


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["explain", *args])
    return (stopped.value.code, *capsys.readouterr())  # type: ignore[return-value]


def test_command_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON holds every row, the sums and the letters."""
    code, out, _ = run(capsys, "saved-tensors", "llama-3-8b", "--json")
    found = json.loads(out)
    assert (code, found["row_bytes"], len(found["rows"])) == (0, 411_321_344, 19)
    assert sum(row["n_bytes"] for row in found["rows"]) == found["row_bytes"]
    assert found["letters"]["h"] == {"means": "hidden", "size": 4096}
    assert found["rows"][0]["shape"][-1] == {"axis": "ffn", "size": 14336}


def test_command_for_people_and_pages(capsys: pytest.CaptureFixture[str]) -> None:
    """Both forms show the sum and its closed form."""
    for form in ([], ["--markdown"]):
        code, out, _ = run(capsys, "saved-tensors", "llama-3-8b", *form)
        assert code == 0
        assert "411,321,344" in out
        assert "16·T·h" in out
    code, _, err = run(capsys, "saved-tensors", "llama", "--json", "--markdown")
    assert (code, "choose one" in err) == (2, True)


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["saved-tensors", "rwkv"], 3),
        (["saved-tensors", "llama", "--seq", "0"], 2),
        (["saved-tensors", "llama", "--seq", str(10**30)], 2),
        (["saved-tensors", "no-such-model", "--offline"], 2),
        (["op", "sliu"], 2),
        (["nonsense"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_explained_is_refused(capsys: pytest.CaptureFixture[str], args: list[str], code: int) -> None:
    """Unknown models, jobs and operations: one sentence and the exit code."""
    found, out, err = run(capsys, *args)
    assert (found, out) == (code, "")
    assert "Traceback" not in err


def test_topics_and_operations(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a topic the topics are listed; an operation's rule is its docstring."""
    assert all(topic in run(capsys)[1] for topic in ("saved-tensors", "op"))
    assert "silu" in run(capsys, "op")[1]
    code, out, _ = run(capsys, "op", "silu")
    assert code == 0
    assert "Saves x" in out


def test_a_model_without_decoder_layers_is_refused() -> None:
    """An encoder that has no program has no table."""
    with pytest.raises(UnsupportedError):
        saved_tensors(model_from_config(class_defaults("eurobert")), TrainJob())
