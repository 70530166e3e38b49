"""The same PNGs and weights through torch-fidelity's own command and through ours."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fromnoise.evaluation.features import Against
from fromnoise.evaluation.images import Drawing
from fromnoise.evaluation.sets import evaluate

library = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")

COUNT = 44


@pytest.fixture
def random_inception(tmp_path):
    """A file of random weights under which 2,048 features still tell images apart."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(library.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = library.FeatureExtractorInceptionV3("random", ["2048"])
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=1)
            nn.init.zeros_(module.bias)
    file = tmp_path / "inception.pth"
    torch.save(network.state_dict(), file)
    return file


def save_images(folder, seed: int, brightest: int):
    folder.mkdir()
    coarse = np.random.default_rng(seed).integers(0, brightest, (COUNT, 4, 4, 3))
    images = coarse.astype(np.uint8).repeat(8, axis=1).repeat(8, axis=2)  # (N, 32, 32, 3)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03d}.png")
    return folder


@pytest.mark.slow
def test_all_scores_are_those_of_its_command(random_inception, tmp_path):
    made, real = save_images(tmp_path / "made", 0, 256), save_images(tmp_path / "real", 1, 200)
    command = [sys.executable, "-m", "torch_fidelity.fidelity", "--cpu", "--json", "--silent"]
    command += ["--isc", "--fid", "--kid", "--prc", "--no-cache"]
    command += ["--feature-extractor", "inception-v3-compat", "--kid-subset-size", str(COUNT)]
    command += ["--feature-extractor-weights-path", str(random_inception)]
    command += ["--input1", str(made), "--input2", str(real)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    theirs = json.loads(finished.stdout)
    against = Against(str(real), features_weights=random_inception, allow_small=True)
    _, folder = evaluate(made, against, Drawing(device="cpu"), out=tmp_path / "out")
    ours = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["scores"]
    for name, key in {
        "fid": "frechet_inception_distance",
        "kid": "kernel_inception_distance_mean",
        "inception_score": "inception_score_mean",
        "precision": "precision",
        "recall": "recall",
    }.items():
        assert ours[name]["value"] == pytest.approx(theirs[key], rel=1e-3), (name, theirs)
    assert theirs["frechet_inception_distance"] > 1  # and not 0 = 0
    assert 0 < theirs["precision"] < 1
    varied = theirs["inception_score_mean"] - 1  # the least score is 1
    assert varied > 0.01
    assert ours["inception_score"]["value"] - 1 == pytest.approx(varied, rel=1e-3)
