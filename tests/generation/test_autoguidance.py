"""Autoguidance: what the weaker model receives, and which models are refused."""

import pytest
import torch

from fromnoise.data.labels import one_label_each
from fromnoise.model.model import Autoguidance


def test_autoguidance_asks_the_weaker_model_for_the_same_labels(labelled, earlier):
    cond = torch.from_numpy(one_label_each(labelled.spec.label_names, 2))
    weak = earlier(labelled)
    seen = []
    weak.denoiser.network.register_forward_pre_hook(lambda _, args: seen.append(args[2]))
    labelled.sample([0, 1], cond=cond, steps=1, guidance=3.0, autoguidance=Autoguidance(weak, 2.0))
    [asked] = seen  # once, without the half that asks for nothing
    assert torch.equal(asked, cond)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": (4, 4)}, r"the weaker model has size = \(4, 4\), not \(8, 8\)\. Use an"),
        ({"channels": 3}, r"the weaker model has channels = 3, not 1\. Use an"),
        (
            {"label_names": ("a",)},
            r"the weaker model has label_names = \('a',\), not \(\)\. Use an",
        ),
    ],
)
def test_autoguidance_by_a_model_of_another_kind_is_refused(model, changes, said, earlier):
    with pytest.raises(ValueError, match=said):
        model.sample([0], autoguidance=Autoguidance(earlier(model, **changes), 2.0))


def test_autoguidance_by_a_model_of_another_schedule_is_refused(model, earlier):
    weak = earlier(model, diffusion=model.spec.diffusion.model_copy(update={"T": 50}))
    with pytest.raises(ValueError, match="the weaker model has another noise schedule"):
        model.sample([0], autoguidance=Autoguidance(weak, 2.0))


def test_autoguidance_and_a_composition_exclude_each_other(labelled, earlier):
    auto = Autoguidance(earlier(labelled), 2.0)
    with pytest.raises(ValueError, match="autoguidance and a composition exclude each other"):
        labelled.sample([0], compose={"sphere": 2.0}, autoguidance=auto)


@pytest.mark.parametrize("scale", [-1.0, float("inf"), float("nan")])
def test_a_scale_of_autoguidance_that_is_none_is_refused(model, scale, earlier):
    with pytest.raises(ValueError, match="must be at least 0"):
        model.sample([0], autoguidance=Autoguidance(earlier(model), scale))
