from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gym_adapters import InvalidConfig
from gym_adapters.doctor.model_files import ModelFiles, find_model
from gym_adapters.testing.tiny_model import tiny_policy

MakeModel = Callable[..., Path]


def test_parameters_and_bytes_are_those_of_the_loaded_model() -> None:
    policy = tiny_policy()
    model, files = policy.load_model(), find_model(str(policy.model_path))
    assert files.parameters == sum(p.numel() for p in model.parameters())
    assert sum(weight.size for weight in files.weights.values()) == 4 * files.parameters
    assert files.max_context == model.config.max_position_embeddings
    assert files.vocabulary == model.config.vocab_size
    # Two layers with one key and value head of 32 each, two bytes a number.
    assert files.cache_bytes_per_token == 2 * 2 * 1 * 32 * 2


def test_lora_is_counted_as_peft_counts_it() -> None:
    peft = pytest.importorskip("peft", reason="needs the extra gym-adapters[trl]")
    policy = tiny_policy()
    targets = ("q_proj", "v_proj", "down_proj")
    config = peft.LoraConfig(r=4, target_modules=list(targets))
    trained, _ = peft.get_peft_model(policy.load_model(), config).get_nb_trainable_parameters()
    assert find_model(str(policy.model_path)).lora_parameters(4, targets) == trained


def test_a_file_that_is_cut_short_is_named(make_model: MakeModel) -> None:
    folder = make_model()
    (weights,) = folder.glob("*.safetensors")
    for content in (b"", b"\x00" * 8, b"\xff" * 20, weights.read_bytes()[:40]):
        weights.write_bytes(content)
        with pytest.raises(InvalidConfig, match=r"model\.safetensors is no whole"):
            _ = find_model(str(folder)).weights


def test_what_is_not_here_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InvalidConfig, match=r"not in the Hub's cache.*hf download nobody/nothing"):
        find_model("nobody/nothing")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InvalidConfig, match=r"config\.json can't be read"):
        find_model(str(tmp_path))


def test_the_language_model_of_a_multimodal_config_is_found(tmp_path: Path) -> None:
    inner = {"max_position_embeddings": 7, "num_hidden_layers": 1, "hidden_size": 8}
    files = ModelFiles(tmp_path, {"text_config": {**inner, "num_attention_heads": 2}})
    assert files.max_context == 7
    assert files.cache_bytes_per_token == 2 * 1 * 2 * 4 * 2
    assert ModelFiles(tmp_path, {}).cache_bytes_per_token is None


def test_a_folder_without_a_model_is_told_apart_from_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"is no model: it has no config\.json\. Fix: give"):
        find_model(str(tmp_path))
