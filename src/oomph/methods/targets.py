"""Which modules get an adapter: names as PEFT's configs have them, and PEFT's own choice for a model type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from oomph.blocks.base import Block, Part, Rewritten, descend, rewritten
from oomph.blocks.basic import Head, Linear
from oomph.blocks.compressed_attention import GroupedLinear
from oomph.blocks.dbrx import TallMoE
from oomph.blocks.moe import MixtureLayer, MoE, RegroupedLayer
from oomph.errors import UnsupportedError, UsageError, close_matches
from oomph.model import Model
from oomph.tensor import Tensor

# TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING of PEFT 0.21, utils/constants.py, for the models that are played.
QUERY_AND_VALUE = (
    "gemma", "gemma2", "gemma3_text", "gpt_neo", "gptj", "llama", "mistral", "opt", "qwen2", "qwen3", "stablelm",
)  # fmt: skip
LORA_TARGETS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(QUERY_AND_VALUE, ("q_proj", "v_proj")),
    **dict.fromkeys(("bert", "electra", "roberta", "xlm-roberta"), ("query", "value")),
    "bart": ("q_proj", "v_proj"),
    **dict.fromkeys(("bloom", "falcon", "gpt_neox"), ("query_key_value",)),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), ("c_attn",)),
    "gemma4": ("language_model.layers.*.self_attn.q_proj", "language_model.layers.*.self_attn.v_proj"),
    "llama4": ("q_proj", "v_proj"),
    "nemotron_h": ("q_proj", "k_proj", "v_proj", "o_proj"),
    **dict.fromkeys(("t5", "mt5"), ("q", "v")),
    "deberta-v2": ("query_proj", "value_proj"),
    "phi": ("q_proj", "v_proj", "fc1", "fc2"),
}
# Types on whose out_proj PEFT 0.21 puts no adapter (tuners/tuners_utils.py, _check_lora_target_modules_mamba).
WITHOUT_OUT_PROJ = frozenset({"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"})
OUT_PROJ = "out_proj"
# Mixtures whose router is a linear map to PEFT 0.21 and returns two tensors, of which its adapter expects one
# (transformers 5.23, Llama4Router and PhimoeTopKRouter; tuners/lora/layer.py, Linear.forward).
MAPS_OF_TWO = frozenset({"llama4", "llama4_text", "phimoe"})
ALL_LINEAR = "all-linear"
DEFAULT = "default"
ATTENTION = "attention"  # the kind of blocks that attend

Wrap = Callable[[str, Part], Block]
Names = tuple[str, ...] | None  # of targets; None are all linear maps


def names_of(model: Model, targets: str, defaults: dict[str, tuple[str, ...]]) -> tuple[str, ...] | None:
    """Return the names a job targets, None for all linear maps; raises UsageError where PEFT would."""
    if targets == ALL_LINEAR:
        if model.decoder_type in MAPS_OF_TWO:
            raise UsageError(
                f"PEFT's all-linear takes the routers of {model.model_type} too, and their adapters cannot run.",
                "Name the maps: --targets q_proj,v_proj, for one.",
            )
        return None
    if targets == DEFAULT:
        if model.model_type not in defaults:
            raise UsageError(
                f"PEFT has no default targets for {model.model_type or 'this model'}.",
                "Name them (--targets q_proj,v_proj), or say --targets all-linear.",
            )
        return defaults[model.model_type]
    return split(targets)


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
