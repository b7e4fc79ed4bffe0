"""What names and arguments of optimizers in config files mean: the Trainer's, axolotl's, LLaMA-Factory's, classes."""

from __future__ import annotations

from typing import Any, Literal, get_args

from oomph.errors import ConfigError, UnsupportedError
from oomph.job_words import OptimizerName
from oomph.optimizer_names import REFUSED
from oomph.runtimes.said import MOST, Reader, Said, shown

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw_torch": {"optimizer": "adamw", "implementation": "foreach"},
    "adamw_torch_fused": {"optimizer": "adamw", "implementation": "fused"},
    "adamw": {"optimizer": "adamw"},
    "sgd": {"optimizer": "sgd"},
    "torch.optim.AdamW": {"optimizer": "adamw", "implementation": "foreach"},
    "torch.optim.SGD": {"optimizer": "sgd"},
    "torch.optim.Adam": {"optimizer": "adam", "implementation": "foreach"},
    "torch.optim.NAdam": {"optimizer": "nadam"},
    "torch.optim.RAdam": {"optimizer": "radam"},
    "torch.optim.Adamax": {"optimizer": "adamax"},
    "torch.optim.Adadelta": {"optimizer": "adadelta"},
    "torch.optim.Adagrad": {"optimizer": "adagrad"},
    "torch.optim.RMSprop": {"optimizer": "rmsprop"},
    "torch.optim.Adafactor": {"optimizer": "adafactor-torch"},
    "bitsandbytes.optim.Adam8bit": {"optimizer": "adamw_8bit"},
    "bitsandbytes.optim.AdamW8bit": {"optimizer": "adamw_8bit"},
    "bitsandbytes.optim.PagedAdamW8bit": {"optimizer": "paged_adamw_8bit"},
    "bitsandbytes.optim.PagedAdamW": {"optimizer": "paged_adamw_32bit"},
    "bitsandbytes.optim.PagedAdamW32bit": {"optimizer": "paged_adamw_32bit"},
    "bitsandbytes.optim.Lion8bit": {"optimizer": "lion_8bit"},
    "bitsandbytes.optim.PagedLion8bit": {"optimizer": "paged_lion_8bit"},
    "bitsandbytes.optim.AdEMAMix8bit": {"optimizer": "ademamix_8bit"},
    "bitsandbytes.optim.PagedAdEMAMix8bit": {"optimizer": "paged_ademamix_8bit"},
    "torchao.optim.AdamW8bit": {"optimizer": "adamw_torch_8bit"},
    "torchao.optim.AdamW4bit": {"optimizer": "torchao-adamw-4bit"},
    "torchao.optim.AdamWFp8": {"optimizer": "torchao-adamw-fp8"},
    "torchao.optim.CPUOffloadOptimizer": {"optimizer": "torchao-cpu-offload"},
    "torchao.prototype.low_bit_optim.AdamW8bit": {"optimizer": "adamw_torch_8bit"},
    "torchao.prototype.low_bit_optim.AdamW4bit": {"optimizer": "torchao-adamw-4bit"},
    "torchao.prototype.low_bit_optim.AdamWFp8": {"optimizer": "torchao-adamw-fp8"},
    "torchao.prototype.low_bit_optim.CPUOffloadOptimizer": {"optimizer": "torchao-cpu-offload"},
    "ao_adamw_8bit": {"optimizer": "adamw_torch_8bit"},
    "ao_adamw_4bit": {"optimizer": "torchao-adamw-4bit"},
    "ao_adamw_fp8": {"optimizer": "torchao-adamw-fp8"},
    "came_pytorch": {"optimizer": "came"},
    "optimi_adamw": {"optimizer": "optimi-adamw"},
    "adopt_adamw": {"optimizer": "adopt"},
}


def optimizer(said: Said, key: str) -> dict[str, Any]:
    """Read the name of an optimizer: the Trainer's, or one of oomph's own."""
    value = said.values[key]
    if isinstance(value, str) and value in REFUSED:
        raise UnsupportedError(f"{said.where}: {key} {value} is not modelled: {REFUSED[value]}.", "Choose another one.")
    own = {name: {"optimizer": name} for name in get_args(OptimizerName)}
    found: dict[str, Any] = said.one_of(key, {**own, **OPTIMIZERS})
    return found


GALORE = {
    "adamw_torch": "galore_adamw", "adamw_torch_fused": "galore_adamw", "adamw_8bit": "galore_adamw_8bit",
    "adamw_bnb_8bit": "galore_adamw_8bit", "adafactor": "galore_adafactor",
}  # fmt: skip
USUAL = {"target": "all", "proj": "random", "proj_type": "std", "scale_type": "channel"}  # what is read of projections
FACTORY_RANK = 16  # galore_rank, apollo_rank


def factory_projection(method: Literal["galore", "apollo"]) -> Reader:
    """Return the reader of LLaMA-Factory's `use_galore` and `use_apollo`, whose ranks and layers are keys of their own.

    Source: LLaMA-Factory, hparams/finetuning_args.py, train/trainer_utils.py.
    """

    def read(said: Said, key: str) -> dict[str, Any]:
        if not said.switch(key):
            return {}
        for other, usual in USUAL.items():
            if said.values.get(f"{method}_{other}", usual) != usual:
                raise UnsupportedError(f"{said.where}: {method}_{other} other than {usual} is not modelled.")
        name = "apollo_adamw"
        if method == "galore":
            name = said.one_of("optim", GALORE) if "optim" in said.values else GALORE["adamw_torch"]
        rank = said.whole(f"{method}_rank") if f"{method}_rank" in said.values else FACTORY_RANK
        layerwise = "_layerwise" if said.switch(f"{method}_layerwise") else ""
        if f"{name}{layerwise}" in REFUSED:
            raise UnsupportedError(f"{said.where}: {name} layer by layer is not modelled: {REFUSED[name + layerwise]}.")
        return {"optimizer": f"{name}{layerwise}", "implementation": "foreach", "optim_rank": rank}

    return read


def optimizer_arguments(said: Said, key: str) -> dict[str, Any]:
    """Read `optim_args`, "rank=64,scale=0.25": what of a projection moves memory, the rest is left alone.

    Source: transformers/trainer_optimizer.py, _get_galore_optimizer, _get_apollo_optimizer.
    """
    value = said.values[key]
    pairs = [part.partition("=") for part in str(value).replace(" ", "").split(",")]
    if not isinstance(value, str) or not all(between for _, between, _ in pairs):
        raise ConfigError(f"{said.where}: {key} is {shown(value)}.", "Give pairs, such as rank=64,scale=0.25.")
    given = {name: text for name, _, text in pairs}
    mini = (
        given.get("scale_type") == "tensor" and given.get("rank") == "1" and said.values.get("optim") == "apollo_adamw"
    )
    for name, usual in USUAL.items():
        if given.get(name, usual) != usual and not (mini and name == "scale_type"):
            raise UnsupportedError(f"{said.where}: {name} other than {usual} in {key} is not modelled.")
    rank = given.get("rank", "")
    if mini:
        return {"optimizer": "apollo-mini"}
    if rank and not (rank.isdecimal() and 1 <= int(rank[:10]) <= MOST):
        raise ConfigError(f"{said.where}: rank in {key} is {rank[:40]!r}.", "Give a whole number of at least 1.")
    return {"optim_rank": int(rank)} if rank else {}


# What axolotl says of Q-GaLore's projections unless told otherwise, and alone is modelled (utils/schemas/training.py).
AXOLOTL_PROJECTION = {"qgalore_proj_quant": True, "qgalore_proj_group_size": 256, "qgalore_proj_type": "std"}
AXOLOTL_RANK = 256  # qgalore_rank


def axolotl_optimizer(said: Said, key: str) -> dict[str, Any]:
    """Read axolotl's `optimizer`; Q-GaLore's rank is a key of its own.

    Source: axolotl, utils/schemas/training.py; utils/optimizers/qgalore.py.
    """
    found = optimizer(said, key)
    if found != {"optimizer": "q_galore_adamw8bit"}:
        return found
    for other, usual in AXOLOTL_PROJECTION.items():
        if said.values.get(other, usual) != usual:
            raise UnsupportedError(f"{said.where}: {other} other than {usual} is not modelled.")
    rank = said.whole("qgalore_rank") if "qgalore_rank" in said.values else AXOLOTL_RANK
    return {**found, "optim_rank": rank}


ATTENTION_AND_MLP = ({"attn", "mlp"}, {".*.attn.*", ".*.mlp.*"})


def projected_modules(said: Said, key: str) -> dict[str, Any]:
    """Read which linear maps GaLore and APOLLO project: those of attention and MLPs, and no others."""
    value = said.values[key]
    if (
        not isinstance(value, list)
        or not all(isinstance(one, str) for one in value)
        or set(value) not in ATTENTION_AND_MLP
    ):
        raise UnsupportedError(
            f"{said.where}: {key} {str(value)[:40]!r} is not modelled.", 'oomph projects ["attn", "mlp"], both.'
        )
    return {}
