"""Which modules get an adapter: names as PEFT's configs have them, and PEFT's own choice for a model type."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from oomph.blocks.base import Block, Part, Rewritten, Stack, descend, rewritten
from oomph.blocks.basic import Head, Linear
from oomph.blocks.compressed_attention import GroupedLinear
from oomph.blocks.dbrx import TallMoE
from oomph.blocks.moe import MixtureLayer, MoE, RegroupedLayer
from oomph.errors import UnsupportedError, UsageError, close_matches
from oomph.job import TrainJob
from oomph.job_words import BLOCKED, RANKED
from oomph.model import Model
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.structure import Job

# TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING of PEFT 0.21, utils/constants.py, for the models that are known
# here but Mixtral, whose entry PEFT loses on the way to transformers 5 (NoMatchingPeftModuleError).
QUERY_AND_VALUE = (
    "gemma", "gemma2", "gemma3_text", "gpt_neo", "gptj", "llama", "mistral", "opt", "qwen2", "qwen3",
    "stablelm",
)  # fmt: skip
LORA_TARGETS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(QUERY_AND_VALUE, ("q_proj", "v_proj")),
    **dict.fromkeys(("bert", "electra", "roberta", "xlm-roberta"), ("query", "value")),
    "bart": ("q_proj", "v_proj"),
    **dict.fromkeys(("bloom", "chatglm", "falcon", "gpt_neox"), ("query_key_value",)),
    "codegen": ("qkv_proj",),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), ("c_attn",)),
    "gemma4": ("language_model.layers.*.self_attn.q_proj", "language_model.layers.*.self_attn.v_proj"),
    "llama4": ("q_proj", "v_proj"),
    "mpt": ("Wqkv",),
    "nemotron_h": ("q_proj", "k_proj", "v_proj", "o_proj"),
    **dict.fromkeys(("t5", "mt5"), ("q", "v")),
    "deberta-v2": ("query_proj", "value_proj"),
    "phi": ("q_proj", "v_proj", "fc1", "fc2"),
    "rwkv": ("key", "value", "receptance", "output"),
}
# The mappings of methods that have one of their own there; those of the other methods that take all-linear are LoRA's.
VERA_TARGETS = LORA_TARGETS | {"phi": ("q_proj", "v_proj")}
ADALORA_TARGETS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("gemma", "gemma2", "gemma3_text", "gpt_neo", "gptj", "llama", "llama4", "qwen2", "qwen3"), ("q_proj", "v_proj")
    ),
    **dict.fromkeys(("bloom", "gpt_neox"), ("query_key_value",)),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), ("c_attn",)),
    "bart": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    "bert": ("query", "value"),
    "deberta-v2": ("query_proj", "key_proj", "value_proj", "dense"),
    "gemma4": LORA_TARGETS["gemma4"],
    "nemotron_h": LORA_TARGETS["nemotron_h"],
    "opt": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    "roberta": ("query", "key", "value", "dense"),
    "t5": ("q", "k", "v", "o", "wi", "wo"),
    "mt5": ("q", "k", "v", "o", "wi_0", "wi_1", "wo"),
}
TARGETS_OF = {"adalora": ADALORA_TARGETS, "vera": VERA_TARGETS}
# Types on whose out_proj PEFT 0.21 puts no adapter (tuners/tuners_utils.py, _check_lora_target_modules_mamba).
WITHOUT_OUT_PROJ = frozenset({"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"})
OUT_PROJ = "out_proj"
# Mixtures whose router is a linear map to PEFT 0.21 and returns two tensors, of which its adapter expects one
# (transformers 5.23, Llama4Router and PhimoeTopKRouter; tuners/lora/layer.py, Linear.forward).
MAPS_OF_TWO = frozenset({"llama4", "llama4_text", "phimoe"})
ALL_LINEAR = "all-linear"
DEFAULT = "default"
# Types whose names of maps PEFT translates to those of experts, and so shortens to numbers.
NUMBERED = ("qwen3_omni_moe_thinker",)
PATTERN_SIGNS = frozenset("[](){}|\\^$+?")  # which no name of a module has
MOST_REPEATS = 4  # in a regular expression: each multiplies the steps by the length of a name
_NO_SIGNS = re.compile(r"\\.|\[\^?\]?[^\]]*\]")  # escapes and sets, in which signs of repeating mean themselves
_REPEATED_GROUP = re.compile(r"\)[*+{]")
ATTENTION = "attention"  # the kind of blocks that attend

Wrap = Callable[[str, Part], Block]
Names = tuple[str, ...] | None  # of targets; None are all linear maps


def names_of(model: Model, job: TrainJob, known: dict[str, tuple[str, ...]] | None = None) -> Names:
    """Return the names a job targets, None for all linear maps; raises UsageError where PEFT would.

    Where PEFT has no default for a model it is all linear maps, which `target_note` says; not for a method whose
    defaults are `known`: it is not made for all linear maps.
    """
    if job.targets == DEFAULT:
        found = (_defaults(job.method) if known is None else known).get(model.model_type)
        if found is not None:
            return found
        if known is not None:
            raise UsageError(
                f"PEFT has no default targets of {job.method} for {model.model_type or 'this model'}.",
                "Name them: --targets q_proj,v_proj, for one.",
            )
    if job.targets in (ALL_LINEAR, DEFAULT):
        if model.model_type in NUMBERED:
            raise UsageError(
                f"PEFT's all-linear calls maps of {model.model_type} 0 and 2, as layers are, and fails on these.",
                "Name the maps: --targets q_proj,v_proj, for one.",
            )
        if model.decoder_type in MAPS_OF_TWO:
            raise UsageError(
                f"PEFT's all-linear takes the routers of {model.model_type} too, and their adapters cannot run.",
                "Name the maps: --targets q_proj,v_proj, for one.",
            )
        return None
    return _matching(model, job.targets) if is_pattern(job.targets) else split(job.targets)


def is_pattern(targets: str) -> bool:
    """Tell whether targets are a regular expression, as PEFT takes one text that is no list.

    >>> is_pattern("q_proj,v_proj"), is_pattern("layers.*.mlp.up_proj"), is_pattern("layers.[0-9]+.mlp.up_proj")
    (False, False, True)
    """
    return not PATTERN_SIGNS.isdisjoint(targets)


def _matching(model: Model, pattern: str) -> tuple[str, ...]:
    """Return the paths of modules whose whole names a regular expression matches, layers that are equal under a *.

    Raises UsageError for one that is none, matches nothing or might take for ever, UnsupportedError for one that takes
    some of equal layers. Source: peft 0.21, tuners/tuners_utils.py, check_target_module_exists.
    """
    bare = _NO_SIGNS.sub("x", pattern)
    if _REPEATED_GROUP.search(bare) or sum(bare.count(sign) for sign in "*+{") > MOST_REPEATS:
        why = f"{pattern[:80]!r} repeats too much to be matched in time."
        raise UsageError(why, f"Write at most {MOST_REPEATS} of * + {{}}, none of them behind a bracket.")
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"{pattern[:80]!r} is no regular expression: {error}.", "Name maps: q_proj,v_proj.") from None
    hits: dict[str, set[bool]] = {}
    for path, name in _modules(model):
        hits.setdefault(path, set()).add(compiled.fullmatch(name) is not None)
    found = tuple(path for path, matched in hits.items() if True in matched)
    some = next((path for path in found if False in hits[path]), None)
    if some is not None:
        fix = "Take all of them: write [0-9]+ for the number."
        raise UnsupportedError(f"oomph cannot play adapters on {some} of some layers alone.", fix)
    if not found:
        fix = f"Its linear maps are {', '.join(_maps(model))}."
        raise UsageError(f"The model has no module that {pattern[:80]!r} matches.", fix)
    return found


def _modules(model: Model) -> Iterator[tuple[str, str]]:
    """Yield each module's path, a * for layers' numbers, and its name."""

    def walk(part: Part, path: str, name: str) -> Iterator[tuple[str, str]]:
        if part is None or isinstance(part, Tensor):
            return
        yield path, name
        if isinstance(part, Stack):
            for index, layer in part.parts.items():
                yield from walk(layer, f"{path}.*", f"{name}.{index}")
            return
        for key, each in part.built_parts.items():
            yield from walk(each, f"{path}.{key}", f"{name}.{key}")

    for path, part in model.parts.items():
        yield from walk(part, path, path)


def has_default(model_type: str, method: str) -> bool:
    """Tell whether PEFT chooses the targets of a method for a model type.

    >>> has_default("llama", "lora"), has_default("qwen3_moe", "lora")
    (True, False)
    """
    return model_type in _defaults(method)


def _defaults(method: str) -> dict[str, tuple[str, ...]]:
    return TARGETS_OF.get(method, LORA_TARGETS)


def target_note(model: Model, job: Job) -> tuple[str, ...]:
    """Return a sentence where adapters stand on all linear maps because PEFT has no choice of its own."""
    if not isinstance(job, TrainJob) or job.method not in RANKED | BLOCKED or job.model_code != "transformers":
        return ()
    if job.targets != DEFAULT or has_default(model.model_type, job.method):
        return ()
    return (
        f"PEFT finds no default targets for {model.model_type} and would raise an error: what is played are adapters on"
        " all linear maps. Say --targets all-linear, or name them: --targets q_proj,v_proj.",
    )


def check_mixers(model: Model, names: Names) -> None:
    """Refuse LoRA on the last map of a state-space mixer, as PEFT does, and where it fails; raises UsageError."""
    if model.model_type in WITHOUT_OUT_PROJ and (names is None or any(matches(name, (OUT_PROJ,)) for name in names)):
        raise UsageError(
            f"PEFT puts no LoRA on {OUT_PROJ} of {model.model_type}.", "Name other maps: --targets in_proj, for one."
        )


def attention_maps(model: Model) -> str:
    """Return the names of the linear maps of a model's attention, as a job's targets; "" where none is found."""
    names = (
        name
        for block in descend(model.parts)
        if block.kind == ATTENTION
        for name, part in block.built_parts.items()
        if isinstance(inner(part), Linear)
    )
    # PEFT takes afmoe's gate for that of experts, and cannot adapt a map of groups.
    left = ("gate_proj", "o_a_proj")
    return ",".join(name for name in dict.fromkeys(names) if name not in left)


def has_stacks(model: Model) -> bool:
    """Tell whether experts are stacked in one parameter, which quantisers of linear maps pass by."""
    return any(isinstance(block, (MoE, MixtureLayer)) and block.stacked is not None for block in _blocks(model))


def has_own_loop(model: Model) -> bool:
    """Tell whether the class knows no form of experts but its own loop: DBRX's tall matrices, Step-3.7's stacks."""
    return any(
        isinstance(each, TallMoE) or (isinstance(each, MoE) and each.stacked is not None and each.stacked.loops)
        for each in _blocks(model)
    )


def _blocks(model: Model) -> Iterator[Block]:
    """Yield every block, those that a class keeps otherwise than checkpoints name them included."""
    for block in descend(model.parts):
        yield block
        if isinstance(block, RegroupedLayer) and block.built is not None:
            yield from descend(block.built.parts)


def split(names: str) -> tuple[str, ...]:
    """Return names written with commas between them.

    >>> split("q_proj, v_proj")
    ('q_proj', 'v_proj')
    """
    return tuple(dict.fromkeys(word.strip() for word in names.split(",") if word.strip()))


def matches(path: str, names: tuple[str, ...]) -> bool:
    """Tell whether one of the names is a module's path or the end of it, cut at a dot (check_target_module_exists).

    >>> matches("model.layers.*.self_attn.q_proj", ("q_proj",)), matches("model.layers.*.mlp.up_proj", ("proj",))
    (True, False)
    """
    return any(path == name or path.endswith(f".{name}") for name in names)


def wrap_targets(model: Model, names: tuple[str, ...] | None, wrap: Wrap, left: tuple[str, ...] = ()) -> Model:
    """Return the model with `wrap(path, block)` in the place of each targeted linear map, all else frozen.

    `names` None are all linear maps but the head; modules named in `left` are left alone. Raises UsageError for a name
    that no module has, UnsupportedError for one that is no linear map.
    """
    found: set[str] = set()
    seen: set[str] = set()

    def change(path: str, part: Part) -> Part:
        if isinstance(part, Block):
            seen.add(path)
            name = None if matches(path, left) else _hit(path, part, names)
            if name is None:
                return part
            found.add(name)
            if isinstance(inner(part), GroupedLinear):
                raise UsageError(
                    f"PEFT's adapters cannot run beside {path.rpartition('.')[2]}, which maps groups of heads.",
                    "Name other maps: --targets q_a_proj,q_b_proj,kv_proj, for one.",
                )
            return wrap(path, freeze(part))
        return freeze(part)

    parts = {path: rewritten(part, change, path) for path, part in model.parts.items()}
    for name in names or ():
        if name not in found:
            known = {path.rpartition(".")[2] for path in seen} - {"*", ""}
            fix = close_matches(name, known) or f"Its linear maps are {', '.join(_maps(model))}."
            raise UsageError(f"The model has no module {name[:80]!r} to adapt.", fix)
    if not found:
        raise UsageError("The model has no linear map to adapt.", "Name the targets.")
    return replace(model, parts=parts)


def _maps(model: Model) -> list[str]:
    """Return the names of all linear maps, in order."""
    names = [
        name for block in descend(model.parts) for name, part in block.parts.items() if isinstance(inner(part), Linear)
    ]
    return [name for name in dict.fromkeys(names) if name != "*"]


def _hit(path: str, block: Block, names: tuple[str, ...] | None) -> str | None:
    """Return which name targets a block, None for none of them."""
    if names is None:
        return ALL_LINEAR if isinstance(inner(block), Linear) else None
    name = next((name for name in names if matches(path, (name,))), None)
    if name is not None and not isinstance(inner(block), Linear) and not _is_plain_head(inner(block)):
        raise UnsupportedError(
            f"oomph cannot play an adapter on {path} yet: it is no linear map, or a head that shares its table.",
            "Leave it out, or trace the real code: oomph trace.",
        )
    return name


def _is_plain_head(block: Part) -> bool:
    """Tell whether a block is a language head with a table of its own."""
    return type(block) is Head and not block.tied


def inner(part: Part) -> Part:
    """Return a block as it was before some of its parts were rewritten."""
    return part.block if isinstance(part, Rewritten) else part


def freeze(part: Part) -> Part:
    """Return a part none of whose tensors trains."""
    return typed(part, trains=False)


def typed(part: Part, *, dtype: str | None = None, trains: bool | None = None) -> Part:
    """Return a part whose tensors all have a dtype of their own, or all train or not; None changes nothing."""

    def change(path: str, part: Part) -> Part:
        if not isinstance(part, Tensor):
            return part
        return replace(
            part, dtype=part.dtype if dtype is None else dtype, trains=part.trains if trains is None else trains
        )

    return rewritten(part, change)
