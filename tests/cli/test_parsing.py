import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromnoise.cli.parsing import (
    conditions,
    formula,
    how_to_sample,
    parse_colour,
    parse_interval,
    parse_scales,
    parse_seeds,
    parse_times,
    remarks,
)
from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import SamplingConfig
from fromnoise.data import DataError

NAMES = ("red cube", "a/b", "sphere")


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("5", [5]),
        ("0-3", [0, 1, 2, 3]),
        ("7-7", [7]),
        ("0,5,7-9", [0, 5, 7, 8, 9]),
        (" 1 , 2-3 ", [1, 2, 3]),
    ],
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    "text", ["", "-", "-3", "3-", "a", "1.5", "1,", ",", "1--3", "1-2-3", "9-3", "1,9-3", "²"]
)
def test_what_names_no_seeds(text):
    with pytest.raises(ConfigError, match=r"^seeds .*; write 0-63, or 0,5"):
        parse_seeds(text)


@given(text=st.text("0123456789-, x", max_size=8))
def test_any_text_names_seeds_or_is_refused(text):
    try:
        seeds = parse_seeds(text[:6])
    except ConfigError:
        return
    assert len(seeds) >= 1
    assert all(seed >= 0 for seed in seeds)


@pytest.mark.parametrize("text", ["", "5,", "-5", "5-9", "a"])
def test_what_names_no_times(text):
    assert parse_times("999, 5,0") == [999, 5, 0]
    with pytest.raises(ConfigError, match=r"^times .* cannot be read; write 999,"):
        parse_times(text)


def test_scales_are_numbers_of_at_least_nought():
    assert parse_scales("1, 2,3.5") == [1.0, 2.0, 3.5]
    for text in ("", "1,", "-1", "a", "nan", "inf"):
        with pytest.raises(ConfigError, match=r"^guidance .* ε = ε_∅ \+ s·\(ε_c − ε_∅\)"):
            parse_scales(text)


def test_a_colour_is_three_numbers():
    assert parse_colour("0, 128,255") == (0, 128, 255)
    for text in ("", "1,2", "1,2,256", "1,2,-3", "red"):
        with pytest.raises(ConfigError, match=r"^colour .* cannot be read; write R,G,B"):
            parse_colour(text)


def test_an_interval_is_two_times():
    assert parse_interval("200-800") == (200, 800)
    assert parse_interval(" 5 - 5 ") == (5, 5)
    for text in ("", "200", "-5", "a-b", "1-2-3", "5-"):
        with pytest.raises(ConfigError, match=r"^interval .* cannot be read; write first-last t"):
            parse_interval(text)


def test_labels_are_asked_for_in_one_way():
    def asked(count=None, **how):
        cond, composition = conditions(NAMES, count, **how)
        assert composition is None
        return cond

    assert asked(2) is None
    np.testing.assert_array_equal(asked(2, class_="sphere"), [[-1, -1, 1]] * 2)
    np.testing.assert_array_equal(asked(1, class_="Sphere, A-B"), [[-1, 1, 1]])
    np.testing.assert_array_equal(asked(1, labels="sphere, -red cube"), [[-1, 0, 1]])
    turns = asked(4, cycle_classes=True)
    np.testing.assert_array_equal(turns.argmax(axis=1), [0, 1, 2, 0])
    assert [len(asked(class_="sphere")), len(asked(cycle_classes=True))] == [64, 63]


@pytest.mark.parametrize("other", [{"compose": "a/b=1"}, {"cycle_classes": True}, {"class_": "a"}])
def test_two_ways_at_once_are_refused(other):
    with pytest.raises(ConfigError, match="exclude each other; give one"):
        conditions(NAMES, 1, labels="sphere", **other)


def test_the_conditions_of_a_file_begin_again_where_images_are_more(tmp_path):
    file = tmp_path / "test.json"
    file.write_text(json.dumps([["a/b"], ["red cube", "sphere"]]))
    expected = [[-1, 1, -1], [1, -1, 1], [-1, 1, -1]]
    for count in (3, 1):
        np.testing.assert_array_equal(conditions(NAMES, count, file=file)[0], expected[:count])
    np.testing.assert_array_equal(conditions(NAMES, file=file)[0], expected[:2])


@pytest.mark.parametrize(
    "ask", [{"class_": "sphere"}, {"labels": ""}, {"cycle_classes": True}, {"compose": "sphere=2"}]
)
def test_a_model_without_labels_cannot_be_asked(ask):
    with pytest.raises(ConfigError, match=r"trained without labels.*data\.labels=true"):
        conditions((), 1, **ask)


def test_a_composition_is_labels_with_weights():
    said = conditions(NAMES, compose="red-cube=3, sphere = -1.5")
    assert said == (None, {"red cube": 3.0, "sphere": -1.5})


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
        conditions(NAMES, compose=text)


def test_how_to_sample_is_what_was_given():
    given = {"steps": 5, "eta": None, "guidance_interval": "2-8", "clamp": "no"}
    assert how_to_sample(**given) == {"steps": 5, "guidance_interval": (2, 8), "clamp": False}
    assert how_to_sample(clamp="dynamic", guidance_interval=None) == {"clamp": "dynamic"}


def test_remarks_on_a_wish():
    whole, partial = np.array([[1, -1, -1]]), np.array([[1, 0, 0]])
    plain, strong = SamplingConfig(), SamplingConfig(guidance=2)

    def said(plan, cond, compose=None, *, names=NAMES, label_dropout=0.0):
        return " ".join(remarks(names, plan, cond, compose, label_dropout=label_dropout))

    assert said(strong, None, names=()) == ""
    assert "no label is asked for" in said(plain, None)
    assert said(plain, whole) == ""
    assert said(strong, whole) == formula(strong)
    for dropout, warned in ((0.0, True), (0.3, False), (None, False)):
        assert ("left open" in said(plain, partial, label_dropout=dropout)) == warned
        assert ("left open" in said(plain, None, {"sphere": 2.0}, label_dropout=dropout)) == warned


def test_the_formula_is_said_with_its_scale():
    assert formula(SamplingConfig()) == ""
    assert "ε = ε_∅ + s·(ε_c − ε_∅) with s = 2.5; 1 is off" in formula(SamplingConfig(guidance=2.5))
    said = formula(SamplingConfig(guidance=2, guidance_interval=(20, 80), guidance_rescale=0.7))
    assert said.endswith("for t from 20 to 80, rescaled with φ = 0.7")
    assert formula(SamplingConfig(), {"red cube": 3.0, "sphere": -1.0}) == (
        "composed: ε = ε_∅ + 3·(ε[red cube] − ε_∅) − 1·(ε[sphere] − ε_∅)"
    )
