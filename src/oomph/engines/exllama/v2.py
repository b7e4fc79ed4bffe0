"""ExLlamaV2: EXL2, GPTQ or fp16 weights, a cache of 4 to 16 bits, a fixed scratch space on each GPU.

Source: exllamav2 0.3.2 cache.py, model.py (load_autosplit), device.py, attn.py, mlp.py, moe_mlp.py, linear.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Module, descend, walk
from oomph.blocks.cached import Cached, TokenCache
from oomph.engines.base import Deployment, Engine, flag
from oomph.engines.exllama.common import (
    HALF,
    ExllamaJob,
    Rules,
    context_of,
    format_of,
    known,
    limits,
    no_attention_like,
    shares,
)
from oomph.errors import UnsupportedError, UsageError
from oomph.ledger import Item
from oomph.structure import decoder_stack

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.devices import Device
    from oomph.model import Model

SOURCE = "exllamav2 0.3.2"
GROUP = 32  # values that share a scale
MODES = {
    "FP16": (2.0, 2.0),
    "FP8": (1.0, 1.0),
    "Q8": (1.0, 1.0),
    "Q6": (1.0, 0.5),
    "Q4": (0.5, 0.5),
}  # bytes of a value
SCALED = frozenset({"Q8", "Q6", "Q4"})
MOST_UNPACKED = 512 * 2**20  # elements of a matrix that are unpacked at once
SLACK = 128  # bytes that every part of the scratch space has more
MOST_BATCH = 20
# Decoders that exllamav2 0.3.2 knows (architecture.py).
FAMILIES = frozenset({
    "cohere", "cohere2", "dbrx", "gemma", "gemma2", "gemma3", "gemma3_text", "glm4", "gpt2", "gpt_bigcode", "granite",
    "internlm2", "llama", "minicpm", "mistral", "mixtral", "orion", "phi3", "qwen2", "qwen2_vl_text", "qwen2_5_vl_text",
    "qwen3", "qwen3_moe", "starcoder2",
})  # fmt: skip


REFUSED = {
    "-tp": "every layer cut among GPUs", "--tensor-parallel": "every layer cut among GPUs",
    "-gs": "shares of GPUs chosen by hand", "--gpu-split": "shares of GPUs chosen by hand",
    "-dm": "a second model beside the first", "--draft-model-dir": "a second model beside the first",
    "-lq4": "weights that are quantised while they are loaded", "-nfa": "attention scores in memory",
}  # fmt: skip
HARMLESS = frozenset({
    "-mode=", "--mode=", "-rs=", "-ra=", "-temp=", "-topk=", "-topp=", "-repp=", "-maxr=", "-resc=", "-un=", "-bn=",
    "-sp=", "-nsp", "-ncf", "-pt", "-amnesia", "-ngram", "-mli", "-lm", "-ng", "-fst",
})  # fmt: skip
SWITCHES = {"cache_8bit": "FP8", "cache_q8": "Q8", "cache_q6": "Q6", "cache_q4": "Q4"}


@dataclass(frozen=True)
class Exllama2Job(ExllamaJob):
    """What exllamav2's own scripts are asked for: a switch for each mode of the cache."""

    max_seq_len: int | None = flag(None, "-l", "--length", help="tokens of one request")
    chunk_size: int = flag(2048, "-chunk", "--chunk-size", help="tokens of a prompt that are read at once")
    cache_8bit: bool = flag(False, "-c8", "--cache-8bit", help="keys and values in FP8")
    cache_q8: bool = flag(False, "-cq8", "--cache-q8", help="keys and values of 8 bits")
    cache_q6: bool = flag(False, "-cq6", "--cache-q6", help="keys of 8 bits, values of 4")
    cache_q4: bool = flag(False, "-cq4", "--cache-q4", help="keys and values of 4 bits")

    @property
    def mode(self) -> str:
        """How keys and values are kept."""
        switched = [mode for name, mode in SWITCHES.items() if getattr(self, name)]
        asked = switched[0] if switched else self.cache_mode.upper()
        if asked not in MODES or len(switched) > 1:
            shown = " and ".join(switched) or repr(self.cache_mode[:40])
            raise UsageError(f"ExLlamaV2 has no cache mode {shown}.", f"Choose one of {', '.join(MODES)}.")
        return asked


def cache_bytes(cached: Cached, tokens: Any, mode: str) -> Any:
    """Return the bytes of one layer's keys and values, every token of them.

    >>> [cache_bytes(TokenCache(8, 128, 128), 1024, mode) for mode in ("FP16", "Q8", "Q6", "Q4")]
    [4194304, 2228224, 1703936, 1179648]
    """
    if not isinstance(cached, TokenCache) or cached.kind != "attention" or cached.index_dim or cached.chunk:
        raise no_attention_like(cached, "ExLlamaV2")
    width = cached.heads * cached.key_dim
    scales = 2 * cached.heads * (cached.key_dim // GROUP) * HALF if mode in SCALED else 0
    return tokens * (sum(int(width * each) for each in MODES[mode]) + scales)


def beside(inside: Sequence[Cached], tokens: Any, context: Any, mode: str, head_dim: int) -> Any:
    """Return what a GPU with these layers has once: rotary tables, and a layer of the cache in fp16 to work on."""
    tables = 2 * head_dim * HALF * context
    widths = [each.heads * each.key_dim for each in inside if isinstance(each, TokenCache)]
    if mode == "FP16" or not widths:
        return tables
    return tables + 2 * max(widths) * HALF * tokens


def scratch_bytes(layer: Block, rows: int, hidden: int) -> int:
    """Return the scratch space that a layer's modules ask for, the largest counts (`scratch_space_fixed`)."""
    found = 0
    for name, part in layer.parts.items():
        if not isinstance(part, Block):
            continue
        maps = [each for each in walk(Module({name: part})) if each.role in ("linear", "expert", "conv1d")]
        if not maps:
            continue
        unpacked = 2 * min(max(each.shape[0] * each.shape[1] for each in maps), MOST_UNPACKED)
        attention = next((each for each in descend({"": part}) if isinstance(each, Attention)), None)
        if attention is not None:
            state = rows * max(attention.num_heads * attention.head_dim, hidden) * HALF + SLACK
            found = max(found, state + unpacked)
            continue
        state = rows * hidden * HALF + SLACK
        widest = max(max(each.shape) for each in maps)
        both = 2 * (rows * widest * HALF + SLACK)
        experts = max((each.of for each in maps if each.role == "expert"), default=0)
        if experts:
            # Rows gathered for an expert, and its routing.
            narrow = next(each for each in maps if each.role == "expert").shape
            both = 2 * (rows * _ffn(narrow, hidden) * HALF + SLACK)
            state = 2 * state + rows * experts * HALF + SLACK
        found = max(found, state + both + unpacked)
    return found


def _ffn(shape: tuple[int, ...], hidden: int) -> int:
    return shape[0] if shape[1] == hidden else shape[1]


def deploy(found: Subject, job: Exllama2Job, devices: Sequence[Device]) -> Deployment:
    """Return a model in ExLlamaV2 on GPUs."""
    mode = job.mode
    known(found.model, FAMILIES, "ExLlamaV2")
    fmt, assumed = format_of(found, job, ("exl2", "gptq"))
    context, taken = context_of(found, job)
    rows = min(job.chunk_size, context)
    head_dim = _head_dim(found.model)
    layers = [layer for layer, _ in decoder_stack(found.model)[1].groups() if isinstance(layer, Block)]
    hidden = found.model.hidden_size
    scratch = max(scratch_bytes(layer, rows, hidden) for layer in layers)
    rules = Rules(
        lambda cached, tokens, slots: cache_bytes(cached, tokens, mode),
        lambda inside, tokens, at: beside(inside, tokens, at, mode, head_dim),
        (Item("scratch space", "buffers", scratch, source="rule", evidence=SOURCE), _passing(found.model, rows)),
        SOURCE,
        1,
    )
    most = job.max_batch_size or MOST_BATCH
    made = shares(found, fmt, job, devices, rules, context)
    return Deployment(made, context, (), limits(job, context, most), (*assumed, *taken))


def _head_dim(model: Model) -> int:
    for layer, _ in decoder_stack(model)[1].groups():
        if isinstance(layer, Block):
            for each in descend({"": layer}):
                if isinstance(each, Attention):
                    return each.head_dim
    raise UnsupportedError("ExLlamaV2 has no layers without attention.", "Choose another engine.")


def _passing(model: Model, rows: int) -> Item:
    """Return what torch holds of a chunk beside the scratch space: hidden states, queries, keys, values, attention."""
    hidden = rows * model.hidden_size
    widest = 0
    for layer, _ in decoder_stack(model)[1].groups():
        for each in descend({"": layer}) if isinstance(layer, Block) else ():
            if isinstance(each, Attention):
                queries, keys = each.num_heads * each.head_dim, each.num_kv_heads * each.head_dim
                widest = max(widest, rows * 2 * (queries + keys))
    point = (2 * hidden + widest) * HALF
    mask = rows * rows * HALF
    return Item("a chunk on its way", "activations", point, source="derived", evidence=SOURCE, safe=point + mask)


def command(model: str, job: Exllama2Job) -> list[str]:
    """Return the words that start exllamav2's chat with the model."""
    words = ["python", "examples/chat.py", "-m", model]
    context = job.context or job.max_seq_len
    if context:
        words += ["-l", str(context)]
    if job.chunk_size != Exllama2Job().chunk_size:
        words += ["-chunk", str(job.chunk_size)]
    flags = {"FP8": "-c8", "Q8": "-cq8", "Q6": "-cq6", "Q4": "-cq4"}
    return [*words, *([flags[job.mode]] if job.mode in flags else [])]


ENGINE = Engine(
    "exllamav2",
    "ExLlamaV2",
    SOURCE,
    Exllama2Job,
    (("python", "examples/chat.py"), ("python", "test_inference.py")),
    deploy,
    command,
    models=("-m", "--model-dir"),
    harmless=HARMLESS,
    refused=REFUSED,
    vendors=("nvidia", "amd"),
    formats=("fp16", "exl2-8.0bpw", "exl2-6.0bpw", "exl2-5.0bpw", "exl2-4.0bpw", "exl2-3.0bpw", "exl2-2.5bpw"),
)
