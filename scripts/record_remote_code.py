"""Record what the code that comes with models does (trust_remote_code), for classes that transformers does not have.

    python scripts/record_remote_code.py FOLDER

FOLDER holds each file of `CODE` under the name given there, from the repository and commit beside it. The classes are
registered with transformers and traced as tests/tape/grid.py traces transformers' own: the jobs of
tests/tape/remote_code.py, written to tests/tape/remote_code.json as a digest of every allocation and free. Files were
written for older releases: `_older` gives them what transformers 5 no longer has, `changed` is replaced in their text.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

PACKAGE = "remote_code"  # the files are modules of it


@dataclass(frozen=True)
class Code:
    """The code of a model type: its two files' names, the prefix of its classes, where it is published.

    `source` is owner/name@commit and, if not at its root, the folder. `changed` are pieces of text that are replaced in
    modeling_NAME.py, each with the reason in `why`; `beside` are modules that it imports, by their text, where they
    hold only what is read from a config or what transformers has too.
    """

    name: str
    prefix: str
    source: str
    changed: tuple[tuple[str, str], ...] = ()
    why: str = ""
    beside: dict[str, str] = field(default_factory=dict)


TIED = (
    '_tied_weights_keys = ["lm_head.weight"]',
    '_tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}',
)
UNSCALED = ("if self.config.rope_scaling is None:", 'if self.config.rope_parameters["rope_type"] == "default":')
ON_CUDA = ('if query_states.device.type == "cuda" and', "if")
CODE: dict[str, Code] = {
    "internlm": Code(
        "internlm",
        "InternLM",
        "InternLM/InternEvo@c628a8c87411258e90c50f6a49f6a5e1f507ddb8, transformers/internlm_model",
        (
            ("def _set_gradient_checkpointing(", "def _formerly("),
            ("self.is_causal = True", "self.lowest = torch.tensor(0.0)"),
            ("torch.tensor(torch.finfo(attn_weights.dtype).min)", "self.lowest"),
            (
                "                    position_ids,\n                    None,\n",
                "                    position_ids,\n                    None, use_reentrant=True,\n",
            ),
        ),
        "checkpoints are re-entrant, as torch made them by default, and switched on as transformers 5 does it; "
        "the lowest number, a scalar on the host, is made once",
    ),
    "mimo": Code(
        "mimo",
        "MiMo",
        "jj8127/mimo_kor@1bdf82cea25830db4d3a05464368fe4ad8a42422",
    ),
    "minicpm": Code(
        "minicpm",
        "MiniCPM",
        "oshersidi/OCD@421d5cd7eaa1a67cc64f71fbfcfbf5ec72bd3d70",
        (TIED, UNSCALED, ON_CUDA),
        "tied weights are named as transformers 5 asks, whose configs never have rope_scaling null; the device is CUDA",
    ),
}


OF_4_44 = "transformers_4_44_2__"
CODE["nemotron-nas"] = Code(
    "decilm",
    "DeciLM",
    "DeltaVector1/Chat-Prompters@d8a2e79269c06877e1ee8ded6851ed120ffc787a",
    (
        TIED,
        ("ENABLE_LIGER = True", "ENABLE_LIGER = False"),
        ("from liger_kernel.", "# from liger_kernel."),
        ("NEED_SETUP_CACHE_CLASSES_MAPPING, GenerationMixin", "GenerationMixin"),
        ("config.rope_scaling is not None", "False"),
    ),
    "Liger's loss, which is not NVIDIA's, is off; frequencies are the default's, which only their values change",
    {
        "block_config": """
from types import SimpleNamespace
AttentionConfig = FFNConfig = SimpleNamespace
""",
        "configuration_decilm": """
from types import SimpleNamespace
from transformers import PretrainedConfig
def as_blocks(one):
    attention = {"no_op": False, "replace_with_linear": False, "sparsify": None, "unshifted_sink": False,
                 "is_sink": False, "is_sliding": False, "prefill_sliding_window": None, **one["attention"]}
    ffn = {"no_op": False, "replace_with_linear": False, "sparsify": None, **one["ffn"]}
    return SimpleNamespace(attention=SimpleNamespace(**attention), ffn=SimpleNamespace(**ffn))
class DeciLMConfig(PretrainedConfig):
    model_type = "nemotron-nas"
    def __init__(self, block_configs=(), **options):
        self.pretraining_tp, self.attention_bias, self.mlp_bias, self.attention_dropout = 1, False, False, 0.0
        self.hidden_act, self.rms_norm_eps, self.rope_theta, self.initializer_range = "silu", 1e-5, 10000.0, 0.02
        self.pad_token_id = None
        super().__init__(**options)
        self.blocks = block_configs
    @property
    def block_configs(self):
        return [as_blocks(one) for one in self.blocks]
""",
        f"{OF_4_44}activations": "from transformers.activations import ACT2FN",
        f"{OF_4_44}cache_utils": "from transformers.cache_utils import Cache, StaticCache",
        f"{OF_4_44}modeling_attn_mask_utils": "AttentionMaskConverter = None",
        f"{OF_4_44}modeling_flash_attention_utils_backward_compat": "_flash_attention_forward = None",
        f"{OF_4_44}modeling_outputs": "from transformers.modeling_outputs import *",
        f"{OF_4_44}pytorch_utils": "from transformers.pytorch_utils import ALL_LAYERNORM_LAYERS",
        f"{OF_4_44}modeling_rope_utils": """
import torch
def default(config, device, **_):
    size = config.hidden_size // config.num_attention_heads
    return 1.0 / (10000.0 ** (torch.arange(0, size, 2, dtype=torch.int64).float() / size)), 1.0
ROPE_INIT_FUNCTIONS = {"default": default}
""",
        "variable_cache": "VariableCache = None",
    },
)


def register(folder: Path) -> None:
    """Make the classes known to transformers' auto classes."""
    import transformers

    _older()
    with TemporaryDirectory() as place:
        package = Path(place) / PACKAGE
        package.mkdir()
        sys.path[:0] = [place, str(package)]  # some files import each other as a package's, some by their plain names
        for model_type, code in CODE.items():
            for name, text in code.beside.items():
                (package / f"{name}.py").write_text(text, encoding="utf-8")
            for name in (f"configuration_{code.name}", f"modeling_{code.name}"):
                if name in code.beside:
                    continue
                text = (folder / f"{name}.py").read_text(encoding="utf-8")
                (package / f"{name}.py").write_text(_changed(text, code, name), encoding="utf-8")
            modeling = import_module(f"{PACKAGE}.modeling_{code.name}")
            model = getattr(modeling, f"{code.prefix}ForCausalLM")
            transformers.AutoConfig.register(model_type, model.config_class)
            transformers.AutoModelForCausalLM.register(model.config_class, model)
        del sys.path[:2]


def _changed(text: str, code: Code, name: str) -> str:
    """Return the text of a file as it runs under the installed transformers."""
    for old, new in code.changed if name.startswith("modeling_") else ():
        if old not in text:
            raise SystemExit(f"{name}.py has no {old!r}: take the file that CODE names.")
        text = text.replace(old, new)
    return text


def _older() -> None:
    """Give transformers the names that files of 2023 and 2024 import, as they were then."""
    from transformers import PretrainedConfig, modeling_attn_mask_utils, pytorch_utils
    from transformers.cache_utils import DynamicCache
    from transformers.utils import import_utils

    import_utils.is_torch_fx_available = lambda: False
    pytorch_utils.is_torch_greater_or_equal_than_1_13 = True
    PretrainedConfig.use_return_dict = True
    DynamicCache.from_legacy_cache = classmethod(lambda cls, _past: Kept())
    converter = modeling_attn_mask_utils.AttentionMaskConverter
    converter._expand_mask = staticmethod(_expand_mask)
    modeling_attn_mask_utils._prepare_4d_causal_attention_mask_for_sdpa = _mask_for_sdpa


def _mask_for_sdpa(attention_mask: Any, shape: tuple[int, int], embeds: Any, past_length: int) -> Any:
    """Do what _prepare_4d_causal_attention_mask_for_sdpa does on a GPU with a batch that has padding if it has a mask.

    Tensors without memory cannot answer whether it has.
    """
    import torch
    from transformers.modeling_attn_mask_utils import AttentionMaskConverter

    if attention_mask is None:
        return None
    torch.all(attention_mask == 1)
    length = shape[-1] + past_length
    made = AttentionMaskConverter(is_causal=True).to_4d(attention_mask, shape[-1], embeds.dtype, length)
    return AttentionMaskConverter._unmask_unattended(made, min_dtype=torch.finfo(embeds.dtype).min)


def _expand_mask(mask: Any, dtype: Any, tgt_len: int) -> Any:
    """Do what AttentionMaskConverter._expand_mask did: 1.0 is no tensor."""
    import torch

    bsz, src_len = mask.size()
    expanded_mask = mask[:, None, None, :].expand(bsz, 1, tgt_len, src_len).to(dtype)
    inverted_mask = 1.0 - expanded_mask
    return inverted_mask.masked_fill(inverted_mask.to(torch.bool), torch.finfo(dtype).min)


class Kept:
    """The DynamicCache of transformers 4.36 in training: it holds the first keys and values as they are."""

    def __init__(self) -> None:
        self.layers: list[tuple[Any, Any]] = []

    def get_usable_length(self, *_: Any) -> int:
        """Nothing came before."""
        return 0

    def update(self, key_states: Any, value_states: Any, *_: Any) -> tuple[Any, Any]:
        """Hold a layer's keys and values."""
        self.layers.append((key_states, value_states))
        return key_states, value_states

    def to_legacy_cache(self) -> tuple[tuple[Any, Any], ...]:
        """Give them as tuples."""
        return tuple(self.layers)


def main() -> None:
    """Trace all jobs and write the file."""
    register(Path(sys.argv[1]))
    golden, cases = import_module("tests.tape.golden"), import_module("tests.tape.remote_code")
    jobs = cases.cases()
    golden.record(cases.GOLDEN, cases.RECIPE, jobs)
    print(f"{len(jobs)} jobs in {cases.GOLDEN.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
