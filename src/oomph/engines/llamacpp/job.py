"""What llama.cpp's server is asked for: its flags that move memory, their defaults, and what does not go together.

Source: common/arg.cpp, common/common.h and tools/server/server.cpp of llama.cpp 0c1e57098 (November 2026). Defaults
of slots and of layers on the GPU changed in late 2025 (pull requests 16736, 18266): older builds must be told.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from oomph.engines.base import ServeJob, flag
from oomph.errors import UnsupportedError, UsageError
from oomph.formats.gguf_types import BY_NAME, GgmlType
from oomph.units import MIB

AUTO_SLOTS = 4  # server.cpp: what -np -1 becomes
MOST_SLOTS = 256  # LLAMA_MAX_SEQ
MOST_TOKENS = 2**31
MOST_LAYERS = 2**16
MOST_PATTERNS, LONGEST_PATTERN = 64, 200
FOUR_SLOTS_SINCE = 7079  # the oldest build that is known to start with four slots: issue 17300
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
FLASH = {"on": True, "1": True, "true": True, "auto": True, "-1": True, "off": False, "0": False, "false": False}
# Tokens that are guessed ahead by each way without a flag of its own (common_speculative_n_max).
GUESSED = {"none": 0, "draft-simple": 0, "ngram-simple": 48, "ngram-map-k": 48, "ngram-map-k4v": 48, "ngram-mod": 64,
           "ngram-cache": 8}  # fmt: skip
FITS = {"": False, "on": True, "1": True, "true": True, "off": False, "0": False, "false": False}
FIT_TARGET = 1024  # MiB
EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"  # LLM_FFN_EXPS_REGEX
_VERSION = re.compile(r"b?(\d{1,9})")
_PATTERN = re.compile(r"[A-Za-z0-9_.\\|()\[\]*+?^$:{},-]{1,200}")
# Groups that repeat, or many parts that do, make matching slow without end; no real pattern needs them.
_REPEATS = re.compile(r"[*+{]")
MOST_REPEATS = 3


@dataclass(frozen=True)
class LlamaCppJob(ServeJob):
    """A `llama-server` command. Sizes are tokens.

    `ctx_size` is of all slots together; None: as many as the job's requests need, 0 what the model was trained for.
    `gpu_layers` of None: all of them, what --fit arrives at where there is room. `parallel` of None: four slots that
    share one cache. Raises UsageError for values the server does not take, UnsupportedError for what is not modelled.
    """

    ctx_size: int | None = flag(None, "-c", "--ctx-size", help="tokens of the cache, of all slots together")
    batch_size: int = flag(2048, "-b", "--batch-size", help="tokens that are taken in at a time, at most")
    ubatch_size: int = flag(512, "-ub", "--ubatch-size", help="tokens that are computed at a time, at most")
    parallel: int | None = flag(None, "-np", "--parallel", help="slots: requests at a time")
    kv_unified: bool | None = flag(None, "-kvu/-no-kvu", "--kv-unified/--no-kv-unified", help="one cache for all slots")
    gpu_layers: int | str | None = flag(None, "-ngl", "--n-gpu-layers", "--gpu-layers", help="layers on the GPU")
    override_tensor: str = flag(
        "", "-ot", "--override-tensor", help="PATTERN=CPU: tensors that stay with the host", adds=True
    )
    cpu_moe: bool = flag(False, "-cmoe", "--cpu-moe", help="experts stay with the host")
    n_cpu_moe: int = flag(0, "-ncmoe", "--n-cpu-moe", help="experts of so many first layers stay with the host")
    tensor_split: str = flag("", "-ts", "--tensor-split", help="shares of the GPUs, 3,1")
    split_mode: str = flag("layer", "-sm", "--split-mode", help="none or layer")
    main_gpu: int = flag(0, "-mg", "--main-gpu", help="the GPU of --split-mode none")
    # Up to August 2025 it took no value, which is how it stands in many a script.
    flash_attn: str = flag("auto", "-fa", "--flash-attn", help="on, off or auto", alone="on")
    cache_type_k: str = flag("f16", "-ctk", "--cache-type-k", help="ggml type of keys")
    cache_type_v: str = flag("f16", "-ctv", "--cache-type-v", help="ggml type of values")
    swa_full: bool = flag(False, "--swa-full", help="windows keep all tokens")
    kv_offload: bool = flag(True, "-kvo/-nkvo", "--kv-offload/--no-kv-offload", help="the cache goes with its layers")
    op_offload: bool = flag(True, "--op-offload/--no-op-offload", help="the GPU computes large batches of host layers")
    mmap: bool = flag(True, "--mmap/--no-mmap", help="weights of the host are mapped")
    cache_ram: int = flag(8192, "-cram", "--cache-ram", help="MiB of the host for prompts, at most; -1 no limit")
    fit: str = flag("", "-fit", "--fit", help="on: a shorter context or fewer layers where all is too large")
    fit_target: str = flag("1024", "-fitt", "--fit-target", help="MiB of each GPU that --fit leaves free")
    fit_ctx: int = flag(4096, "-fitc", "--fit-ctx", help="tokens that --fit leaves a context at least")
    lora: str = flag("", "--lora", help="files of LoRA adapters, behind each other with commas")
    lora_scaled: str = flag("", "--lora-scaled", help="the same with a scale each, FILE:0.5")
    lora_later: bool = flag(False, "--lora-init-without-apply", help="adapters are loaded, and applied later")
    control_vector: str = flag("", "--control-vector", help="files of control vectors, which are added up")
    control_vector_scaled: str = flag("", "--control-vector-scaled", help="the same with a scale each, FILE:0.5")
    embedding: bool = flag(False, "--embedding", "--embeddings", help="serve embeddings")
    mmproj: str = flag("", "-mm", "--mmproj", help="file of a vision or audio part")
    mmproj_offload: bool = flag(True, "--mmproj-offload/--no-mmproj-offload", help="it lies on the first GPU")
    image_max_tokens: int | None = flag(None, "--image-max-tokens", help="tokens of an image, at most")
    draft: str = flag(
        "", "-md", "--model-draft", "--spec-draft-model", "-hfd", "-hfrd", "--hf-repo-draft", "--spec-draft-hf",
        help="a draft model: its file, or NAME:FORMAT",
    )  # fmt: skip
    draft_gpu_layers: int | str | None = flag(
        None, "-ngld", "--spec-draft-ngl", "--gpu-layers-draft", "--n-gpu-layers-draft", help="its layers on the GPU"
    )
    draft_cache_type_k: str = flag(
        "f16", "-ctkd", "--spec-draft-type-k", "--cache-type-k-draft", help="ggml type of its keys"
    )
    draft_cache_type_v: str = flag(
        "f16", "-ctvd", "--spec-draft-type-v", "--cache-type-v-draft", help="ggml type of its values"
    )
    spec_type: str = flag("", "--spec-type", help="what guesses tokens ahead: draft-simple, ngram-mod ...")
    draft_max: int = flag(3, "--spec-draft-n-max", help="tokens that a draft guesses at a time")

    def __post_init__(self) -> None:
        """Refuse what the server would not start with, or what is not modelled."""
        _within("-c", self.ctx_size, 0, MOST_TOKENS)
        _within("-b", self.batch_size, 1, MOST_TOKENS)
        _within("-ub", self.ubatch_size, 0, MOST_TOKENS)
        _within("-np", self.parallel, -1, MOST_SLOTS)
        _within("--n-cpu-moe", self.n_cpu_moe, 0, MOST_LAYERS)
        _within("-mg", self.main_gpu, 0, MOST_SLOTS)
        _within("--cache-ram", self.cache_ram, -1, MOST_TOKENS)
        _within("--fit-ctx", self.fit_ctx, 1, MOST_TOKENS)
        _within("the context", self.context, 1, MOST_TOKENS)
        _within("the concurrency", self.concurrency, 1, MOST_TOKENS)
        if self.parallel == 0:
            raise UsageError("-np 0 gives no slot.", "Give at least one.")
        _layers("-ngld (draft_gpu_layers)", self.draft_gpu_layers)
        _ = self.layers_asked, self.flash, self.types, self.shares, self.patterns, self.build
        if str(self.fit).lower() not in FITS:
            raise UsageError(f"--fit {str(self.fit)[:20]!r} is not known.", "Write on or off.")
        self.margins(1)
        if not self.flash and self.types[1].block > 1:
            raise UsageError("Quantised values need flash attention (-ctv).", "Leave -fa auto, or -ctv f16.")
        if self.split_mode not in ("layer", "none"):
            row = "CUDA devices of this build have no split buffers, so that the server does not start"
            why = row if self.split_mode == "row" and self.build is None else "it is not modelled"
            raise UnsupportedError(f"--split-mode {self.split_mode[:20]}: {why}.", "Use layer or none.")
        _within("--spec-draft-n-max", self.draft_max, 0, MOST_TOKENS)
        _ = self.guessed
        _within("--image-max-tokens", self.image_max_tokens, 1, MOST_TOKENS)
        if self.embedding:
            raise UnsupportedError("A server of embeddings is not modelled.", "Leave --embedding out.")

    @property
    def fits(self) -> bool:
        """Whether --fit on is said. It is what the server does by itself, but then the question here is whether all of
        the model fits as it was asked for."""
        return FITS[str(self.fit).lower()]

    def margins(self, gpus: int) -> tuple[int, ...]:
        """Return the bytes of each GPU that --fit leaves free; one number is for all of them."""
        try:
            said = [int(part) * MIB for part in re.split("[,/]", str(self.fit_target)[:1000])]
        except ValueError:
            said = [-1]
        if not all(0 <= margin < MOST_TOKENS * MIB for margin in said):
            raise UsageError(
                f"--fit-target {str(self.fit_target)[:40]!r} is no list of MiB.", "Write 1024 or 512,2048."
            )
        rest = said[0] if len(said) == 1 else FIT_TARGET * MIB
        return (*said, *[rest] * (gpus - len(said)))[:gpus]

    @property
    def guessed(self) -> int:
        """The most tokens of a slot that are guessed ahead, whose logits are computed with those of the last."""
        found = 0
        for name in filter(None, str(self.spec_type)[:LONGEST_PATTERN].split(",")):
            if name not in GUESSED:
                raise UnsupportedError(
                    f"--spec-type {name[:40]!r} is not modelled.", f"Known are {', '.join(GUESSED)}; or leave it out."
                )
            found = max(found, self.draft_max if name == "draft-simple" else GUESSED[name])
        return found

    @property
    def layers_asked(self) -> int | None:
        """Layers on GPUs, the output layer counted as one; None for all."""
        return _layers("-ngl", self.gpu_layers)

    @property
    def slots(self) -> int | None:
        """Slots that were asked for; None for the server's own choice."""
        return None if self.parallel is None or self.parallel < 0 else self.parallel

    @property
    def unified(self) -> bool:
        """Whether all slots share one cache: by itself only where the server chooses their number."""
        return self.slots is None or bool(self.kv_unified)

    @property
    def flash(self) -> bool:
        """Whether flash attention is used; the newest builds have it for every model that is modelled."""
        if str(self.flash_attn).lower() not in FLASH:
            raise UsageError(f"--flash-attn {str(self.flash_attn)[:20]!r} is not known.", "Write on, off or auto.")
        return FLASH[str(self.flash_attn).lower()]

    @property
    def types(self) -> tuple[GgmlType, GgmlType]:
        """The types of keys and values."""
        for name in (self.cache_type_k, self.cache_type_v):
            if name not in CACHE_TYPES:
                raise UsageError(f"A cache of {name[:20]!r} is not known.", f"Choose one of {', '.join(CACHE_TYPES)}.")
        return BY_NAME[self.cache_type_k.upper()], BY_NAME[self.cache_type_v.upper()]

    @property
    def shares(self) -> tuple[float, ...]:
        """Shares of the GPUs; () for their free memory."""
        if not self.tensor_split:
            return ()
        try:
            found = tuple(float(part) for part in re.split("[,/]", self.tensor_split[:1000]))
        except ValueError:
            found = (-1.0,)
        if not all(0 <= share < MOST_TOKENS for share in found):
            raise UsageError(f"--tensor-split {self.tensor_split[:40]!r} is no list of shares.", "Write 3,1.")
        return found if any(found) else ()

    @property
    def patterns(self) -> tuple[re.Pattern[str], ...]:
        """Patterns of tensors that stay with the host."""
        found = [EXPERTS] if self.cpu_moe else []
        found += [rf"blk\.{layer}{EXPERTS}" for layer in range(self.n_cpu_moe)]
        for each in filter(None, self.override_tensor[: MOST_PATTERNS * LONGEST_PATTERN].split(",")):
            pattern, _, place = each.rpartition("=")
            if place not in ("CPU", "CUDA_Host"):
                raise UnsupportedError(f"-ot {each[:60]!r}: only =CPU is modelled.", "Use -ngl and -ts for the GPUs.")
            repeated = re.search(r"\)[*+{]", pattern) or len(_REPEATS.findall(pattern)) > MOST_REPEATS
            if not _PATTERN.fullmatch(pattern) or repeated:
                raise UsageError(f"-ot {pattern[:60]!r} is no pattern that is read here.", "Write one like exps=CPU.")
            found.append(pattern)
        if len(found) > MOST_LAYERS:
            raise UsageError("-ot has too many patterns.", "Join them with |.")
        try:
            return tuple(re.compile(pattern) for pattern in found)
        except re.error as error:
            raise UsageError(f"-ot has a pattern that is none: {error}.", "Write one like exps=CPU.") from None

    @property
    def build(self) -> int | None:
        """The number of the build, None for the newest."""
        if not self.version:
            return None
        found = _VERSION.fullmatch(self.version)
        if not found:
            raise UsageError(f"{self.version[:20]!r} is no build of llama.cpp.", "Write its number, as b7079.")
        return int(found[1])

    def check_defaults(self) -> None:
        """Refuse an old build whose own choices are asked for."""
        if self.build is not None and self.build < FOUR_SLOTS_SINCE and (self.slots is None or self.gpu_layers is None):
            raise UnsupportedError(
                f"What build {self.build} of llama.cpp does without -np or -ngl is not known here.", "Give both."
            )


def _layers(what: str, asked: int | str | None) -> int | None:
    """Return how many layers are asked for, None for all."""
    if asked is None or (isinstance(asked, str) and asked in ("auto", "all")):
        return None
    try:
        count = int(asked)
    except (ValueError, TypeError, OverflowError):
        raise UsageError(f"{what} {str(asked)[:20]} is no number of layers.", "Write a number, all or auto.") from None
    _within(what, count, -MOST_LAYERS, MOST_LAYERS)
    return None if count < 0 else count


def _within(name: str, value: int | None, least: int, most: int) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most):
        raise UsageError(f"{name} {str(value)[:20]} is not within {least} and {most:,}.", "Give a whole number.")
