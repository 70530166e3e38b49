import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromnoise.asking import (
    composition,
    conditions,
    formula,
    parse_colour,
    parse_interval,
    parse_scales,
    parse_seeds,
    parse_times,
)
from fromnoise.config import ConfigError, Sampling
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


def test_labels_are_asked_for_in_one_way(tmp_path):
    assert conditions(NAMES, 2) is None
    of_class = conditions(NAMES, 2, class_="sphere")
    np.testing.assert_array_equal(of_class, [[-1, -1, 1]] * 2)
    some = conditions(NAMES, 1, class_="Sphere, A-B")
    np.testing.assert_array_equal(some, [[-1, 1, 1]])
    said = conditions(NAMES, 1, labels="sphere, -red cube")
    np.testing.assert_array_equal(said, [[-1, 0, 1]])
    turns = conditions(NAMES, 4, cycle_classes=True)
    np.testing.assert_array_equal(turns.argmax(axis=1), [0, 1, 2, 0])
    with pytest.raises(ConfigError, match="exclude each other; give one"):
        conditions(NAMES, 1, labels="sphere", cycle_classes=True)


def test_the_conditions_of_a_file_begin_again_where_images_are_more(tmp_path):
    file = tmp_path / "test.json"
    file.write_text(json.dumps([["a/b"], ["red cube", "sphere"]]))
    listed = conditions(NAMES, 3, file=file)
    np.testing.assert_array_equal(listed, [[-1, 1, -1], [1, -1, 1], [-1, 1, -1]])


@pytest.mark.parametrize("ask", [{"class_": "sphere"}, {"labels": ""}, {"cycle_classes": True}])
def test_a_model_without_labels_cannot_be_asked(ask):
    with pytest.raises(ConfigError, match=r"trained without labels.*data\.labels=true"):
        conditions((), 1, **ask)
    with pytest.raises(ConfigError, match="trained without labels"):
        composition((), "sphere=2")


def test_a_composition_is_labels_with_weights():
    assert composition(NAMES, None) is None
    assert composition(NAMES, "red-cube=3, sphere = -1.5") == {"red cube": 3.0, "sphere": -1.5}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sphere", "'sphere' has no weight; write label=number, as in 'red cube=3'"),
        ("sphere=", "'sphere=' has no weight"),
        ("sphere=nan", "'sphere=nan' has no weight"),
        ("", "'' has no weight"),
        ("shere=1", r"no label 'shere'; did you mean sphere\?"),
        ("sphere=1, Sphere=2", "'sphere' is said twice"),
    ],
)
def test_what_is_no_composition(text, said):
    with pytest.raises(DataError, match=said):
        composition(NAMES, text)


def test_the_formula_is_said_with_its_scale():
    assert formula(Sampling()) == ""
    assert "ε = ε_∅ + s·(ε_c − ε_∅) with s = 2.5; 1 is off" in formula(Sampling(guidance=2.5))
    said = formula(Sampling(guidance=2, guidance_interval=(20, 80), guidance_rescale=0.7))
    assert said.endswith("for t from 20 to 80, rescaled with φ = 0.7")
    assert formula(Sampling(), {"red cube": 3.0, "sphere": -1.0}) == (
        "composed: ε = ε_∅ + 3·(ε[red cube] − ε_∅) − 1·(ε[sphere] − ε_∅)"
    )
