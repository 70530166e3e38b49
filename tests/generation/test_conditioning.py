"""Conditioning of images by the label options, and the notes before sampling."""

import json

import numpy as np
import pytest

from fromnoise.config.components import Component
from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import Diffusion, SamplingConfig
from fromnoise.data import DataError
from fromnoise.generation.request import (
    Conditioning,
    guidance_formula,
    guidance_notes,
    read_conditioning,
)
from fromnoise.model.spec import ModelSpec

NAMES = ("red cube", "a/b", "sphere")


def test_labels_are_given_by_one_option():
    def cond_of(count=None, **options):
        cond, compose, autoguidance = read_conditioning(NAMES, count, **options)
        assert compose is autoguidance is None
        return cond

    assert cond_of(2) is None
    np.testing.assert_array_equal(cond_of(2, class_="sphere"), [[-1, -1, 1]] * 2)
    np.testing.assert_array_equal(cond_of(1, class_="Sphere, A-B"), [[-1, 1, 1]])
    np.testing.assert_array_equal(cond_of(1, labels="sphere, -red cube"), [[-1, 0, 1]])
    names = ("tench, Tinca tinca", "a", "b")
    rows = read_conditioning(names, 1, class_="b, tench, Tinca tinca").cond
    np.testing.assert_array_equal(rows, [[1, -1, 1]])
    turns = cond_of(4, cycle_classes=True)
    np.testing.assert_array_equal(turns.argmax(axis=1), [0, 1, 2, 0])
    assert [len(cond_of(class_="sphere")), len(cond_of(cycle_classes=True))] == [64, 63]


@pytest.mark.parametrize("other", [{"compose": "a/b=1"}, {"cycle_classes": True}, {"class_": "a"}])
def test_two_options_at_once_are_refused(other):
    with pytest.raises(ConfigError, match=r"exclude each other\. Give one\.$"):
        read_conditioning(NAMES, 1, labels="sphere", **other)


def test_the_conditions_of_a_file_begin_again_where_images_are_more(tmp_path):
    file = tmp_path / "test.json"
    file.write_text(json.dumps([["a/b"], ["red cube", "sphere"]]))
    expected = [[-1, 1, -1], [1, -1, 1], [-1, 1, -1]]
    for count in (3, 1):
        np.testing.assert_array_equal(
            read_conditioning(NAMES, count, file=file).cond, expected[:count]
        )
    np.testing.assert_array_equal(read_conditioning(NAMES, file=file).cond, expected[:2])


@pytest.mark.parametrize(
    "ask", [{"class_": "sphere"}, {"labels": ""}, {"cycle_classes": True}, {"compose": "sphere=2"}]
)
def test_a_model_without_labels_cannot_be_cond_of(ask):
    with pytest.raises(
        ConfigError, match=r"^this model is unconditional\. Remove the label options\.$"
    ):
        read_conditioning((), 1, **ask)


def test_a_composition_is_labels_with_weights():
    conditioning = read_conditioning(NAMES, compose="red-cube=3, sphere = -1.5")
    assert conditioning == Conditioning(compose={"red cube": 3.0, "sphere": -1.5})
    assert conditioning.captions(NAMES, 2) == ["red cube=3, sphere=-1.5"] * 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sphere", "'sphere' has no weight. Write label=number, as in 'red cube=3'"),
        ("sphere=", "'sphere=' has no weight"),
        ("sphere=nan", "'sphere=nan' has no weight"),
        ("", "'' has no weight"),
        ("shere=1", r"no label 'shere'\. Did you mean sphere\?"),
        ("sphere=1, Sphere=2", "names the label 'sphere' twice"),
    ],
)
def test_what_is_no_composition(text, said):
    with pytest.raises(DataError, match=said):
        read_conditioning(NAMES, compose=text)


def test_notes_before_sampling():
    whole, partial = np.array([[1, -1, -1]]), np.array([[1, 0, 0]])
    plain, strong = SamplingConfig(), SamplingConfig(guidance=2)

    def notes(config, cond, compose=None, *, names=NAMES, label_dropout=0.0):
        conditioning = Conditioning(cond, compose)
        spec = ModelSpec(
            network=Component(name="ddpm"),
            diffusion=Diffusion(),
            sampling=config,
            channels=1,
            size=(8, 8),
            label_names=names,
            label_dropout=label_dropout,
        )
        return " ".join(guidance_notes(spec, config, conditioning))

    assert notes(strong, None, names=()) == ""
    assert "no labels are set" in notes(plain, None)
    assert notes(plain, whole) == ""
    assert notes(strong, whole) == guidance_formula(strong)
    for dropout, warned in ((0.0, True), (0.3, False), (None, False)):
        assert ("some labels are open" in notes(plain, partial, label_dropout=dropout)) == warned
        assert (
            "some labels are open" in notes(plain, None, {"sphere": 2.0}, label_dropout=dropout)
        ) == warned


def test_the_formula_is_said_with_its_scale():
    assert guidance_formula(SamplingConfig()) == ""
    assert "ε = ε_∅ + s·(ε_c − ε_∅) with s = 2.5; 1 is off" in guidance_formula(
        SamplingConfig(guidance=2.5)
    )
    said = guidance_formula(
        SamplingConfig(guidance=2, guidance_interval=(20, 80), guidance_rescale=0.7)
    )
    assert said.endswith("for t from 20 to 80, rescaled with φ = 0.7")
    assert guidance_formula(SamplingConfig(), {"red cube": 3.0, "sphere": -1.0}) == (
        "composed: ε = ε_∅ + 3·(ε[red cube] − ε_∅) − 1·(ε[sphere] − ε_∅)"
    )
