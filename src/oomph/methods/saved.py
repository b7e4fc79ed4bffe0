"""Whole modules that train as copies beside their frozen originals: modules_to_save, ln-tuning; and parts that freeze.

Effect: a copy trains, the original stays where it is. Cost: the module once more, with gradients and optimizer states.
Source: PEFT 0.21, utils/other.py, ModulesToSaveWrapper; tuners/ln_tuning/layer.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from oomph.blocks.base import Block, Module, Part, Rewritten, Stack, rewritten
from oomph.blocks.basic import Embedding, Head, Linear, Norm
from oomph.errors import UnsupportedError, UsageError, close_matches
from oomph.methods.bitsandbytes import Linear4bit, Linear8bit
from oomph.methods.quantised import PackedLinear
from oomph.methods.targets import freeze, inner, matches, names_of, typed

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.model import Model

COPIED = (Embedding, Head, Linear, Norm)
# TRANSFORMERS_MODELS_TO_LNTUNING_TARGET_MODULES_MAPPING of PEFT 0.21, for the models that are played.
NORM_TARGETS: dict[str, tuple[str, ...]] = {
    "gpt2": ("ln_1", "ln_2", "ln_f"),
    "llama": ("input_layernorm", "post_attention_layernorm", "norm"),
    "mistral": ("input_layernorm", "post_attention_layernorm", "norm"),
    "qwen2": ("post_attention_layernorm",),
    "qwen3": ("post_attention_layernorm",),
}


def adapt(model: Model, job: TrainJob) -> Model:
    """Return the model for ln-tuning or bitfit: copies of norms train, or nothing but biases."""
    if job.method == "bitfit":
        return replace(model, parts={path: rewritten(part, _only_bias, path) for path, part in model.parts.items()})
    return with_copies(frozen(model), names_of(model, job, NORM_TARGETS) or (), model)


def _only_bias(path: str, part: Part) -> Part:
    return part if isinstance(part, Block) or path.endswith(".bias") else freeze(part)


def frozen(model: Model) -> Model:
    """Return a model in which nothing trains."""
    return replace(model, parts={path: freeze(part) for path, part in model.parts.items()})


def with_copies(model: Model, names: tuple[str, ...], plain: Model) -> Model:
    """Return the model with a copy that trains of every module of these names; raises UsageError for an unknown one.

    A head that shares the embedding's table keeps the original when the embedding is copied, and gets a table of its
    own when it is copied itself. `plain` is the model before anything was frozen.
    """
    found: set[str] = set()
    seen: set[str] = set()
    table = next((path for path, part in plain.parts.items() if isinstance(part, Embedding)), "")
    apart = plain.tied and bool(names) and matches(table, names)  # the tied table's copy is another tensor
    head = "lm_head" in names

    def change(path: str, part: Part) -> Part:
        if not isinstance(part, Block):
            return part
        seen.add(path)
        if isinstance(inner(part), Head) and plain.tied and apart and not head:
            return _with_table(part, trains=False)
        name = next((name for name in names if path.endswith(name)), None)  # norm is input_layernorm too
        if name is None:
            return part
        found.add(name)
        return _copied(path, part, apart and path == table and not head)

    parts = {path: rewritten(part, change, path) for path, part in model.parts.items()}
    for name in names:
        if name not in found:
            known = {path.rpartition(".")[2] for path in seen} - {"*", ""}
            raise UsageError(f"The model has no module {name[:80]!r} to save.", close_matches(name, known))
    return replace(model, parts=parts)


def _copied(path: str, part: Part, original_elsewhere: bool) -> Part:
    """Return a block with a trained copy of its tensors, the original's beside them."""
    block = inner(part)
    if not isinstance(block, COPIED) or not isinstance(part, Block):
        raise UnsupportedError(f"oomph cannot play a trained copy of {path} yet.", "Trace it instead: oomph trace.")
    if isinstance(block, (Linear4bit, Linear8bit, PackedLinear)):
        raise UnsupportedError(
            f"oomph plays no trained copy of {path}, which is quantised: codes take no gradient.",
            "Leave it out of the modules to save, or put an adapter on it: --targets.",
        )
    if isinstance(block, Head) and block.tied:
        return _with_table(part, trains=True)
    copies = typed(part, trains=True)
    assert isinstance(copies, Block)
    original = {} if original_elsewhere else {"original_module": Module(dict(part.parts))}
    return Rewritten(block, {**original, **copies.parts}, part.kind)


def _with_table(part: Part, trains: bool) -> Part:
    """Return a tied head with a table of its own."""
    block = inner(part)
    assert isinstance(block, Head)
    assert isinstance(part, Block)
    weight = typed(replace(block, tied=False).parts["weight"], trains=trains)
    return Rewritten(block, {**part.parts, "weight": weight}, part.kind)


def freeze_parts(model: Model, job: TrainJob) -> Model:
    """Return the model with its embeddings, its towers and its first layers frozen, as many as the job says.

    Raises UsageError where it has fewer.
    """
    from oomph.methods import is_vision

    if job.freeze_layers > model.num_layers:
        raise UsageError(
            f"The model has {model.num_layers} layers, not {job.freeze_layers}.", "Freeze so many or fewer."
        )
    parts = dict(model.parts)
    for path, part in parts.items():
        if (job.freeze_vision and is_vision(part)) or (job.freeze_embeddings and isinstance(inner(part), Embedding)):
            parts[path] = freeze(part)
        elif job.freeze_layers and isinstance(part, Stack) and len(part.layers) == model.num_layers:
            same: dict[int, Part] = {id(layer): freeze(layer) for layer, _ in part.groups()}
            first = tuple(same[id(layer)] for layer in part.layers[: job.freeze_layers])
            parts[path] = replace(part, layers=(*first, *part.layers[job.freeze_layers :]))  # type: ignore[arg-type]
    return replace(model, parts=parts)
