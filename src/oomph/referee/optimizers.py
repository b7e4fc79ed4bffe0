"""The real optimizers of a job: torch.optim, bitsandbytes, transformers, set up as people and the HF Trainer do.

`as_on_cuda` makes those that ask where a tensor lies do on tensors called "cpu" what they do on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from unittest.mock import MagicMock, patch

import torch

from oomph.errors import UnsupportedError
from oomph.job import TrainJob
from oomph.optimizer_names import KINDS, Kind

LEARNING_RATE, MOMENTUM = 1e-4, 0.9  # no byte depends on them
BNB = {"adamw": "AdamW", "lion": "Lion", "rmsprop": "RMSprop", "ademamix": "AdEMAMix"}
OF_TORCH = {
    "rmsprop": "RMSprop", "adagrad": "Adagrad", "nadam": "NAdam", "radam": "RAdam", "adamax": "Adamax",
    "adadelta": "Adadelta", "adafactor": "Adafactor",
}  # fmt: skip
COUNTING, A_LATER_STEP = ("nadam", "radam"), 6.0  # the first one whose variance RAdam rectifies
TORCHAO = {"8bit": "AdamW8bit", "4bit": "AdamW4bit", "4bit-128": "AdamW4bit", "fp8": "AdamWFp8"}
SCHEDULE_FREE = {"adamw": "AdamWScheduleFree", "radam": "RAdamScheduleFree", "sgd": "SGDScheduleFree"}
CODE = 256  # numbers in a code book of bitsandbytes
PAGED = 1e5  # elements from which on bitsandbytes pages a state
EVERY_STEP, SELDOM = 1, 200  # steps from one projection to the next
# Where the real optimizers of a rule come from, if not from torch and transformers: module, package.
PACKAGES = {
    "bnb": ("bitsandbytes", "bitsandbytes"), "galore": ("galore_torch", "galore-torch"),
    "galore_8bit": ("galore_torch", "galore-torch"),
    "torchao": ("torchao", "torchao"), "cpu_offload": ("torchao", "torchao"), "lomo": ("lomo_optim", "lomo-optim"),
    "schedule_free": ("schedulefree", "schedulefree"), "stable_adamw": ("optimi", "torch-optimi"),
    "adam_mini": ("adam_mini", "adam-mini"), "lion": ("lion_pytorch", "lion-pytorch"),
    "came": ("came_pytorch", "came-pytorch"),
    "grokadamw": ("grokadamw", "grokadamw"), "apollo": ("apollo_torch", "apollo-torch"),
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
    kind = KINDS[job.optimizer]
    module, package = package_of(kind)
    if find_spec(module) is None:
        raise UnsupportedError(f"{job.optimizer} needs {package}.", f"Do: pip install {package}")
    parameters = [each for each in model.parameters() if each.requires_grad]
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


class InBackward:
    """Optimizers of one parameter each, which hooks step; for who asks, an optimizer that has nothing left to do."""

    def __init__(self, own: dict[Any, Any]) -> None:
        self.own = own
        self.defaults = next(iter(own.values())).defaults
        self.param_groups = [group for each in own.values() for group in each.param_groups]

    @property
    def state(self) -> dict[Any, Any]:
        """The states of all parameters."""
        return {parameter: each.state.get(parameter, {}) for parameter, each in self.own.items()}

    def step(self) -> None:
        """Do nothing: every step is done."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Do nothing: no gradient is left."""


def _adamw(kind: Kind, job: TrainJob, model: Any, parameters: list[Any]) -> Any:
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
    paged = {"is_paged": True} if kind.paged else {}  # RMSprop has no such argument
    return getattr(optim, BNB[kind.name])(parameters, lr=LEARNING_RATE, optim_bits=kind.bits, **paged)


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


def _schedule_free(kind: Kind, job: TrainJob, model: Any, parameters: list[Any]) -> Any:
    made = getattr(import_module("schedulefree"), SCHEDULE_FREE[kind.name])
    optimizer = made(parameters, lr=LEARNING_RATE, foreach=job.implementation == "foreach")
    if job.steady:  # k is the number of steps
        for group in optimizer.param_groups:
            group["k"] = int(A_LATER_STEP)
    optimizer.train()
    return optimizer


def _stable_adamw(kind: Kind, job: TrainJob, model: Any, parameters: list[Any]) -> Any:
    return import_module("optimi").StableAdamW(parameters, lr=LEARNING_RATE)


def _grokadamw(kind: Kind, job: TrainJob, model: Any, parameters: list[Any]) -> Any:
    return import_module("grokadamw").GrokAdamW(parameters, lr=LEARNING_RATE)


def _cpu_offload(kind: Kind, job: TrainJob, model: Any, parameters: list[Any]) -> Any:
    module: Any = import_module("torchao.optim.cpu_offload")
    return Offloaded(module.CPUOffloadOptimizer(parameters, _on_gpu_alone, lr=LEARNING_RATE))


def _on_gpu_alone(groups: list[dict[str, Any]], lr: float) -> Any:
    """Return the fused AdamW that torchao takes; for a parameter in host memory one that does nothing."""
    on_host = getattr(groups[0]["params"], "is_meta", False)
    return MagicMock(param_groups=[]) if on_host else torch.optim.AdamW(groups, lr=lr, fused=True)


class Offloaded:
    """An offloaded optimizer for who asks for states: it has those of its part on the GPU."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.step, self.zero_grad = real.step, real.zero_grad
        self.defaults: dict[str, Any] = {"fused": True}
        self.param_groups = real.d_opt.param_groups if real.d_opt is not None else []
        self.state = real.d_opt.state if real.d_opt is not None else {}


def _adam_mini(kind: Kind, job: TrainJob, model: Any, parameters: list[Any]) -> Any:
    named = [(name, one) for name, one in model.named_parameters() if any(one is each for each in parameters)]
    config = model.config.get_text_config()
    how = {"dim": config.hidden_size, "n_heads": config.num_attention_heads, "verbose": False}
    return import_module("adam_mini").Adam_mini(named, lr=LEARNING_RATE, **how)


def _lion(kind: Kind, job: TrainJob, model: Any, parameters: list[Any]) -> Any:
    return import_module("lion_pytorch").Lion(parameters, lr=LEARNING_RATE)


def _came(kind: Kind, job: TrainJob, model: Any, parameters: list[Any]) -> Any:
    return import_module("came_pytorch.CAME").CAME(parameters, lr=LEARNING_RATE)


def _lomo(kind: Kind, job: TrainJob, model: Any, parameters: list[Any]) -> Any:
    made = import_module("lomo_optim")
    return InFusedBackward(made.AdaLomo(model) if kind.name == "adalomo" else made.Lomo(model))


class InFusedBackward:
    """LOMO for who asks for states and steps: its states are held by name, its backward pass makes the step."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.defaults, self.param_groups = real.defaults, real.param_groups
        found = ("exp_avg_sq_row", "exp_avg_sq_col", "exp_avg_sq")
        self.state = {
            parameter: {key: getattr(real, key)[name] for key in found if name in getattr(real, key, {})}
            for name, parameter in real.model.named_parameters()
        }

    def fused_backward(self, loss: Any) -> None:
        """Run the backward pass and every update."""
        self.real.fused_backward(loss, LEARNING_RATE)

    def step(self) -> None:
        """Do nothing: every step is done."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Do nothing: no gradient is left."""


def _matrices(model: Any, kind: Kind) -> list[Any]:
    """Return the weights that are projected or made orthogonal: by class and name as the HF Trainer, or all hidden."""
    from oomph.referee import jobs

    if kind.targets == "linear":
        linear = ((name, each) for name, each in model.named_modules() if isinstance(each, torch.nn.Linear))
        return [each.weight for name, each in linear if "attn" in name or "mlp" in name]
    return [one for layer in jobs.decoder_layers(model) for one in layer.parameters() if one.dim() == 2]


class Several:
    """Optimizers that step one after another, as one."""

    def __init__(self, each: list[Any]) -> None:
        self.each = each
        self.defaults = each[-1].defaults
        self.param_groups = [group for one in each for group in one.param_groups]

    @property
    def state(self) -> dict[Any, Any]:
        """The states of all parameters."""
        return {parameter: state for one in self.each for parameter, state in one.state.items()}

    def step(self) -> None:
        """Step each."""
        for one in self.each:
            one.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Free or fill all gradients."""
        for one in self.each:
            one.zero_grad(set_to_none=set_to_none)


MAKERS: dict[str, Callable[[Kind, TrainJob, Any, list[Any]], Any]] = {
    "adamw": _adamw, "sgd": _sgd, "rmsprop": _others_of_torch, "adagrad": _others_of_torch, "adafactor": _adafactor,
    "radam": _others_of_torch, "adamax": _others_of_torch, "adadelta": _others_of_torch,
    "torch_adafactor": _others_of_torch, "bnb": _bnb, "torchao": _torchao, "muon": _muon, "galore": _galore,
    "galore_8bit": _galore, "lomo": _lomo, "schedule_free": _schedule_free, "stable_adamw": _stable_adamw,
    "grokadamw": _grokadamw, "apollo": _galore, "lion": _lion, "came": _came,
    "cpu_offload": _cpu_offload, "adam_mini": _adam_mini,
}  # fmt: skip


def _how(job: TrainJob) -> dict[str, bool]:
    return {"foreach": job.implementation == "foreach", "fused": job.implementation == "fused"}


def counters_on_host(optimizer: Any) -> Iterator[Any]:
    """Yield the step counters that torch.optim keeps in host memory, whatever the model is on."""
    for group in optimizer.param_groups if optimizer is not None else ():
        if not group.get("fused") and not group.get("capturable"):
            steps = (optimizer.state.get(one, {}).get("step") for one in group["params"])
            yield from (one for one in (*steps, group["lr"]) if isinstance(one, torch.Tensor))


class _CodeOnHost:
    """A code book that is made in host memory and copied to the GPU when the first state needs it."""

    def to(self, device: Any) -> Any:
        """Return the copy, which then stays."""
        return torch.empty(CODE, dtype=torch.float32, device=device)


@contextmanager
def as_on_cuda(job: Any) -> Iterator[None]:
    """Let bitsandbytes allocate for tensors called "cpu" what it does for those on a GPU.

    Paged states are put on the meta device: no allocator of a GPU sees them. NAdam and RAdam, which do something else
    in their first steps, find the number of a later one. torchao's compiled code is not run. AdaLomo finds that weights
    are not all but zero.
    """
    kind = KINDS.get(getattr(job, "optimizer", "none"))
    with ExitStack() as stack:
        if kind is not None and kind.name in COUNTING and (job.steady or kind.name == "nadam"):
            counting = import_module(f"torch.optim.{kind.name}")
            stack.enter_context(patch.object(counting, "_get_value", lambda value: A_LATER_STEP))
        if kind is not None and kind.rule == "cpu_offload" and find_spec("torchao") is not None:
            offload = import_module("torchao.optim.cpu_offload")
            stack.enter_context(patch.object(offload, "torch", _WithStreams()))
            stack.enter_context(patch.object(offload, "get_available_devices", lambda: ["cuda"]))
        if kind is not None and kind.rule == "apollo" and find_spec("apollo_torch") is not None:
            seeds = import_module("apollo_torch.random_projector")
            stack.enter_context(patch.object(seeds, "next_seed", lambda seed: seed + 1))  # drawn in host memory
        if kind is not None and kind.rule == "stable_adamw" and find_spec("optimi") is not None:
            kernels = import_module("optimi.stableadamw")
            stack.enter_context(patch.object(kernels, "torch", _WithScalarsOnGpu()))
            stack.enter_context(patch.object(kernels, "_default_to_triton", lambda params: True))
            stack.enter_context(patch.object(kernels, "_triton_stableadamw", lambda *args, **kw: None, create=True))
        if kind is not None and kind.rule == "grokadamw" and find_spec("grokadamw") is not None:
            stack.enter_context(patch.object(import_module("grokadamw.grokadamw"), "torch", _WithStatesOnHost()))
            stack.enter_context(patch.object(torch.Tensor, "to", _to(torch.Tensor.to)))
        if kind is not None and kind.rule == "lomo" and find_spec("lomo_optim") is not None:
            stack.enter_context(patch.object(torch.Tensor, "cuda", lambda tensor: tensor))
            stack.enter_context(patch.object(import_module("lomo_optim.adalomo"), "max", _the_tensor, create=True))
        if kind is not None and kind.rule == "torchao" and find_spec("torchao") is not None:
            for bits in ("4bit", "8bit"):  # tables that are worked out once, in host memory
                tables = import_module(f"torchao.optim.subclass_{bits}")
                tables.get_qmap_signed(), tables.get_qmap_unsigned()
            stack.enter_context(patch.object(torch, "compile", lambda *args, **kwargs: lambda *given: None))
        if kind is not None and kind.rule in ("bnb", "galore_8bit") and find_spec("bitsandbytes") is not None:
            base = import_module("bitsandbytes.optim.optimizer").Optimizer8bit
            ademamix = import_module("bitsandbytes.optim.ademamix").AdEMAMix
            functional = import_module("bitsandbytes.functional")
            stack.enter_context(patch.object(base, "fill_qmap", _codes_on_host))
            stack.enter_context(patch.object(base, "get_state_buffer", _state_buffer))
            stack.enter_context(patch.object(ademamix, "_get_state_double_buffer", _double_buffer))
            stack.enter_context(patch.object(torch.cuda, "synchronize", lambda *args: None))
            # States that are not where their parameter is would be refused; nothing is computed here anyway.
            for name in ("optimizer_update_32bit", "optimizer_update_8bit_blockwise", "prefetch_tensor"):
                stack.enter_context(patch.object(functional, name, lambda *args, **kwargs: None))
        yield


class _WithStreams:
    """Torch as an offloaded optimizer sees it: streams that do nothing, pinned memory that no GPU's allocator sees."""

    cuda = MagicMock()

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def empty_like(self, tensor: Any, **how: Any) -> Any:
        """Return a tensor in host memory."""
        return torch.empty_like(tensor, device="meta")


class _WithScalarsOnGpu:
    """Torch as StableAdamW sees it: a scalar that it puts on the parameter's device is not in host memory."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def tensor(self, value: Any, dtype: Any, device: Any = None) -> Any:
        """Return a scalar, by another operation if it is on a device."""
        if device is None:
            return torch.tensor(value, dtype=dtype)
        return torch.full((), value, dtype=dtype, device=device)


class _OnHost:
    """A tensor in host memory of which only its like on the GPU is ever made."""

    def __init__(self, like: Any) -> None:
        self.shape, self.dtype, self.device = like.shape, like.dtype, like.device

    def to(self, device: Any) -> Any:
        """Return the copy on the GPU."""
        return torch.empty(self.shape, dtype=self.dtype, device=self.device)


class _WithStatesOnHost:
    """Torch as GrokAdamW sees it: what it puts on "cpu" is in host memory."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def zeros_like(self, tensor: Any, device: str) -> Any:
        """Return a state of a parameter."""
        return _OnHost(tensor)


def _to(real: Callable[..., Any]) -> Callable[..., Any]:
    return lambda tensor, *args, **kwargs: _OnHost(tensor) if args == ("cpu",) else real(tensor, *args, **kwargs)


def _the_tensor(least: float, value: Any) -> Any:
    value > least  # noqa: B015  what max() asks, and what that allocates
    return value


def _codes_on_host(self: Any) -> None:
    self.name2qmap.update({"dynamic": _CodeOnHost(), "udynamic": _CodeOnHost()})


def _state_buffer(self: Any, p: Any, dtype: Any = torch.float32) -> Any:
    return torch.zeros_like(p, dtype=dtype, device=_where(self, p))


def _double_buffer(self: Any, p: Any, dtype: Any = torch.float32) -> Any:
    return torch.zeros((2, *p.size()), dtype=dtype, device=_where(self, p))


def _where(optimizer: Any, p: Any) -> Any:
    return "meta" if optimizer.is_paged and p.numel() >= PAGED else p.device
