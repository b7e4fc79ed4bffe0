"""What engines' words call a model, where no file or repository of that name can be read: the catalogue knows most.

    Qwen3-32B-Q4_K_M.gguf          a GGUF file, named as llama.cpp and its users do
    org/Qwen3-32B-GGUF:Q4_K_M      a repository of such files, and a tag
    llama3.1:8b, qwen3:30b         Ollama's library: a size, which may be followed by a type
    qwen3-32b@q4_k_m               LM Studio
    org/Qwen3-32B-AWQ              a quantised repository whose ending has one meaning

A name is not its tensors: what is taken by it is an assumption, and said.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from oomph.formats.gguf_convert import in_mxfp4
from oomph.formats.registry import FORMATS
from oomph.sources import catalogue

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.engines.base import Engine

LONGEST = 300  # letters; no name of a model is longer
USUAL = "q4_k_m"  # llama.cpp's -hf without a tag, and what Ollama's library has of most models
USUAL_FILE = "usual"
PLAIN = {"f16": "gguf-f16", "fp16": "gguf-f16", "bf16": "gguf-bf16", "f32": "gguf-f32", "mxfp4": "mxfp4_moe"}
# Endings of repositories that mean one format, whoever made them. FP8, GPTQ and NVFP4 do not.
ENDINGS = {
    "-awq": "awq", "-awq-int4": "awq", "-gptq-int4": "gptq-4bit-g128", "-gptq-int8": "gptq-8bit-g128",
    "-fp8-dynamic": "fp8-dynamic", "-bnb-4bit": "nf4-dq", "-quantized.w4a16": "w4a16", "-quantized.w8a8": "w8a8",
}  # fmt: skip
BITS = re.compile(r"-(?:mlx-)?([234568])bit$")  # mlx-community
BPW = re.compile(r"-(?:(exl[23])-([2-8](?:\.[05])?)bpw|([2-8](?:\.[05])?)bpw-(exl[23]))$")
PART = re.compile(r"-\d{5}-of-\d{5}$")
TYPE = re.compile(r"(.+?)[-._:]((?:i?q|tq)\d\w*|(?:bf|f|fp)\d\d|mxfp4(?:_moe)?)")
PAGES = ("https://huggingface.co/", "huggingface.co/", "hf.co/")
MAKERS = ("meta-", "mistralai-")
# What Ollama's library has under a name without a size (its README), and under names of its own.
LIBRARY = {
    "llama2": "llama2:7b", "llama3": "llama3:8b", "llama3.1": "llama3.1:8b", "llama3.2": "llama3.2:3b",
    "llama3.3": "llama3.3:70b", "mistral": "mistral:7b", "codellama": "codellama:7b", "qwq": "qwq:32b",
    "gemma3": "gemma3:4b", "granite3.3": "granite3.3:8b", "phi4:14b": "phi-4", "deepseek-r1:671b": "deepseek-r1",
    "deepseek-v3:671b": "deepseek-v3", "deepseek-r1:1.5b": "deepseek-r1-distill-qwen:1.5b",
    "deepseek-r1:7b": "deepseek-r1-distill-qwen:7b", "deepseek-r1:8b": "deepseek-r1-0528-qwen3-8b",
    "deepseek-r1:14b": "deepseek-r1-distill-qwen:14b", "deepseek-r1:32b": "deepseek-r1-distill-qwen:32b",
    "deepseek-r1:70b": "deepseek-r1-distill-llama:70b",
}  # fmt: skip
ACTIVE = re.compile(r"a\d+(\.\d+)?b")  # what a mixture's name says behind its size


@dataclass(frozen=True)
class Named:
    """A model of the catalogue, and its format as a name tells it (`why` says how); None where it does not."""

    model: str
    format: str | None
    why: str = "as the name says"


def by_name(ref: str, engine: Engine) -> Named | None:
    """Return what a name means; None for one that is not of those in the head of this file.

    >>> from oomph.engines import engine
    >>> by_name("models/Meta-Llama-3.1-8B-Instruct.Q5_K_M.gguf", engine("llama.cpp"))
    Named(model='llama-3.1-8b-instruct', format='q5_k_m', why='as the name says')
    >>> by_name("someone/Qwen3-14B-AWQ", engine("vllm"))
    Named(model='qwen3-14b', format='awq', why='as the name says')
    """
    if len(ref) > LONGEST:
        return None
    for name, fmt in _readings(ref, engine):
        model = _model(name)
        if model is not None and fmt == USUAL_FILE:
            return Named(model, _usual(model), "llama.cpp's choice where no tag says otherwise")
        if model is not None:
            return Named(model, fmt)
    return None


def format_in(ref: str) -> str | None:
    """Return the GGUF type that the name of a file, or a tag, tells.

    >>> format_in("Qwen3-32B-Q4_K_M.gguf"), format_in("org/Qwen3-32B-GGUF:IQ4_XS"), format_in("qwen3:32b")
    ('q4_k_m', 'iq4_xs', None)
    """
    name = PurePosixPath(ref.replace("\\", "/")[:LONGEST].lower()).name
    found = TYPE.fullmatch(PART.sub("", name.removesuffix(".gguf")))
    return _type(found[2]) if found and (name.endswith(".gguf") or ":" in name) else None


def usual_format(ref: str, found: Subject, engine: Engine) -> str | None:
    """Return the type that Ollama's library has a model in where the tag does not say; None of what is no such name."""
    if engine.name != "ollama" or found.source.origin != "catalogue" or "/" in ref:
        return None
    return _usual(found.source.name)


def _usual(model: str) -> str:
    """Return the type of most files of a catalogued model: that of experts which are published in 4 bits."""
    source = catalogue.find(model)
    return "mxfp4_moe" if source and in_mxfp4(source.config) else USUAL


def reads_gguf(engine: Engine) -> bool:
    """Tell whether GGUF files are what an engine serves."""
    return any(FORMATS[each] == "gguf" for each in engine.formats)


def called(engine: Engine, name: str, fmt: str | None, quantised: bool = False) -> str:
    """Return what a model in a format is called in an engine's command: a file or folder, read back as that.

    `quantised`: its published weights are, so that plain ones lie elsewhere.

    >>> from oomph.engines import engine
    >>> called(engine("llama.cpp"), "qwen3-32b", "q4_k_m"), called(engine("vllm"), "Qwen/Qwen3-32B", "awq")
    ('qwen3-32b-Q4_K_M.gguf', 'Qwen3-32B-awq')
    """
    files = reads_gguf(engine)
    if fmt is None or (FORMATS.get(fmt) == "plain" and not files and not quantised):
        return name
    if not files and FORMATS.get(fmt) != "gguf":
        return f"{name.rpartition('/')[2]}-{fmt}"
    tag = fmt.removeprefix("gguf-").removesuffix("_moe")
    if engine.name in ("ollama", "lm-studio"):
        return f"{name}{':' if engine.name == 'ollama' else '@'}{tag}"
    return f"{name.rpartition('/')[2]}-{tag.upper()}.gguf"


def _readings(ref: str, engine: Engine) -> list[tuple[str, str | None]]:
    """Return the names a reference may stand for, each with its format."""
    ref = ref.strip().lower().replace("\\", "/")
    ref = next((ref.removeprefix(page) for page in PAGES if ref.startswith(page)), ref)
    owner, _, last = ref.rpartition("/")
    repo, _, tag = last.partition("@" if "@" in last else ":")
    if (tag or repo).endswith(".gguf"):
        stem = PART.sub("", (tag or repo).removesuffix(".gguf"))
        found = TYPE.fullmatch(stem)
        return [(found[1], kind)] if found and (kind := _type(found[2])) else []
    if repo.endswith("-gguf"):
        kind = _type(tag) if tag and tag != "latest" else USUAL_FILE
        return [(repo.removesuffix("-gguf"), kind)] if kind else []
    tag = "" if tag == "latest" else tag
    if engine.name == "ollama" and (own := LIBRARY.get(f"{repo}:{tag}" if tag else repo)):
        return [(own, None)]
    if tag:
        if owner not in ("", "library"):
            return []
        if kind := _type(tag):
            return [(repo, kind)]
        size, _, last = tag.rpartition("-")
        kind = _type(last)
        return [(f"{repo}-{size}", kind)] if size and kind else [(f"{repo}-{tag}", None)]
    return _ending(repo, owner, engine)


def _ending(repo: str, owner: str, engine: Engine) -> list[tuple[str, str | None]]:
    """Return a repository's name without its ending and the format that means; of a name alone, any format's name."""
    found: list[tuple[str, str | None]] = [
        (repo.removesuffix(ending), fmt) for ending, fmt in ENDINGS.items() if repo.endswith(ending)
    ]
    if owner == "":
        found += [(repo.removesuffix(f"-{fmt}"), fmt) for fmt in FORMATS if repo.endswith(f"-{fmt}")]
    if (bits := BITS.search(repo)) and (engine.name == "mlx" or owner == "mlx-community"):
        found.append((repo[: bits.start()], f"mlx-{bits[1]}bit"))
    if bpw := BPW.search(repo):
        kind, width = bpw[1] or bpw[4], float(bpw[2] or bpw[3])
        fmt = f"{kind}-{width:.1f}bpw" if kind == "exl2" else f"{kind}-{width:g}bpw"
        found += [(repo[: bpw.start()], fmt)] if fmt in FORMATS else []
    return found


def _type(word: str) -> str | None:
    """Return the GGUF format that a word names."""
    word = PLAIN.get(word, word)
    return word if FORMATS.get(word) == "gguf" else None


@cache
def _known() -> dict[str, str]:
    """Return the names of the catalogue's models, repositories without their owner among them, all spelled alike."""
    found: dict[str, str] = {}
    for entry in catalogue.entries():
        for name in (entry["name"], entry["repo"].lower().rpartition("/")[2], *entry["aliases"]):
            found.setdefault(_letters(name), entry["name"])
    return found


def _letters(name: str) -> str:
    return re.sub(r"[-_: ]", "", name.lower())


def _model(name: str) -> str | None:
    """Return the catalogue's model of a name: the same name, or the only one that begins so."""
    known = _known()
    spelled = [name, *(name.removeprefix(maker) for maker in MAKERS if name.startswith(maker))]
    if "_" in name:
        spelled.append(name.partition("_")[2])  # bartowski's Qwen_Qwen3-32B-GGUF
    for each in map(_letters, spelled):
        if each in known:
            return known[each]
    whole = _letters(name)
    if not re.search(r"\d", whole):  # a family, of many sizes
        return None
    longer = {model: key for key, model in known.items() if key.startswith(whole) and not key[len(whole)].isdigit()}
    active = [model for model, key in longer.items() if ACTIVE.fullmatch(key[len(whole) :])]
    return active[0] if len(active) == 1 else next(iter(longer)) if len(longer) == 1 else None
