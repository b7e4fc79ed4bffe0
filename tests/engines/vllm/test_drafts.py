"""Drafts beside a model: weights of heads and of whole models, their layers in the pool, what they share."""

from __future__ import annotations

import json

import pytest

from oomph.answer import subject
from oomph.devices import find
from oomph.engines.base import Deployment
from oomph.engines.vllm import VllmJob, deploy
from oomph.errors import UnsupportedError, UsageError
from oomph.units import GIB

H100 = find("h100-sxm")
LLAMA, EAGLE3 = "llama-3.1-8b-instruct", "yuhuili/EAGLE3-LLaMA3.1-Instruct-8B"


def _deployed(name: str, asked: dict[str, object] | None, **flags: object) -> Deployment:
    said = None if asked is None else json.dumps({"num_speculative_tokens": 3, **asked})
    job = VllmJob(**{"version": "0.25.1", "max_model_len": 8192, "speculative_config": said, **flags})  # type: ignore[arg-type]
    return deploy(subject(name), job, [H100] * job.ranks)


def _line(deployed: Deployment, name: str) -> float:
    return next(line.value for line in deployed.printed if line.name == name)


def test_a_head_takes_its_tensors_and_no_table_of_words() -> None:
    """EAGLE-3 of Llama 3.1 8B: fc, a layer whose maps read words and states, 32,000 words of its own; 0.79 GiB."""
    alone, drafting = (_line(_deployed(LLAMA, each), "weights_gib") for each in (None, {"model": EAGLE3}))
    hidden, ffn, words = 4096, 14336, 32000
    numbers = 3 * hidden**2 + 2 * hidden * (hidden + 2 * 1024) + hidden**2 + 3 * hidden * ffn + words * hidden
    assert drafting - alone == pytest.approx(2 * numbers / GIB, abs=0.015)


def test_eagles_first_head_shares_words_and_output_map() -> None:
    """EAGLE: fc of words and states, one layer, nothing of the vocabulary."""
    alone = _line(_deployed(LLAMA, None), "weights_gib")
    drafting = _line(_deployed(LLAMA, {"model": "yuhuili/EAGLE-LLaMA3.1-Instruct-8B"}), "weights_gib")
    numbers = 2 * 4096**2 + 2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336
    assert drafting - alone == pytest.approx(2 * numbers / GIB, abs=0.015)


def test_a_heads_layer_draws_from_the_pool() -> None:
    """33 layers keep what 32 kept: as many bytes hold 32/33 of the tokens."""
    fixed: dict[str, object] = {"kv_cache_memory_bytes": 33 * 2**20}
    alone, drafting = (_line(_deployed(LLAMA, each, **fixed), "kv_blocks") for each in (None, {"model": EAGLE3}))
    assert (alone, drafting) == (33 * 2**20 // (32 * 65536), 33 * 2**20 // (33 * 65536))


def test_lagunas_dflash_is_as_its_log_says() -> None:
    """Laguna-S-2.1-INT4 with its DFlash head: 69.34 GiB, and 3.88 requests of 262,144 tokens in 35.64 GiB (0.25.1)."""
    asked = {"model": "poolside/Laguna-S-2.1-DFlash-INT4", "num_speculative_tokens": 15}
    flags: dict[str, object] = {"max_model_len": 262144, "max_num_seqs": 32, "max_num_batched_tokens": 2048}
    found = _deployed("laguna-s-2.1-int4", asked, **flags, kv_cache_memory_bytes=round(35.64 * GIB))
    assert _line(found, "weights_gib") == pytest.approx(69.34, abs=0.15)  # 0.12 less, not explained
    assert _line(found, "max_concurrency") == pytest.approx(3.88, abs=0.01)


def test_a_whole_model_drafts_with_all_it_has() -> None:
    """A draft model brings its weights, and its layers' keys and values."""
    asked = {"method": "draft_model", "model": "Qwen/Qwen3-0.6B"}
    small = _line(_deployed("qwen3-0.6b", None), "weights_gib")
    alone, drafting = (_deployed("qwen3-8b", each) for each in (None, asked))
    assert _line(drafting, "weights_gib") - _line(alone, "weights_gib") == pytest.approx(small, abs=0.02)
    fixed: dict[str, object] = {"kv_cache_memory_bytes": 2**33}
    pools = [_line(_deployed("qwen3-8b", each, **fixed), "kv_blocks") for each in (None, asked)]
    assert pools == [2**33 // (36 * 65536), 2**33 // ((36 + 28) * 65536)]


@pytest.mark.parametrize("method", ["ngram", "suffix"])
def test_what_is_looked_up_takes_nothing(method: str) -> None:
    """Guesses that are looked up in the prompt need no weights and no keys."""
    alone, drafting = (_deployed(LLAMA, each) for each in (None, {"method": method}))
    for name in ("weights_gib", "kv_blocks"):
        assert _line(drafting, name) == pytest.approx(_line(alone, name), rel=0.01)


def test_medusas_heads_have_an_output_map_each() -> None:
    """Five square maps and five vocabularies."""
    alone, drafting = (
        _line(_deployed(LLAMA, each), "weights_gib") for each in (None, {"method": "medusa", "model": "x/y"})
    )
    assert drafting - alone == pytest.approx(2 * 5 * (4096**2 + 128256 * 4096) / GIB, abs=0.02)


def test_devices_share_a_head() -> None:
    """Two devices hold half of a head's maps each, but for fc, which stands on both."""
    one, two = (
        _line(_deployed(LLAMA, {"model": EAGLE3}, tensor_parallel=tp), "weights_gib")
        - _line(_deployed(LLAMA, None, tensor_parallel=tp), "weights_gib")
        for tp in (1, 2)
    )
    fc = 2 * 3 * 4096**2 / GIB
    assert two == pytest.approx((one - fc) / 2 + fc, abs=0.02)


@pytest.mark.parametrize(
    ("name", "asked", "flags", "why"),
    [
        ("qwen3-30b-a3b", {"model": "someone/qwen3-30b-eagle3"}, {}, "does not follow"),
        (LLAMA, {"method": "dflash", "model": "someone/unheard"}, {}, "does not follow"),
        (LLAMA, {"model": "someone/unheard"}, {}, "not in the catalogue"),
        (LLAMA, {"method": "draft_model", "model": "llama-3.2-1b"}, {"version": "0.12.0"}, "from vLLM 0.15.0 on"),
        (LLAMA, {"model": EAGLE3, "draft_tensor_parallel_size": 1}, {}, "fewer devices"),
        (LLAMA, {"method": "mlp_speculator"}, {}, "is not modelled"),
    ],
)
def test_drafts_that_are_not_known_are_refused(
    name: str, asked: dict[str, object], flags: dict[str, object], why: str
) -> None:
    """What a draft is made of is not guessed."""
    with pytest.raises((UnsupportedError, UsageError), match=why):
        _deployed(name, asked, **flags)


def test_prediction_layers_are_the_models_own() -> None:
    """DeepSeek has one, which joins its layers; of a model without any there is nothing to guess with."""
    alone, ahead = (_deployed("deepseek-v3", each, tensor_parallel=16) for each in (None, {"method": "mtp"}))
    assert _line(ahead, "weights_gib") > _line(alone, "weights_gib")
    with pytest.raises(UnsupportedError, match="qwen3-8b has no prediction layers"):
        _deployed("qwen3-8b", {"method": "mtp"})


def test_what_a_config_of_drafts_says_is_read_or_refused() -> None:
    """Keys that find or accept guesses move nothing, others are refused by name, a typing error with what was meant."""
    ngram = '{"model": "[ngram]", "num_speculative_tokens": 5, "prompt_lookup_max": 4}'
    assert VllmJob(speculative_config=ngram).speculation["method"] == "ngram"
    assert VllmJob(speculative_config='{"method": "[ngram]"}').speculation["method"] == "ngram"
    with pytest.raises(UsageError, match="names no model"):
        VllmJob(speculative_config='{"method": "eagle3", "num_speculative_tokens": 3}')
    for key, said in (
        ("draft_lm_head_quantization", "is not modelled"),
        ("num_speculatve_tokens", "num_speculative_tokens"),
        ("moe_backend", "is not modelled"),
    ):
        with pytest.raises(UnsupportedError, match=said):
            VllmJob(speculative_config=json.dumps({"method": "ngram", key: 3}))
