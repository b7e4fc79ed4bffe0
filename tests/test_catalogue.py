"""The built-in catalogue: every entry weighs, every name leads to one model, the counts are those of real classes."""

from __future__ import annotations

import pytest

from oomph.answer import estimate, load
from oomph.families import model_from_config
from oomph.sources import catalogue
from tests.conftest import shared_params

ENTRIES = catalogue.entries()


def test_the_catalogue_is_large_enough_to_be_useful() -> None:
    """At least 150 models, of many architectures."""
    assert len(ENTRIES) >= 150
    assert len({entry["config"]["model_type"] for entry in ENTRIES}) >= 50


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry["name"] for entry in ENTRIES])
def test_every_entry_counts_as_stated_and_weighs(entry: dict) -> None:
    """The stated count comes out of the keys, and a ledger out of the name."""
    assert model_from_config(entry["config"]).params == entry["params"]
    assert estimate(entry["name"], side_by_side=()).total_bytes > entry["params"] // 8


@pytest.mark.shared
@pytest.mark.parametrize("entry", ENTRIES, ids=[entry["name"] for entry in ENTRIES])
def test_every_entry_equals_the_real_class(entry: dict) -> None:
    """The stated count is the one counted from the real class, where a class could be built."""
    from tests.families.test_truth import STAND_INS

    truth = shared_params(entry["repo"])
    if truth is None or entry["repo"] in STAND_INS or entry["config"]["model_type"] == "gemma3n":
        pytest.skip("its truth is a stand-in: see tests/families/test_truth.py")
    assert entry["params"] == truth["total"]


def test_names_aliases_and_repositories_lead_to_the_same_model() -> None:
    """However a user spells it."""
    for ref in ("llama-3-8b", "Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B", "LLAMA 3 8B", "llama3:8b"):
        assert load(ref).params == 8030261248


@pytest.mark.parametrize(
    ("said", "repo"),
    [
        ("zamba-7b", "Zyphra/Zamba-7B-v1"),
        ("kimi-k2", "moonshotai/Kimi-K2-Instruct"),
        ("phi-3.5-vision", "microsoft/Phi-3.5-vision-instruct"),
        ("Llama-3_3-Nemotron-Super-49B-v1", "nvidia/Llama-3_3-Nemotron-Super-49B-v1"),
        ("llama-3.3-nemotron-super-49b", "nvidia/Llama-3_3-Nemotron-Super-49B-v1"),
        ("MiniMax-M3", "MiniMaxAI/MiniMax-M3"),
        ("nvidia/Qwen3.6-27B-NVFP4", "nvidia/Qwen3.6-27B-NVFP4"),
    ],
)
def test_short_names_that_people_type(said: str, repo: str) -> None:
    """Without a version or what a model is tuned for, where only one is meant."""
    found = catalogue.find(said)
    assert found is not None
    assert found.repo == repo


def test_every_name_finds_its_own_entry() -> None:
    """No alias hides another model's name."""
    for entry in ENTRIES:
        for name in (entry["name"], *entry["aliases"], entry["repo"]):
            found = catalogue.find(name)
            assert found is not None
            assert found.name == entry["name"]


def test_part_of_a_name_is_no_name() -> None:
    """Only whole names are found; parts are for search and suggestions."""
    assert catalogue.find("llama-3") is None
    assert catalogue.find("") is None
    assert catalogue.find('name"') is None
    assert "llama-3-8b" in catalogue.suggest("lama 3 8b")
    assert len(catalogue.search("qwen3 vl")) >= 3
