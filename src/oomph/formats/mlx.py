"""MLX (mlx-lm): codes of 2 to 8 bits in groups of inputs, embeddings and head as well, on Apple silicon.

Effect: bits / 8 bytes per weight and, per group of 64 inputs, a scale and a bias of 2 bytes each; norms stay.
Cost: runs in MLX only.
When: any model on a Mac.
Flag: --format mlx-4bit | mlx-4bit-g32 | mlx-4bit-g128 (2, 3, 4, 5, 6, 8 bits) | mlx-mxfp4 | mlx-nvfp4 | mlx-mxfp8 |
    mlx-mixed-2-6 | mlx-mixed-3-4 | mlx-mixed-3-6 | mlx-mixed-4-6, or "quantization" of an MLX config.json
Source: mlx 0.32.4 nn/layers/quantized.py, mlx-lm 0.32.2 utils.py (quantize_model, load_model), convert.py (recipes).

A matrix whose inputs are no multiple of the group stays as it is. Routers take 8 bits in groups of 64, as the
predicates of mlx-lm's mixtures of experts say, unless the config names them; where they are a bare array they stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from oomph.errors import UnsupportedError
from oomph.formats.base import Format, Stored
from oomph.formats.linear import LINEARS_AND_HEAD, OUTSIDE_DECODER, Matrix, Scheme
from oomph.formats.names import WRAPPERS, module_of
from oomph.formats.reading import one_of, word
from oomph.formats.schemes import WORD_BITS
from oomph.tensor import Role, Weight

if TYPE_CHECKING:
    from oomph.model import Model

BITS = (2, 3, 4, 5, 6, 8)
GROUPS = (32, 64, 128)
GROUP = 64
ROLES: frozenset[Role] = LINEARS_AND_HEAD | {"embedding", "router"}
# Modes of the microscaling formats: inputs per group and bits of a code; a byte of scale per group, no bias.
SCALED = {"mxfp4": (32, 4), "nvfp4": (16, 4), "mxfp8": (32, 8)}
RECIPES = {"mixed-2-6": (2, 6), "mixed-3-4": (3, 4), "mixed-3-6": (3, 6), "mixed-4-6": (4, 6)}
OUTER_SHARE = 8  # a recipe gives the first and the last eighth of the layers more bits,
EVERY_THIRD = 3  # and every third layer between
SHARED_GATE = "shared_expert_gate"
# Decoders whose router is a bare array in mlx-lm's class: it is never quantised.
BARE_ROUTERS = frozenset({
    "bailing_moe_v3", "deepseek", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots1", "exaone_moe", "glm4_moe",
    "glm4_moe_lite", "glm_moe_dsa", "kimi_k2", "mimo_v2_flash", "nemotron_h",
})  # fmt: skip
SENSITIVE = ("v_proj", "v_a_proj", "v_b_proj", "down_proj")
ROUTERS = "Routers are counted at 8 bits in groups of 64, as mlx-lm's mixtures of experts keep them."


@dataclass(frozen=True)
class Grouped(Scheme):
    """Codes packed into words, and per group of inputs a scale and, where `biased`, a bias.

    >>> [t.shape for t in Grouped(4, 64).tensors(Matrix("q_proj", 4096, 2560, 1, "bf16"))]
    [(4096, 320), (4096, 40), (4096, 40)]
    """

    bits: int
    group: int
    biased: bool = True

    def tensors(self, m: Matrix) -> Sequence[Stored]:
        """Return weight, scales and biases."""
        groups = m.into // self.group
        codes = m.tensor("weight", (m.out, m.into * self.bits // WORD_BITS), "uint32")
        scales = m.tensor("scales", (m.out, groups), m.rest if self.biased else "uint8")
        return (codes, scales, m.tensor("biases", (m.out, groups), m.rest)) if self.biased else (codes, scales)


ROUTER = Grouped(8, GROUP)


@dataclass(frozen=True)
class MlxFormat(Format):
    """One scheme for all matrices; `named` modules have their own (None: left as they are), by MLX's paths.

    A recipe has a `high` scheme for what it holds to be sensitive. `routers`: what they take where no path names them.
    """

    scheme: Grouped = Grouped(4, GROUP)
    named: Mapping[str, Grouped | None] = field(default_factory=dict, hash=False)
    high: Grouped | None = None
    routers: Grouped | None = None

    def quantises(self, weight: Weight) -> bool:
        """Tell whether MLX has a quantised class for the module: linear maps, embeddings, experts."""
        inside = weight.kind not in OUTSIDE_DECODER and weight.role in ROLES and len(weight.shape) == 2
        return inside and weight.name.endswith(".weight") and weight.shape[1] % self.scheme.group == 0

    def store(self, weight: Weight, model: Model) -> Sequence[Stored]:
        """Return the tensors of a row, its layers together where they are stored alike."""
        if not self.quantises(weight) or (weight.role == "router" and model.decoder_type in BARE_ROUTERS):
            return (self.plain(weight),)
        alike: dict[Grouped | None, list[int]] = {}
        for layer in weight.places[0] if weight.places else (0,):
            alike.setdefault(self._of(weight, layer, model.num_layers), []).append(layer)
        found: list[Stored] = []
        for scheme, layers in alike.items():
            part = replace(weight, places=(tuple(layers), *weight.places[1:])) if weight.places else weight
            if scheme is None:
                found.append(self.plain(part))
            else:
                out, into = part.shape
                found += scheme.tensors(Matrix(module_of(part), out, into, part.copies, self.rest))
        return found

    def _of(self, weight: Weight, layer: int, layers: int) -> Grouped | None:
        """Return how one layer's copies of a row are stored."""
        path = _path(weight, layer)
        if path in self.named:
            return self.named[path]
        if self.high is None:
            gate = weight.role == "router" or path.endswith(SHARED_GATE)
            return self.routers if gate and self.routers else self.scheme
        more = weight.role == "head" or (any(part in path for part in SENSITIVE) and _sensitive(layer, layers))
        return self.high if more else self.scheme

    def notes(self, model: Model) -> tuple[str, ...]:
        """Return what was taken for routers, where there are any."""
        routers = model.decoder_type not in BARE_ROUTERS and any(each.role == "router" for each in model.weights)
        return (ROUTERS,) if routers and self.routers is not None else ()


def _sensitive(layer: int, layers: int) -> bool:
    """Tell whether a recipe gives a layer more bits.

    >>> [at for at in range(16) if _sensitive(at, 16)]
    [0, 1, 4, 7, 10, 13, 14, 15]
    """
    first = layers // OUTER_SHARE
    last = (OUTER_SHARE - 1) * layers // OUTER_SHARE
    return layer < first or layer >= last or (layer - first) % EVERY_THIRD == EVERY_THIRD - 1


def _variants() -> Iterator[Format]:
    for bits in BITS:
        for group in GROUPS:
            name = f"mlx-{bits}bit" + ("" if group == GROUP else f"-g{group}")
            yield MlxFormat(name, f"MLX {bits} bits, groups of {group}", scheme=Grouped(bits, group), routers=ROUTER)
    for mode, (group, bits) in SCALED.items():
        yield MlxFormat(f"mlx-{mode}", f"MLX {mode}", scheme=Grouped(bits, group, biased=False))
    for recipe, (low, high) in RECIPES.items():
        title = f"MLX {low} and {high} bits"
        yield MlxFormat(f"mlx-{recipe}", title, scheme=Grouped(low, GROUP), high=Grouped(high, GROUP))


VARIANTS: dict[str, Format] = {fmt.name: fmt for fmt in _variants()}


def from_config(quantization: Mapping[str, Any], rest: str) -> Format:
    """Return the format that an MLX config.json's "quantization" asks for, modules with settings of their own too."""
    usual = _scheme(quantization)
    named: dict[str, Grouped | None] = {}
    for path, asked in quantization.items():
        if asked is False:
            named[_bare(path)] = None
        elif isinstance(asked, Mapping):
            named[_bare(path)] = _scheme({"group_size": usual.group, **asked})
    shown = f"{usual.bits} bits, groups of {usual.group}" + (", some modules otherwise" if named else "")
    return MlxFormat("mlx", f"MLX {shown}", rest, scheme=usual, named=named)


def _scheme(settings: Mapping[str, Any]) -> Grouped:
    mode = word(settings, "mode", "affine")
    if mode in SCALED:
        group, bits = SCALED[mode]
        return Grouped(one_of(settings, "bits", (bits,), bits), one_of(settings, "group_size", (group,), group), False)
    if mode != "affine":
        raise UnsupportedError(
            f"oomph does not know MLX's mode {mode[:40]!r}.", f"It knows affine, {', '.join(SCALED)}."
        )
    return Grouped(one_of(settings, "bits", BITS, 4), one_of(settings, "group_size", GROUPS, GROUP))


def _bare(path: str) -> str:
    """Return a module's path without the wrappers it starts with."""
    segments = path.split(".")
    while len(segments) > 1 and segments[0] in WRAPPERS:
        segments = segments[1:]
    return ".".join(segments)


def _path(weight: Weight, layer: int) -> str:
    """Return the path of a module in MLX, which stacks the experts of a layer into one.

    >>> from oomph.tensor import Tensor
    >>> row = Weight("model.layers.*.mlp.experts.*.up_proj.weight", Tensor((2, 2), "expert"), "", ((3,), (0, 1)))
    >>> _path(row, 3)
    'layers.3.mlp.switch_mlp.up_proj'
    """
    return _bare(module_of(weight).replace(".experts.*.", ".switch_mlp.").replace("*", str(layer), 1))
