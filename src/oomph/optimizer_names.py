"""What people type for an optimizer, and which rule plays it.

Names of the HF Trainer (`TrainingArguments.optim`) mean what the Trainer builds for them; the short ones are oomph's
own. One table, so that the command line, the rules, the referee and readers of other frameworks agree.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

TORCH = ("foreach", "fused", "loop")  # how torch.optim goes through the parameters; foreach is its default on a GPU
NO_FUSED = ("foreach", "loop")
FUSED, FOREACH, LOOP = ("fused",), ("foreach",), ("loop",)


Targets = Literal["", "linear", "hidden"]  # matrices that are treated differently from other parameters


class Kind(NamedTuple):
    """An optimizer: the file in `optimizers/` that plays it, and which of the file's optimizers it is.

    `bits` of a state's element, where the library has a choice; `paged` states lie in unified memory, others
    `on_host`. `implementations`
    are those a job may ask for: none where the library has one way only, one where the name settles it. `targets` are
    the matrices that are projected (GaLore: linear maps of attention and MLPs) or made orthogonal (Muon: hidden ones);
    `in_backward` is what the Trainer calls layerwise. `rank` is of projections, where the name settles it;
    `preconditioned` are gradients by matrices that are computed anew now and again.
    """

    rule: str
    name: str
    bits: int = 0
    paged: bool = False
    on_host: bool = False
    implementations: tuple[str, ...] = ()
    has_state: bool = True
    targets: Targets = ""
    in_backward: bool = False
    rank: int = 0
    preconditioned: bool = False


KINDS: Final[dict[str, Kind]] = {
    "adamw": Kind("adamw", "adamw", implementations=TORCH),
    "adamw_torch": Kind("adamw", "adamw", implementations=TORCH),
    "adamw_hf": Kind("adamw", "hf", implementations=("loop",)),
    "adamw_torch_fused": Kind("adamw", "adamw", implementations=FUSED),
    "adamw-amsgrad": Kind("adamw", "amsgrad", implementations=TORCH),
    "adam": Kind("adamw", "adam", implementations=TORCH),
    "nadam": Kind("adamw", "nadam", implementations=NO_FUSED),
    "radam": Kind("radam", "radam", implementations=NO_FUSED),
    "adamax": Kind("adamax", "adamax", implementations=NO_FUSED),
    "adadelta": Kind("adadelta", "adadelta", implementations=NO_FUSED),
    "sgd": Kind("sgd", "sgd", implementations=TORCH, has_state=False),
    "sgd-momentum": Kind("sgd", "sgd-momentum", implementations=TORCH),
    "rmsprop": Kind("rmsprop", "rmsprop", implementations=NO_FUSED),
    "adagrad": Kind("adagrad", "adagrad", implementations=NO_FUSED),
    "adafactor-torch": Kind("torch_adafactor", "adafactor", implementations=LOOP),
    "adafactor-torch-foreach": Kind("torch_adafactor", "adafactor", implementations=FOREACH),
    "adafactor": Kind("adafactor", "adafactor"),
    "adamw_torch_8bit": Kind("torchao", "8bit", 8),
    "adamw_torch_4bit": Kind("torchao", "4bit", 4),
    "torchao-adamw-4bit": Kind("torchao", "4bit-128", 4),
    "torchao-adamw-fp8": Kind("torchao", "fp8", 8),
    "adamw_8bit": Kind("bnb", "adamw", 8),
    "adamw_bnb_8bit": Kind("bnb", "adamw", 8),
    "adamw_bnb_32bit": Kind("bnb", "adamw", 32),
    "paged_adamw_8bit": Kind("bnb", "adamw", 8, paged=True),
    "paged_adamw_32bit": Kind("bnb", "adamw", 32, paged=True),
    "lion_8bit": Kind("bnb", "lion", 8),
    "lion_32bit": Kind("bnb", "lion", 32),
    "paged_lion_8bit": Kind("bnb", "lion", 8, paged=True),
    "paged_lion_32bit": Kind("bnb", "lion", 32, paged=True),
    "rmsprop_bnb": Kind("bnb", "rmsprop", 32),
    "rmsprop_bnb_8bit": Kind("bnb", "rmsprop", 8),
    "rmsprop_bnb_32bit": Kind("bnb", "rmsprop", 32),
    "galore_adamw": Kind("galore", "adamw", targets="linear"),
    "galore_adafactor": Kind("adafactor", "galore", targets="linear"),
    "galore_adamw_8bit": Kind("galore_8bit", "galore_8bit", 8, targets="linear"),
    "galore_adamw_8bit_layerwise": Kind("galore_8bit", "galore_8bit", 8, targets="linear", in_backward=True),
    "galore_adamw_layerwise": Kind("galore", "adamw", targets="linear", in_backward=True),
    "q_galore_adamw8bit": Kind("q_galore", "q_galore", 8, targets="linear"),
    "q_galore_adamw8bit_per_layer": Kind("q_galore", "q_galore", 8, targets="linear", in_backward=True),
    "apollo_adamw": Kind("apollo", "apollo", targets="linear"),
    "apollo_adamw_layerwise": Kind("apollo", "apollo", targets="linear", in_backward=True),
    "apollo-mini": Kind("apollo", "mini", targets="linear", rank=1),
    "torchao-cpu-offload": Kind("cpu_offload", "adamw", on_host=True),
    "adam-mini": Kind("adam_mini", "adam-mini"),
    "lion": Kind("lion", "lion"),
    "came": Kind("came", "came"),
    "lomo": Kind("lomo", "lomo", has_state=False, in_backward=True),
    "adalomo": Kind("lomo", "adalomo", in_backward=True),
    "schedule_free_adamw": Kind("schedule_free", "adamw", implementations=NO_FUSED),
    "schedule_free_radam": Kind("schedule_free", "radam", implementations=NO_FUSED),
    "schedule_free_sgd": Kind("schedule_free", "sgd", implementations=NO_FUSED),
    "stable_adamw": Kind("stable_adamw", "stable_adamw"),
    "grokadamw": Kind("grokadamw", "grokadamw", on_host=True),
    "muon": Kind("muon", "muon", implementations=TORCH, targets="hidden"),
    "muon-llama-factory": Kind("factory_muon", "muon-llama-factory", targets="hidden"),
    "prodigy": Kind("prodigy", "prodigy"),
    "dadapt-adam": Kind("dadapt", "adam"),
    "adamw-master": Kind("master", "adamw"),
    "optimi-adamw": Kind("optimi_adamw", "adamw"),
    "soap": Kind("soap", "soap", preconditioned=True),
    "shampoo": Kind("shampoo", "shampoo"),
    "sophia-g": Kind("sophia", "sophia-g"),
    "adopt": Kind("adopt", "adopt"),
    "adan": Kind("adopt", "adan"),
    "adagrad_bnb_8bit": Kind("bnb", "adagrad", 8),
    "adagrad_bnb_32bit": Kind("bnb", "adagrad", 32),
    "sgd_bnb_8bit": Kind("bnb", "momentum", 8),
    "sgd_bnb_32bit": Kind("bnb", "momentum", 32),
    "lamb": Kind("bnb", "lamb", 32),
    "lars": Kind("bnb", "lars", 32),
    "ademamix": Kind("bnb", "ademamix", 32),
    "ademamix_8bit": Kind("bnb", "ademamix", 8),
    "paged_ademamix_32bit": Kind("bnb", "ademamix", 32, paged=True),
    "paged_ademamix_8bit": Kind("bnb", "ademamix", 8, paged=True),
}
# Names of the HF Trainer that are not played, and why.
REFUSED: Final[dict[str, str]] = {
    "adamw_torch_xla": "it is for XLA devices",
    "adamw_torch_npu_fused": "it is for Ascend NPUs",
    "adamw_anyprecision": "its package, torchdistx, is no longer published",
    "galore_adafactor_layerwise": "galore-torch refuses how the HF Trainer sets it up",
}
