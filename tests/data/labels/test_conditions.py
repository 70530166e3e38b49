import json

import numpy as np
import pytest

from fromnoise.data import DataError, read_conditions

NAMES = ("gray cube", "red cube", "red sphere")


def put(path, content):
    path.write_text(content if content == "[" else json.dumps(content))
    return path


def test_a_list_of_names_is_exactly_these_and_a_text_leaves_the_rest_open(tmp_path):
    conditions = [["Red-Cube"], ["red sphere", "gray cube"], "red cube, -red sphere"]
    path = put(tmp_path / "test.json", conditions)
    expected = [[-1, 1, -1], [1, -1, 1], [0, 1, -1]]
    for read in (read_conditions(path, NAMES), read_conditions(str(path), NAMES)):
        assert read.dtype == np.int8
        np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": ["red cube"]}, r"test.json has no list of conditions\. Write \[\[\"name\""),
        ([["red cube"], 3], r"condition 2 of 2: 3 is invalid\. Write \[\"name\", …\] or"),
        ([], r"test.json has no list of conditions"),
        ([["red cube"], []], r"condition 2 of 2: \[\] is invalid\. Write \[\"name\", …\] or"),
        ([[["red cube"]]], r"condition 1 of 1: \[\[\"red cube\"\]\] is invalid"),
        ([["red kube"]], r"condition 1 of 1: there is no label 'red kube'\. Did you mean red cube"),
        (["red kube"], r"condition 1 of 1: there is no label 'red kube'\. Did you mean red cube"),
        ([""], r'condition 1 of 1: "" is invalid'),
        ([["red cube", "red cube"]], r"condition 1 of 1: the label 'red cube' is listed twice"),
        ("[", r"test.json is not valid JSON"),
    ],
)
def test_conditions_that_are_none(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as error:
        read_conditions(put(tmp_path / "test.json", content), NAMES)
    assert "\n" not in str(error.value)


def test_conditions_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match=r"none.json cannot be read: No such file"):
        read_conditions(tmp_path / "none.json", NAMES)
