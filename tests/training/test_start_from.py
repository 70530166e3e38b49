"""The first weights of a training are those of another model, layer by layer."""

import logging

import numpy as np
import pytest
import torch

import fromnoise
from fromnoise.config.recipe import load_recipe
from fromnoise.model.model import build_denoiser
from fromnoise.model.spec import ModelSpec
from fromnoise.networks import NETWORKS
from fromnoise.training.start_from import condition_layers, load_initial_weights

SMALL = {  # of each network
    "ddpm": {"channels": 8, "multipliers": [1, 2], "num_res_blocks": 1, "groups": 4},
    "dense_attention": {
        "channels": [8, 16],
        "mid_channels": [16, 8],
        "downsample": [True],
        "time_dim": 16,
        "num_layers": [1, 1, 1],
        "out_width": 8,
        "groups": 4,
        "heads": 2,
    },
    "stacked": {},
    "linear_attention": {"dim": 8, "multipliers": [1, 2]},
    "context": {"features": 16, "pool": 2, "expand": 2},
}


def spec_of(tiny, name="ddpm", size=16, **changes) -> ModelSpec:
    recipe = load_recipe("digits", {"network": {"name": name, **SMALL[name]}})
    given = {"network": recipe.network, "diffusion": recipe.diffusion, "sampling": recipe.sampling}
    return ModelSpec(**given, **{"channels": 1, "size": (size, size), **changes})


def begun(spec: ModelSpec, path) -> tuple[dict, dict]:
    """The random weights, and what they are after the other's are loaded."""
    torch.manual_seed(1)
    denoiser = build_denoiser(spec)
    before = {k: v.clone() for k, v in denoiser.network.state_dict().items()}
    load_initial_weights(denoiser, spec, path)
    return before, denoiser.network.state_dict()


@pytest.fixture
def saved(tiny, tmp_path):
    """A model without labels, of one channel."""
    spec = spec_of(tiny)
    torch.manual_seed(0)
    return fromnoise.Model(build_denoiser(spec), spec).save(tmp_path / "first.safetensors")


def test_other_channels_leave_the_first_and_the_last_layer_random(tiny, saved, caplog):
    old = fromnoise.load(saved).denoiser.network.state_dict()
    with caplog.at_level(logging.INFO, "fromnoise"):
        before, after = begun(spec_of(tiny, channels=3), saved)
    fresh = {line.split()[0] for line in caplog.messages if "is not loaded" in line}
    assert fresh == {k.rpartition(".")[0] for k in old if old[k].shape != after[k].shape}
    assert len(fresh) == 2
    for name, tensor in after.items():
        expected = before if name.rpartition(".")[0] in fresh else old
        assert torch.equal(tensor, expected[name]), name


def test_labels_are_new_layers_and_another_size_changes_nothing(tiny, saved, caplog):
    labelled = spec_of(tiny, size=24, label_names=("cat", "dog"))
    with caplog.at_level(logging.INFO, "fromnoise"):
        _, after = begun(labelled, saved)
    old = fromnoise.load(saved).denoiser.network.state_dict()
    assert after.keys() > old.keys()
    assert all(torch.equal(after[k], old[k]) for k in old)
    new = {k.rpartition(".")[0] for k in after.keys() - old.keys()}
    assert {f"{layer} is not loaded. It keeps its random weights" for layer in new} <= set(
        caplog.messages
    )


def test_labels_that_both_have_keep_their_columns(tiny, tmp_path, caplog):
    first = spec_of(tiny, label_names=("cat", "dog"), augment_columns=("x",))
    path = fromnoise.Model(build_denoiser(first), first).save(tmp_path / "l.safetensors")
    with caplog.at_level(logging.INFO, "fromnoise"):
        before, after = begun(spec_of(tiny, label_names=("dog", "cow", "cat")), path)
    old = fromnoise.load(path).denoiser.network.state_dict()
    (layer,) = condition_layers(first)
    cat, dog, _ = old[f"{layer}.weight"].T
    cow = before[f"{layer}.weight"][:, 1]
    assert torch.equal(after[f"{layer}.weight"], torch.stack([dog, cow, cat], dim=1))
    assert f"{layer} is loaded for 2 of 3 labels. The others keep their random weights" in (
        caplog.messages
    )


def test_other_labels_of_the_same_number_leave_their_layer_random(tiny, tmp_path, caplog):
    first = spec_of(tiny, label_names=("cat", "dog"))
    path = fromnoise.Model(build_denoiser(first), first).save(tmp_path / "l.safetensors")
    before, after = begun(spec_of(tiny, label_names=("hen", "cow")), path)
    old = fromnoise.load(path).denoiser.network.state_dict()
    layers = condition_layers(first)
    assert layers
    for name, tensor in after.items():
        expected = before if name.rpartition(".")[0] in layers else old
        assert torch.equal(tensor, expected[name]), name
    _, same = begun(first, path)
    assert all(torch.equal(same[k], old[k]) for k in old)


def test_a_model_with_labels_starts_one_without(tiny, tmp_path, caplog):
    first = spec_of(tiny, label_names=("cat", "dog"), augment_columns=("x",))
    path = fromnoise.Model(build_denoiser(first), first).save(tmp_path / "l.safetensors")
    with caplog.at_level(logging.INFO, "fromnoise"):
        _, after = begun(spec_of(tiny), path)
    old = fromnoise.load(path).denoiser.network.state_dict()
    assert all(torch.equal(after[k], old[k]) for k in after)
    assert sum("is not used" in line for line in caplog.messages) >= 1


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_the_layers_of_the_condition_of_every_network(tiny, name):
    """Those through which a label reaches the network: few, and with a column for each label."""
    spec = spec_of(tiny, name, size=32, label_names=tuple("abcde"))
    network = build_denoiser(spec).network
    layers = condition_layers(spec)
    assert 1 <= len(layers) <= 3
    for layer in layers:
        assert 5 in network.get_submodule(layer).weight.shape or name == "context"


def test_a_training_begins_with_another_of_another_kind(tiny, run, tmp_path):
    """From one channel without labels to three with labels and augmentation, by the command."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "few.npz", images=images, labels=np.arange(20) % 3)
    tiny["data"] = {"source": "npz", "labels": True}
    tiny["training"] |= {"steps": 1, "start_from": str(run), "augment": 0.1}
    begun = fromnoise.train(tiny, data=tmp_path / "few.npz", out=tmp_path / "other")
    assert begun.finished
    assert begun.model().spec.channels == 3
