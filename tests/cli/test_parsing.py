import pytest

from fromnoise.cli.options import parse_names, parse_numbers, parse_seeds, parse_seeds_or_count
from fromnoise.config.errors import ConfigError

hypothesis = pytest.importorskip("hypothesis")
given, st = hypothesis.given, hypothesis.strategies


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
def test_unreadable_seeds(text):
    with pytest.raises(ConfigError, match=r"^--seeds .*\. Write 0-63, or 0,5"):
        parse_seeds(text)


@given(text=st.text("0123456789-, x", max_size=8))
def test_any_text_is_seeds_or_refused(text):
    try:
        seeds = parse_seeds(text[:6])
    except ConfigError:
        return
    assert len(seeds) >= 1
    assert all(seed >= 0 for seed in seeds)


@pytest.mark.parametrize("text", ["", "5,", "-5", "5-9", "5.5", "a"])
def test_integers(text):
    assert parse_numbers("999, 5,0", "--times", "999,0", int) == [999, 5, 0]
    with pytest.raises(ConfigError, match=r"^--times .* is unreadable\. Write 999,0\.$"):
        parse_numbers(text, "--times", "999,0", int)


def test_seeds_or_a_count():
    assert parse_seeds_or_count("3,5", None) == [3, 5]
    assert parse_seeds_or_count(None, 3) == [0, 1, 2]
    assert parse_seeds_or_count(None, None) is None
    with pytest.raises(ConfigError, match=r"^--seeds and --num exclude each other\. Give one\.$"):
        parse_seeds_or_count("3", 1)


def test_numbers_are_at_least_0():
    assert parse_numbers("1, 2,3.5", "--guidance", "1,2") == [1.0, 2.0, 3.5]
    for text in ("", "1,", "-1", "a", "nan", "inf"):
        with pytest.raises(ConfigError, match=r"^--guidance .* is unreadable\. Write 1,2\.$"):
            parse_numbers(text, "--guidance", "1,2")


def test_names():
    assert parse_names("fid, kid") == ["fid", "kid"]
