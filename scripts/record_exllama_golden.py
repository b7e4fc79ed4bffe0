"""Record what ExLlamaV2's and ExLlamaV3's own cache classes hold, and ExLlamaV2's scratch space.

    git clone https://github.com/turboderp-org/exllamav2 && git clone https://github.com/turboderp-org/exllamav3
    python scripts/record_exllama_golden.py exllamav2 exllamav3

Both need CUDA to run, but their caches are plain torch tensors: the classes are made on the CPU or the meta device,
without the compiled extension. Writes tests/engines/exllama_golden.json.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from types import MethodType, ModuleType
from types import SimpleNamespace as Namespace
from typing import Any
from unittest.mock import MagicMock

GOLDEN = Path(__file__).parents[1] / "tests" / "engines" / "exllama_golden.json"
PAGE = 256
HEADS = [(8, 128), (2, 64), (16, 256), (4, 96)]
MODES = ["FP16", "8,8", "6,6", "4,4", "3,5", "2,2"]
LATENTS = [(512, 64), (256, 32)]
V2_CLASSES = {"FP16": "ExLlamaV2Cache", "FP8": "ExLlamaV2Cache_8bit", "Q4": "ExLlamaV2Cache_Q4",
              "Q6": "ExLlamaV2Cache_Q6", "Q8": "ExLlamaV2Cache_Q8"}  # fmt: skip
# Hidden, feed-forward, heads, key/value heads, head dim, experts, tokens of a chunk.
SHAPES = [(4096, 14336, 32, 8, 128, 0, 2048), (2560, 9728, 32, 8, 128, 0, 512), (4096, 14336, 32, 8, 128, 8, 2048)]


def without_extension(name: str, root: Path, missing: tuple[str, ...]) -> None:
    """Let a package's pure files be imported from a checkout."""
    package = ModuleType(name)
    package.__path__ = [str(root / name)]
    sys.modules[name] = package
    for part in missing:
        sys.modules[f"{name}.{part}"] = MagicMock()


def taken(path: Path, name: str, scope: dict[str, Any]) -> Any:
    """Return one class of a file, made alone."""
    tree = ast.parse(path.read_text())
    found = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    future = ast.parse("from __future__ import annotations").body
    exec(compile(ast.Module([*future, found], []), str(path), "exec"), scope)
    return scope[name]


def version_of(root: Path, name: str) -> str:
    """Return the version a checkout says it is."""
    return (root / name / "version.py").read_text().split('"')[1]


def v3_rows(root: Path) -> list[dict[str, Any]]:
    """Return bytes of the caches of one layer."""
    import torch

    missing = ("ext", "model", "modules", "util", "util.memory", "generator")
    without_extension("exllamav3", root, missing)
    from exllamav3.cache.fp16 import CacheLayer_fp16
    from exllamav3.cache.mla import CacheLayer_MLA_fp16, CacheLayer_MLA_quant
    from exllamav3.cache.quant import CacheLayer_quant

    rows = []
    for mode in MODES:
        bits = [int(each) for each in mode.split(",")] if mode != "FP16" else []
        for heads, dim in HEADS:
            attention = Namespace(num_kv_heads=heads, head_dim=dim)
            made = (
                CacheLayer_quant(None, attention, 0, 4096, *bits) if bits else CacheLayer_fp16(None, attention, 0, 4096)
            )
            rows.append(
                {"kind": "attention", "mode": mode, "heads": heads, "dim": dim, "bytes": int(made.storage_size())}
            )
        for rank, rope in LATENTS:
            attention = Namespace(kv_lora_rank=rank, qk_rope_head_dim=rope)
            kind = CacheLayer_MLA_quant if bits else CacheLayer_MLA_fp16
            made = kind(None, attention, 0, 4096, *bits)
            rows.append({"kind": "latent", "mode": mode, "heads": rank, "dim": rope, "bytes": int(made.storage_size())})
    folder, scope = root / "exllamav3" / "modules", {"torch": torch}
    sliding = taken(folder / "sliding_attn.py", "SWALayerState", scope)
    for window, slots in ((128, 4), (1024, 1), (511, 2)):
        room = -(-(window + 2 * PAGE) // PAGE) * PAGE  # SlidingAttention.__init__: kv_state_size
        module = Namespace(kv_state_size=room, num_kv_heads=8, head_dim=64)
        rows.append({"kind": "window", "window": window, "slots": slots, "heads": 8, "dim": 64,
                     "bytes": sliding(module, slots, 0, 0).storage_size()})  # fmt: skip
    delta = taken(folder / "gated_delta_net.py", "GDNLayerState", scope)
    module = Namespace(fdim_qkv=8192, conv_kernel_size=4, num_v_heads=32, k_head_dim=128, v_head_dim=128)
    rows.append({"kind": "gated_delta_net", "slots": 4, "bytes": delta(module, 4, 0, 0).storage_size()})
    short = taken(folder / "short_conv.py", "ShortConvLayerState", scope)
    module = Namespace(hidden_size=2048, conv_kernel_size=3)
    rows.append({"kind": "short_conv", "slots": 4, "bytes": short(module, 4, 0, 0).storage_size()})
    return rows


def v2_rows(root: Path) -> list[dict[str, Any]]:
    """Return bytes of whole caches with what they keep beside them on one device."""
    without_extension("exllamav2", root, ("ext", "tensor_p", "model"))
    import exllamav2.cache as caches

    rows = []
    for mode, name in V2_CLASSES.items():
        for heads, dim in HEADS:
            config = Namespace(max_seq_len=1024, num_key_value_heads=heads, num_hidden_layers=3, head_dim=dim)
            model = Namespace(
                config=config, cache_map=dict.fromkeys(range(3), "cpu"), get_cache_devices=lambda: ["cpu"]
            )
            made = getattr(caches, name)(model)
            beside = [each for pair in getattr(made, "temp_tensors", {}).values() for each in pair]
            tensors = [*made.key_states, *made.value_states, *made.key_scales, *made.value_scales, *beside]
            total = sum(each.nbytes for each in tensors)
            rows.append({"mode": mode, "heads": heads, "dim": dim, "layers": 3, "tokens": 1024, "bytes": total})
    return rows


def bound(path: Path, name: str, methods: tuple[str, ...], **fields: Any) -> Any:
    """Return an object with some methods of a class and fields of our own."""
    tree = ast.parse(path.read_text())
    found = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    made = Namespace(**fields)
    for node in found.body:
        if isinstance(node, ast.FunctionDef) and node.name in methods:
            scope: dict[str, Any] = {}
            exec(compile(ast.Module([node], []), str(path), "exec"), scope)
            setattr(made, node.name, MethodType(scope[node.name], made))
    return made


def v2_scratch(root: Path) -> list[dict[str, Any]]:
    """Return the scratch space that ExLlamaV2 allocates for the layers of a shape."""
    folder, rows = root / "exllamav2", []
    for hidden, ffn, heads, kv_heads, dim, experts, chunk in SHAPES:
        config = Namespace(
            max_input_len=chunk, max_batch_size=1, hidden_size=hidden, intermediate_size=ffn, num_experts=experts,
            max_dq_size=512 * 1024**2, max_seq_len=4096,
        )  # fmt: skip
        model = Namespace(config=config)

        def linear(into: int, out: int, model: Any = model) -> Any:
            fields = {"in_features": into, "out_features": out, "model": model}
            return bound(folder / "linear.py", "ExLlamaV2Linear", ("temp_dq_size",), **fields)

        sizes = ("scratch_space_fixed", "temp_state_size", "temp_dq_size", "temp_a_size", "temp_b_size",
                 "temp_gathered_state_size", "temp_logit_size")  # fmt: skip
        width = heads * dim
        attention = bound(
            folder / "attn.py", "ExLlamaV2Attention", sizes, model=model, num_attention_heads=heads, head_dim=dim,
            num_key_value_heads=kv_heads, hidden_size=hidden, q_proj=linear(hidden, width),
            k_proj=linear(hidden, kv_heads * dim), v_proj=linear(hidden, kv_heads * dim), o_proj=linear(width, hidden),
        )  # fmt: skip
        up, down = linear(hidden, ffn), linear(ffn, hidden)
        if experts:
            path, name, maps = "moe_mlp.py", "ExLlamaV2MoEMLP", {"w1": [up], "w2": [down], "w3": [up]}
        else:
            path, name, maps = "mlp.py", "ExLlamaV2MLP", {"gate_proj": up, "up_proj": up, "down_proj": down}
        mlp = bound(
            folder / path,
            name,
            sizes,
            model=model,
            in_features=hidden,
            interm_features=ffn,
            out_features=hidden,
            **maps,
        )
        rows.append({"shape": [hidden, ffn, heads, kv_heads, dim, experts, chunk],
                     "attention": attention.scratch_space_fixed(), "mlp": mlp.scratch_space_fixed()})  # fmt: skip
    return rows


def main() -> None:
    """Write the golden file."""
    two, three = Path(sys.argv[1]), Path(sys.argv[2])
    found = {
        "recipe": "python scripts/record_exllama_golden.py exllamav2 exllamav3",
        "versions": {"exllamav2": version_of(two, "exllamav2"), "exllamav3": version_of(three, "exllamav3")},
        "v3": v3_rows(three), "v2": v2_rows(two), "v2_scratch": v2_scratch(two),
    }  # fmt: skip
    GOLDEN.write_text(json.dumps(found, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
