"""GGUF as llama.cpp writes it: every named mix (q4_k_m, iq3_xxs ...) and the unquantised files.

Effect: from 1.6 (iq1_s) to 8.5 (q8_0) bits per weight, in blocks that hold their own scales; norms, biases,
routers and positions stay in 32 bits, tied embeddings get the output's type.
Cost: mixes below 4 bits lose quality visibly; iq1_*, iq2_*, iq3_xxs, iq3_xs and q2_k_s need an importance matrix.
When: running with llama.cpp, Ollama, LM Studio; partly in CPU memory.
Flag: --format q4_k_m | q8_0 | gguf-f16 ... (as llama-quantize spells them); q4_0-imatrix, q5_0-imatrix,
iq4_nl-imatrix, iq4_xs-imatrix where an importance matrix changes the types.
Source: llama.cpp 0c1e57098 (November 2026), conversion/ and src/llama-quant.cpp; see gguf_mixes.py. Files whose maker
chose the types by hand (Unsloth's UD-*) differ.

A checkpoint that stores the output matrix although it is tied to the embedding (Falcon, Qwen3-0.6B) gives a
file with one matrix more than said here. Multi-token-prediction layers are kept for GLM-4.5, GLM-4.7-Flash,
Qwen3-Next and Qwen3.5, and dropped for DeepSeek-V2/V3 and Kimi-K2, as the converter does by default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from oomph.errors import UnsupportedError
from oomph.formats.base import Format, Stored
from oomph.formats.gguf_convert import OTHER_FILE, Converted, Row, arch_of, convert, rope_tensors
from oomph.formats.gguf_mixes import MIXES, WITH_IMATRIX, Mix, Placed, types_of
from oomph.formats.gguf_types import BY_NAME, DENSE
from oomph.tensor import Weight

if TYPE_CHECKING:
    from oomph.model import Model

_Plan = dict[Weight, tuple[Stored, ...]]
_CONVERTED: WeakKeyDictionary[Model, Converted] = WeakKeyDictionary()
_TYPES: WeakKeyDictionary[Model, dict[str, Mapping[Placed, str]]] = WeakKeyDictionary()
_PLANS: WeakKeyDictionary[Model, dict[str, _Plan]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Gguf(Format):
    """A GGUF file: `mix` is None for an unquantised one, whose matrices are all in `rest`."""

    mix: Mix | None = None

    def quantises(self, weight: Weight) -> bool:
        """Tell whether the weight may get a block type; the exact rule needs the whole model."""
        return self.mix is not None and len(weight.shape) > 1 and weight.role not in ("router", "norm", "param")

    def store(self, weight: Weight, model: Model) -> Sequence[Stored]:
        """Return the file's tensors that come from this weight, those of one type together."""
        plans = _PLANS.setdefault(model, {})
        if self.name not in plans:
            plans[self.name] = self._plan(model)
        return plans[self.name][weight]

    def extra(self, model: Model, config: Mapping[str, Any]) -> Sequence[Stored]:
        """Return the file's tensors that come from no weight: factors of scaled positions."""
        return tuple(_stored(name, shape, "F32", 1) for name, shape in rope_tensors(model, config))

    def notes(self, model: Model) -> tuple[str, ...]:
        """Return what is not in the sum, or depends on who made the file."""
        found = []
        kinds = {weight.kind for weight in model.weights}
        if kinds & OTHER_FILE:
            found.append("The vision or audio part is in a file of its own (mmproj), which is not counted.")
        if "mtp" in kinds and arch_of(model).predictors:
            found.append("The prediction (MTP) layers are in the file; older converters left them out.")
        elif "mtp" in kinds:
            found.append("The converter leaves the prediction (MTP) layers out.")
        if self.mix and any(row.name == "attn_qkv.weight" for row in self._rows(model)):
            found.append("Older llama.cpp releases give the fused attention map other types.")
        return tuple(found)

    def _rows(self, model: Model) -> list[Row]:
        return [row for rows in self._converted(model).rows.values() for row in rows]

    @staticmethod
    def _converted(model: Model) -> Converted:
        if model not in _CONVERTED:
            _CONVERTED[model] = convert(model)
        return _CONVERTED[model]

    def types(self, model: Model) -> Mapping[Placed, str]:
        """Return the ggml type of every tensor of the file that comes from a weight."""
        kept = {placed: self._kept(row) for row in self._rows(model) for placed in row.placed()}
        return types_of(kept, self.mix, self._converted(model).traits) if self.mix else kept

    def types_in(self, weight: Weight, model: Model) -> Mapping[int, str]:
        """Return the ggml type of what a weight becomes in each layer (-1: outside of them), {} if the file has none.

        What becomes two tensors of two types is told by the last.
        """
        if self.name not in _TYPES.setdefault(model, {}):
            _TYPES[model][self.name] = self.types(model)
        types = _TYPES[model][self.name]
        return {placed.layer: types[placed] for row in self._converted(model).rows[weight] for placed in row.placed()}

    def _plan(self, model: Model) -> _Plan:
        types = self.types(model)
        return {
            weight: tuple(part for row in rows for part in _by_type(row, types))
            for weight, rows in self._converted(model).rows.items()
        }

    def _kept(self, row: Row) -> str:
        """The type of a tensor before quantising: the checkpoint's 16-bit type, or what the format asks for."""
        unquantised = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}[self.rest] if self.mix is None else row.dense
        return "F32" if row.dense == "F32" else unquantised


def _by_type(row: Row, types: Mapping[Placed, str]) -> list[Stored]:
    """Return one entry per type among the row's layers."""
    copies: dict[str, int] = {}
    for placed in row.placed():
        copies[types[placed]] = copies.get(types[placed], 0) + 1
    name = row.name if row.layers == (-1,) else f"blk.*.{row.name}"
    return [_stored(name, row.shape, found, times) for found, times in copies.items()]


def _stored(name: str, shape: tuple[int, ...], ggml: str, copies: int) -> Stored:
    return Stored(name, shape, DENSE.get(ggml, ggml), BY_NAME[ggml].tensor_bytes(shape), copies)


def refuse(name: str) -> UnsupportedError:
    """Return the error for a mix without a published rule, such as Unsloth's UD-Q4_K_XL."""
    return UnsupportedError(
        f"{name[:60]} has no rule: its maker chooses the types of each tensor by hand for every model.",
        "Point oomph at the .gguf file itself (a path or a hub address); its header tells every byte.",
    )


VARIANTS: dict[str, Format] = {
    "gguf-f32": Gguf("gguf-f32", "GGUF F32", rest="fp32"),
    "gguf-f16": Gguf("gguf-f16", "GGUF F16", rest="fp16"),
    "gguf-bf16": Gguf("gguf-bf16", "GGUF BF16", rest="bf16"),
    **{
        name: Gguf(name, f"GGUF {name.upper()}", rest="fp32", mix=mix)
        for name, mix in {**MIXES, **WITH_IMATRIX}.items()
    },
    # llama-quantize's own short names.
    **{
        short: Gguf(
            short, f"GGUF {short.upper()} (the same as {short.upper()}_M)", rest="fp32", mix=MIXES[f"{short}_m"]
        )
        for short in ("q3_k", "q4_k", "q5_k")
    },
}
