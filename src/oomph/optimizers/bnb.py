"""The optimizers of bitsandbytes: states of 8 bits with a scale per block, or fp32; on the GPU, or paged.

A step updates one parameter after another in place. Paged states lie in unified memory, which torch's allocator never
sees: the driver moves them to the GPU and back. Source: bitsandbytes 0.50, optim/optimizer.py, optim/ademamix.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.errors import UnsupportedError
from oomph.ops.elementwise import cast
from oomph.optimizers.settings import Settings
from oomph.tape.sizes import Size, product, yes
from oomph.tape.sym import Sym, new

STATES = "within"
MIN_8BIT_SIZE = 4096  # elements below which a state is fp32 (min_8bit_size)
BLOCK = 256  # elements that share a scale
QMAP = 256  # values of an 8-bit code
MIN_PAGED_SIZE = 100_000  # elements below which a state is not paged (get_state_buffer)
WITHOUT_BF16 = frozenset({"rmsprop", "lars", "adagrad", "momentum"})  # backends/cuda/ops.py, str2optimizer32bit
TWO_STATES = frozenset({"adamw", "ademamix", "lamb"})
BY_NORM = frozenset({"lamb", "lars"})  # that bound an update by a norm of the weights (max_unorm)


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return state1 and, of AdamW, LAMB and AdEMAMix, state2: uint8 with an fp32 absmax per 256 elements, or fp32.

    fp32 are those of parameters below 4096 elements, and of embeddings where the job says so (the HF Trainer does).
    AdEMAMix's state1 holds two averages; LAMB and LARS have a number more for each parameter. The two code books
    (qmap1 signed, qmap2 unsigned, 256 fp32 numbers each) are shared by all parameters. Of a paged optimizer, states
    of 100000 elements and more are not on the GPU, their scales are. Source: bitsandbytes/optim/optimizer.py,
    init_state, get_state_buffer.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> cost(lambda one: state(named("adamw_8bit"), one), (256, 256)).allocated - 2 * 256 * 4  # 2 + 8/256 per element
    133120
    >>> cost(lambda one: state(named("lion_8bit"), one), (4095,)).allocated
    16380
    >>> cost(lambda one: state(named("paged_adamw_32bit"), one), (400, 250)).allocated
    0
    """
    elements = product(parameter.shape)
    in_8bit = _in_8bit(settings, parameter, elements)
    if not in_8bit and settings.name in WITHOUT_BF16 and parameter.dtype == "bf16":
        raise UnsupportedError(
            f"bitsandbytes has no kernel for {settings.name} with fp32 states and bf16 gradients.",
            "Use fp16, fp32 or autocast.",
        )
    names = ["state1", *(["state2"] if settings.name in TWO_STATES else [])]
    if not in_8bit:
        made = [one for at in range(len(names)) for one in _buffer(settings, parameter, elements, "fp32", at)]
        if settings.name in BY_NORM:
            made.append(new(parameter.tape, (1,), "fp32", op="unorm_vec"))
        return made
    tape = parameter.tape
    made = []
    if not settings.shared:
        for at in range(len(names)):
            settings.shared[f"qmap{at + 1}"] = new(tape, (QMAP,), "fp32", op=f"qmap{at + 1}")
        made += settings.shared.values()
    blocks = (elements + BLOCK - 1) // BLOCK
    if settings.name == "ademamix":
        made += [new(tape, (2, blocks), "fp32", op="absmax1"), new(tape, (blocks,), "fp32", op="absmax2")]
    made += [one for at in range(len(names)) for one in _buffer(settings, parameter, elements, "uint8", at)]
    if settings.name != "ademamix":
        made += [new(tape, (blocks,), "fp32", op=f"absmax{at + 1}") for at in range(len(names))]
    return made


def _in_8bit(settings: Settings, parameter: Sym, elements: Size) -> bool:
    if settings.bits != 8 or (settings.embedding_32bit and settings.is_embedding(parameter)):
        return False
    return not yes(elements < MIN_8BIT_SIZE)


def _buffer(settings: Settings, parameter: Sym, elements: Size, dtype: str, at: int) -> list[Sym]:
    """Return a state on the GPU; nothing if it is paged."""
    if settings.paged and not yes(elements < MIN_PAGED_SIZE):
        return []
    shape = parameter.shape
    if settings.name == "ademamix" and not at:
        return [new(parameter.tape, (2, *shape), dtype, op="state1")]
    return [new(parameter.tape, shape, dtype, parameter.strides, op=f"state{at + 1}")]


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[list[Sym]]) -> None:
    """Play one update of one parameter after another, each in place by one kernel; the first one makes its states. LAMB
    and LARS make the norm of the weight before, of a copy in fp32.

    Source: bitsandbytes/optim/optimizer.py, step, update_step.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda one: step(named("adamw_8bit"), [one], [[one, one]]), frozen(4, 256)).allocated
    0
    """
    for p, kept in zip(parameters, states, strict=True):
        if not kept:
            kept += state(settings, p)
        if settings.name in BY_NORM:
            norm(p)


def norm(p: Sym) -> None:
    """Make the norm of a weight in fp32, as optimizer_update_32bit does where max_unorm is not 0; nothing stays.

    Source: bitsandbytes/functional.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(norm, frozen(4, 256)).allocated  # 1024 numbers in fp32, and one
    4100
    """
    in_fp32 = cast(p.detach(), "fp32")
    made = new(p.tape, (), "fp32", op="linalg_vector_norm")
    del in_fp32, made
