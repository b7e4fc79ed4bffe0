"""The real optimizers of a job: torch.optim, bitsandbytes, transformers, set up as people and the HF Trainer do.

optimizers_on_cuda.py makes those that ask where a tensor lies do on tensors called "cpu" what they do on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from typing import Any
from unittest.mock import MagicMock

import torch

from oomph.errors import UnsupportedError
from oomph.job import TrainJob
from oomph.optimizer_names import KINDS, Kind
from oomph.referee.optimizer_shapes import InBackward, InFusedBackward, Offloaded, Several, WithMasters

LEARNING_RATE, MOMENTUM = 1e-4, 0.9  # no byte depends on them
BNB = {
    "adamw": "AdamW", "lion": "Lion", "rmsprop": "RMSprop", "ademamix": "AdEMAMix", "lamb": "LAMB", "lars": "LARS",
    "adagrad": "Adagrad", "momentum": "SGD",
}  # fmt: skip
OF_TORCH = {
    "rmsprop": "RMSprop", "adagrad": "Adagrad", "nadam": "NAdam", "radam": "RAdam", "adamax": "Adamax",
    "adadelta": "Adadelta", "adafactor": "Adafactor",
}  # fmt: skip
A_LATER_STEP = 6  # the first one whose variance RAdam rectifies
TORCHAO = {"8bit": "AdamW8bit", "4bit": "AdamW4bit", "4bit-128": "AdamW4bit", "fp8": "AdamWFp8"}
SCHEDULE_FREE = {"adamw": "AdamWScheduleFree", "radam": "RAdamScheduleFree", "sgd": "SGDScheduleFree"}
# Classes that take parameters and a learning rate, and nothing else that moves memory: module, class.
CLASSES = {
    "stable_adamw": ("optimi", "StableAdamW"), "optimi_adamw": ("optimi", "AdamW"),
    "grokadamw": ("grokadamw", "GrokAdamW"), "lion": ("lion_pytorch", "Lion"), "came": ("came_pytorch.CAME", "CAME"),
    "prodigy": ("prodigyopt", "Prodigy"), "dadapt": ("dadaptation", "DAdaptAdam"),
    "sophia": ("sophia", "SophiaG"), "shampoo": ("pytorch_optimizer", "Shampoo"),
}  # fmt: skip
EVERY_STEP, SELDOM = 1, 200  # steps from one projection to the next
# Where the real optimizers of a rule come from, if not from torch and transformers: module, package.
PACKAGES = {
    "bnb": ("bitsandbytes", "bitsandbytes"), "galore": ("galore_torch", "galore-torch"),
    "galore_8bit": ("galore_torch", "galore-torch"),
    "torchao": ("torchao", "torchao"), "cpu_offload": ("torchao", "torchao"), "lomo": ("lomo_optim", "lomo-optim"),
    "schedule_free": ("schedulefree", "schedulefree"), "stable_adamw": ("optimi", "torch-optimi"),
    "adam_mini": ("adam_mini", "adam-mini"), "lion": ("lion_pytorch", "lion-pytorch"),
    "came": ("came_pytorch", "came-pytorch"),
    "prodigy": ("prodigyopt", "prodigyopt"), "dadapt": ("dadaptation", "dadaptation"),
    "optimi_adamw": ("optimi", "torch-optimi"),
    **dict.fromkeys(("soap", "adopt", "shampoo"), ("pytorch_optimizer", "pytorch_optimizer")),
    "q_galore": ("q_galore_torch", "q-galore-torch"),
    "sophia": ("sophia", "sophia.py of github.com/Liuhong99/Sophia"), "master": ("badam", "badam"),
    "grokadamw": ("grokadamw", "grokadamw"), "apollo": ("apollo_torch", "apollo-torch"),
    "factory_muon": ("llamafactory", "llamafactory"),
}  # fmt: skip


def package_of(kind: Kind) -> tuple[str, str]:
    """Return the module and the package that a real optimizer comes from."""
    return PACKAGES.get("galore" if kind.name == "galore" else kind.rule, ("torch", "torch"))


def make_optimizer(job: TrainJob, model: Any) -> Any:
    """Return the optimizer of a job for the parameters of a model that train, or None.

    Raises UnsupportedError when the package that has it is not installed.
    """
    if job.optimizer == "none":
        return None
    if job.zero_stage:
        raise UnsupportedError("Neither trace nor measurement runs DeepSpeed.", "Leave --zero-stage out.")
    kind = KINDS[job.optimizer]
    module, package = package_of(kind)
    if find_spec(module) is None:
        raise UnsupportedError(f"{job.optimizer} needs {package}.", f"Do: pip install {package}")
    parameters = [each for each in model.parameters() if each.requires_grad]
    if kind.rule == "q_galore":
        from oomph.referee import q_galore

        _override_embeddings(kind, job, model)
        return q_galore.optimizer(job, model)
    if kind.rule in ("bnb", "galore_8bit"):
        _override_embeddings(kind, job, model)
    if not job.optimizer_in_backward or kind.rule == "lomo":
        return MAKERS[kind.rule](kind, job, model, parameters)
    own = {one: MAKERS[kind.rule](kind, job, model, [one]) for one in parameters}
    for one in parameters:
        one.register_post_accumulate_grad_hook(_updating(own))
    return InBackward(own)


def _updating(own: dict[Any, Any]) -> Callable[[Any], None]:
    def update(parameter: Any) -> None:
        own[parameter].step()
        own[parameter].zero_grad()

    return update


def _adamw(kind: Kind, job: TrainJob, model: Any, parameters: list[Any]) -> Any:
    if kind.name == "hf":
        raise UnsupportedError("transformers 5 has no AdamW of its own.", "Take adamw with the implementation loop.")
    if job.denominators_apart:
        raise UnsupportedError("The AdamW of this torch adds epsilon in place.", "Leave --denominators-apart out.")
    if kind.name in OF_TORCH:
        return _others_of_torch(kind, job, model, parameters)
    return torch.optim.AdamW(parameters, lr=LEARNING_RATE, amsgrad=kind.name == "amsgrad", **_how(job))


def _sgd(kind: Kind, job: TrainJob, model: Any, parameters: list[Any]) -> Any:
    momentum = MOMENTUM if kind.name == "sgd-momentum" else 0.0
    return torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=momentum, **_how(job))


def _others_of_torch(kind: Kind, job: TrainJob, model: Any, parameters: list[Any]) -> Any:
    made = getattr(torch.optim, OF_TORCH[kind.name])
    return made(parameters, lr=LEARNING_RATE, foreach=job.implementation == "foreach")


def _adafactor(kind: Kind, job: TrainJob, model: Any, parameters: list[Any]) -> Any:
    from transformers.optimization import Adafactor

    if kind.targets:
        return _galore(kind, job, model, parameters)
    return Adafactor(parameters, lr=LEARNING_RATE, scale_parameter=False, relative_step=False)


def _override_embeddings(kind: Kind, job: TrainJob, model: Any) -> None:
    """Ask for fp32 states of embeddings, as the HF Trainer does."""
    manager: Any = import_module("bitsandbytes.optim").GlobalOptimManager.get_instance()
    manager.initialize()  # it would remember the modules of jobs before
    if kind.rule == "bnb" and kind.bits == 8 and job.embedding_32bit:
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding):
                manager.register_module_override(module, "weight", {"optim_bits": 32})


def _bnb(kind: Kind, job: TrainJob, model: Any, parameters: list[Any]) -> Any:
    optim: Any = import_module("bitsandbytes.optim")
    options: dict[str, Any] = {"is_paged": True} if kind.paged else {}  # RMSprop has no such argument
    if kind.name in ("lars", "momentum"):
        options["momentum"] = MOMENTUM
    return getattr(optim, BNB[kind.name])(parameters, lr=LEARNING_RATE, optim_bits=kind.bits, **options)


def _torchao(kind: Kind, job: TrainJob, model: Any, parameters: list[Any]) -> Any:
    from oomph.optimizers.torchao import CODES

    made = getattr(import_module("torchao.optim"), TORCHAO[kind.name])
    return made(parameters, lr=LEARNING_RATE, block_size=CODES[kind.name].block)


def _galore(kind: Kind, job: TrainJob, model: Any, parameters: list[Any]) -> Any:
    galore: Any = import_module(package_of(kind)[0])
    targets = {id(one) for one in _matrices(model, kind)}
    others = [one for one in parameters if id(one) not in targets]
    gap = EVERY_STEP if job.update_projection else SELDOM
    projection: dict[str, Any] = {
        "rank": kind.rank or job.optim_rank,
        "update_proj_gap": gap,
        "scale": 0.25,
        "proj_type": "std",
    }
    projected = [one for one in parameters if id(one) in targets]
    groups: list[dict[str, Any]] = [{"params": others}, {"params": projected, **projection}]
    groups = [group for group in groups if group["params"]]
    if kind.rule == "apollo":
        projected_group = groups[-1]
        projected_group |= {"proj": "random", "scale_type": "tensor" if kind.name == "mini" else "channel"}
        return galore.APOLLOAdamW(groups, lr=LEARNING_RATE)
    if kind.rule == "galore_8bit":
        return galore.GaLoreAdamW8bit(groups, lr=LEARNING_RATE)
    if kind.rule == "adafactor":
        return galore.GaLoreAdafactor(groups, lr=LEARNING_RATE, scale_parameter=False, relative_step=False)
    return galore.GaLoreAdamW(groups, lr=LEARNING_RATE)


def _muon(kind: Kind, job: TrainJob, model: Any, parameters: list[Any]) -> Any:
    targets = {id(one) for one in _matrices(model, kind)}
    hidden = [one for one in parameters if id(one) in targets]
    others = [one for one in parameters if id(one) not in targets]
    return Several([torch.optim.Muon(hidden, lr=LEARNING_RATE), _adamw(kind, job, model, others)])


def _factory_muon(kind: Kind, job: TrainJob, model: Any, parameters: list[Any]) -> Any:
    targets = {id(one) for one in _matrices(model, kind)}
    made: Any = import_module("llamafactory.third_party.muon.muon").Muon
    hidden, others = ([one for one in parameters if (id(one) in targets) is which] for which in (True, False))
    return made(lr=LEARNING_RATE, muon_params=hidden, adamw_params=others)


def _schedule_free(kind: Kind, job: TrainJob, model: Any, parameters: list[Any]) -> Any:
    made = getattr(import_module("schedulefree"), SCHEDULE_FREE[kind.name])
    optimizer = made(parameters, lr=LEARNING_RATE, foreach=job.implementation == "foreach")
    if job.steady:  # k is the number of steps
        for group in optimizer.param_groups:
            group["k"] = A_LATER_STEP
    optimizer.train()
    return optimizer


def _plain(kind: Kind, job: TrainJob, model: Any, parameters: list[Any]) -> Any:
    module, name = CLASSES[kind.rule]
    return getattr(import_module(module), name)(parameters, lr=LEARNING_RATE)


def _adopt(kind: Kind, job: TrainJob, model: Any, parameters: list[Any]) -> Any:
    made = {"adopt": "ADOPT", "adan": "Adan"}[kind.name]
    return getattr(import_module("pytorch_optimizer"), made)(parameters, lr=LEARNING_RATE)


def _soap(kind: Kind, job: TrainJob, model: Any, parameters: list[Any]) -> Any:
    every = EVERY_STEP if job.update_projection else SELDOM
    return import_module("pytorch_optimizer").SOAP(parameters, lr=LEARNING_RATE, precondition_frequency=every)


def _cpu_offload(kind: Kind, job: TrainJob, model: Any, parameters: list[Any]) -> Any:
    module: Any = import_module("torchao.optim.cpu_offload")
    return Offloaded(module.CPUOffloadOptimizer(parameters, _on_gpu_alone, lr=LEARNING_RATE))


def _on_gpu_alone(groups: list[dict[str, Any]], lr: float) -> Any:
    """Return the fused AdamW that torchao takes; for a parameter in host memory one that does nothing."""
    on_host = getattr(groups[0]["params"], "is_meta", False)
    return MagicMock(param_groups=[]) if on_host else torch.optim.AdamW(groups, lr=lr, fused=True)


def _adam_mini(kind: Kind, job: TrainJob, model: Any, parameters: list[Any]) -> Any:
    named = [(name, one) for name, one in model.named_parameters() if any(one is each for each in parameters)]
    config = model.config.get_text_config()
    how = {"dim": config.hidden_size, "n_heads": config.num_attention_heads, "verbose": False}
    return import_module("adam_mini").Adam_mini(named, lr=LEARNING_RATE, **how)


def _lomo(kind: Kind, job: TrainJob, model: Any, parameters: list[Any]) -> Any:
    made = import_module("lomo_optim")
    real = made.AdaLomo(model) if kind.name == "adalomo" else made.Lomo(model)
    return InFusedBackward(real, LEARNING_RATE)


def _master(kind: Kind, job: TrainJob, model: Any, parameters: list[Any]) -> Any:
    named = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    base = torch.optim.AdamW(parameters, lr=LEARNING_RATE, foreach=True)
    made = import_module("badam").BlockOptimizer
    with redirect_stdout(StringIO()):  # it says what it does
        return WithMasters(made(base, named, [[""]], switch_mode="fixed", start_block=0, verbose=0))


def _matrices(model: Any, kind: Kind) -> list[Any]:
    """Return the weights that are projected or made orthogonal: by class and name as the HF Trainer, or all hidden."""
    from oomph.referee import models

    if kind.targets == "linear":
        linear = ((name, each) for name, each in model.named_modules() if isinstance(each, torch.nn.Linear))
        return [each.weight for name, each in linear if "attn" in name or "mlp" in name]
    return [one for layer in models.decoder_layers(model) for one in layer.parameters() if one.dim() == 2]


MAKERS: dict[str, Callable[[Kind, TrainJob, Any, list[Any]], Any]] = {
    "adamw": _adamw, "sgd": _sgd, "rmsprop": _others_of_torch, "adagrad": _others_of_torch, "adafactor": _adafactor,
    "radam": _others_of_torch, "adamax": _others_of_torch, "adadelta": _others_of_torch,
    "torch_adafactor": _others_of_torch, "bnb": _bnb, "torchao": _torchao, "muon": _muon, "galore": _galore,
    "galore_8bit": _galore, "lomo": _lomo, "schedule_free": _schedule_free, "apollo": _galore,
    "cpu_offload": _cpu_offload, "adam_mini": _adam_mini, "soap": _soap, "adopt": _adopt, "master": _master,
    "factory_muon": _factory_muon,
    **dict.fromkeys(CLASSES, _plain),
}  # fmt: skip


def _how(job: TrainJob) -> dict[str, bool]:
    return {"foreach": job.implementation == "foreach", "fused": job.implementation == "fused"}


def counters_on_host(optimizer: Any) -> Iterator[Any]:
    """Yield the step counters that torch.optim keeps in host memory, whatever the model is on."""
    for group in optimizer.param_groups if optimizer is not None else ():
        if not group.get("fused") and not group.get("capturable"):
            steps = (optimizer.state.get(one, {}).get("step") for one in group["params"])
            yield from (one for one in (*steps, group["lr"]) if isinstance(one, torch.Tensor))
