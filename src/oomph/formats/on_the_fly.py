"""Formats that transformers makes while it loads a model: which modules they reach.

Every nn.Linear and Conv1D is converted, except (transformers 5.23, quantizers/base.py get_keys_to_not_convert) the
output head, whatever is tied to another module, the module of the very last parameter, and what a class exempts by
`_keep_in_fp32_modules`. A few classes deviate; each is named below and held against the real library in the tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from oomph.formats.base import Format, Stored
from oomph.formats.linear import LinearFormat
from oomph.formats.names import Names, module_of
from oomph.tensor import Weight

if TYPE_CHECKING:
    from oomph.model import Model


def _names(*entries: str) -> Names:
    return Names(entries, "transformers")


# The compressors of DeepSeek-V4's attention.
COMPRESSOR = tuple(
    f"self_attn.compressor.{name}"
    for name in ("kv_proj", "gate_proj", "indexer.kv_proj", "indexer.gate_proj", "indexer.scorer.weights_proj")
)
# Exempt by `_keep_in_fp32_modules`, or because they are tied to another layer (Zamba), by model type.
EXEMPT: dict[str, Names] = {
    **dict.fromkeys(("t5", "mt5", "umt5", "udop", "pop2piano"), _names("wo")),
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa"), _names("indexer.weights_proj")),
    "deepseek_v4": _names(*COMPRESSOR),
    "zamba": _names(r".*\.shared_transf"),
}
# Model types whose router is an nn.Linear; the others keep it in a parameter that nothing converts.
LINEAR_ROUTERS = frozenset({"afmoe", "dbrx", "gemma4", "gemma4_text", "hunyuan_v1_moe", "jetmoe", "longcat_flash"})
# Where the last parameter of the class is not the last of ours.
LAST_LIST = {"gemma3n_text": "altup_unembed_projections"}
_STACKED = (
    "The experts are left in {rest}: transformers 5 keeps those of a layer in one 3-D parameter, which {name} does "
    "not touch. {name}-experts is for software that sees one matrix per expert: transformers 4, vLLM, Unsloth."
)


@dataclass(frozen=True)
class OnTheFly(LinearFormat):
    """A format made while a model is loaded. `experts` says whether the software sees one matrix per expert.

    `exempt` lists, by model type, the modules the library passes by.
    """

    on_the_fly: bool = True
    experts: bool = False
    exempt: Mapping[str, Names] = field(default_factory=lambda: EXEMPT, repr=False, hash=False)

    def quantises(self, weight: Weight) -> bool:
        """Tell whether this is a linear map; experts only where they are apart."""
        return super().quantises(weight) and (self.experts or weight.role != "expert")

    def store(self, weight: Weight, model: Model) -> Sequence[Stored]:
        """Leave what the library passes by as it is, quantise the rest."""
        if weight.role == "router" and model.model_type in LINEAR_ROUTERS and weight.name.endswith(".weight"):
            return self.by_rules(weight)
        if weight.role == "head" and _is_classifier(weight, model):
            return self.by_rules(weight)
        exempt = self.exempt.get(model.model_type) or _last_of_list(weight, model)
        if not self.quantises(weight) or _is_last(weight, model):
            return (self.plain(weight),)
        if exempt is None:
            return self.by_rules(weight)
        found: list[Stored] = []
        for left, row in exempt.split(weight):
            found.extend((self.plain(row),) if left else self.by_rules(row))
        return found

    def notes(self, model: Model) -> tuple[str, ...]:
        """Say what happens to experts, if the model has any."""
        if self.experts or not any(weight.role == "expert" for weight in model.weights):
            return super().notes(model)
        return (*super().notes(model), _STACKED.format(rest=self.rest, name=self.name))


def _last(model: Model) -> Weight | None:
    """Return the last parameter of the model, after which the module it is in is named."""
    return next((w for w in reversed(model.weights) if w.is_param and w.kind != "mtp"), None)


def _last_of_list(weight: Weight, model: Model) -> Names | None:
    """Return the name of the last module where a list of modules ends the class."""
    ending = LAST_LIST.get(model.model_type)
    if ending is None or f".{ending}." not in weight.name or not weight.places:
        return None
    return _names(f"{ending}.{weight.places[-1][-1]}")


def _is_last(weight: Weight, model: Model) -> bool:
    return _last(model) is weight and weight.copies == 1


def _is_classifier(weight: Weight, model: Model) -> bool:
    """Tell whether a head is an ordinary layer to the library: no output embedding, and its bias comes last."""
    bias = f"{module_of(weight)}.bias"
    return weight.shape[0] != model.vocab_size and any(w.name == bias for w in model.weights)


def with_experts(formats: Iterable[OnTheFly]) -> dict[str, Format]:
    """Return the formats by name, each also as name-experts, which quantises experts too."""
    found: dict[str, Format] = {}
    for each in formats:
        name = f"{each.name}-experts"
        found[each.name] = each
        found[name] = replace(each, name=name, title=f"{each.title}, experts too", experts=True)
    return found
