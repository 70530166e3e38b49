import numpy as np
import pytest

from fromnoise.data import DataError
from fromnoise.data.labels import (
    describe_labels,
    exact_labels,
    label_index,
    one_label_each,
    parse_labels,
    parse_weights,
    unique_names,
)

hypothesis = pytest.importorskip("hypothesis")
given, st = hypothesis.given, hypothesis.strategies

NAMES = ("red cube", "blue cube", "-odd", "sphere")


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("red cube", [1, 0, 0, 0]),
        ("red cube, -blue cube", [1, -1, 0, 0]),
        (" sphere ,red cube ", [1, 0, 0, 1]),
        ("-sphere", [0, 0, 0, -1]),
        ("-odd", [0, 0, 1, 0]),  # a name that begins like a negation is itself
        ("--odd", [0, 0, -1, 0]),
    ],
)
def test_words_become_numbers(text, condition):
    np.testing.assert_array_equal(parse_labels(text, NAMES), condition)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("red cub", r"no label 'red cub'\. Did you mean red cube or blue cube\?"),
        ("RED", r"no label 'RED'\. Did you mean red cube\?"),
        ("cube", r"Did you mean red cube or blue cube\?"),
        ("-speer", r"no label 'speer'\. Did you mean sphere\?"),
        ("zzz", r"no label 'zzz'\. The labels are red cube, blue cube, -odd, sphere\."),
        ("", "no label ''"),
        ("sphere,", "no label ''"),
        ("sphere, sphere", "names the label 'sphere' twice"),
        ("sphere, -sphere", "names the label 'sphere' twice"),
    ],
)
def test_unknown_and_repeated_labels_are_refused(text, message):
    with pytest.raises(DataError, match=message):
        parse_labels(text, NAMES)


WITH_COMMAS = ("tench, Tinca tinca", "goldfish", "a, b, c", "a", "b", "x=y", "$x^$", ".", "..")


def test_names_may_contain_any_character():
    """Each alone, negated, weighted and beside each other, as `describe_labels` writes them."""
    for k, name in enumerate(WITH_COMMAS):
        one = np.eye(len(WITH_COMMAS), dtype=np.int8)[k]
        np.testing.assert_array_equal(parse_labels(name, WITH_COMMAS), one)
        np.testing.assert_array_equal(parse_labels(f"-{name}", WITH_COMMAS), -one)
        assert parse_weights(f"goldfish=-1, {name}=2", WITH_COMMAS)[name] == 2 if k != 1 else True
        one[1] = -1 if k != 1 else 1
        text = describe_labels(one, WITH_COMMAS)
        np.testing.assert_array_equal(parse_labels(text, WITH_COMMAS), one)
    assert parse_labels("b, a, -a, b, c", WITH_COMMAS)[2:5].tolist() == [-1, 1, 1]
    with pytest.raises(DataError, match=r"no label 'tench'\. Did you mean tench, Tinca tinca\?"):
        parse_labels("tench", WITH_COMMAS)
    with pytest.raises(DataError, match="no label ''"):
        parse_labels("", (".",))


def test_names_are_the_same_in_every_form_of_unicode():
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    for asked, names in ((composed, (decomposed,)), (decomposed, (composed, "cafe"))):
        assert label_index(asked, names) == 0
    assert unique_names([f" {decomposed}\n"], where="x") == (composed,)
    assert unique_names(["a\nb", "\x1b[1m", "caf\udce9"], where="x") == (
        *("a\\nb", "\\x1b[1m", "caf\\xe9"),
    )
    with pytest.raises(DataError, match="twice"):
        unique_names([composed, decomposed], where="x")


def test_some_labels_and_none_of_the_others():
    np.testing.assert_array_equal(exact_labels(["blue cube"], NAMES), [-1, 1, -1, -1])
    np.testing.assert_array_equal(exact_labels(["sphere", "-odd"], NAMES), [-1, -1, 1, 1])
    with pytest.raises(DataError, match="no label 'cube'"):
        exact_labels(["cube"], NAMES)
    with pytest.raises(DataError, match=r"'sphere' is listed twice\. Remove one"):
        exact_labels(["sphere", "SPHERE"], NAMES)


def test_each_in_turn():
    turns = one_label_each(NAMES, 6)
    np.testing.assert_array_equal(turns.argmax(axis=1), [0, 1, 2, 3, 0, 1])
    assert (turns.sum(axis=1) == 1 - 3).all()


@pytest.mark.parametrize("name", ["Ankle boot", "ankle boot", "ankle-boot", "ANKLE_BOOT"])
def test_case_and_punctuation_do_not_matter(name):
    names = ("T-shirt/top", "Ankle boot", "-odd")
    assert label_index(name, names) == 1
    assert label_index("t-shirt-top", names) == 0
    np.testing.assert_array_equal(parse_labels(f"t-shirt top, -{name}", names), [1, -1, 0])


def test_but_they_never_choose_between_two_labels_nor_turn_a_label_into_its_opposite():
    names = ("red-cube", "red cube", "sphere")
    assert [label_index(name, names) for name in names] == [0, 1, 2]
    for name in ("RED CUBE", "-sphere"):
        with pytest.raises(DataError, match=f"no label '{name}'"):
            label_index(name, names)


@given(st.lists(st.sampled_from([-1, 0, 1]), min_size=4, max_size=4))
def test_words_and_numbers_say_the_same(values):
    condition = np.array(values)
    words = describe_labels(condition, NAMES)
    present = [n for n, v in zip(NAMES, values, strict=True) if v > 0]
    if not condition.any():
        assert words == ""
    elif condition.all() and present:  # complete: what is not named is absent
        assert words == ", ".join(present)
    else:
        np.testing.assert_array_equal(parse_labels(words, NAMES), condition)
        assert words.endswith(", …") == (not condition.all())
