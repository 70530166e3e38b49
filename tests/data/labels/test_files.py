import csv
import io
import json
import re
import tempfile
import unicodedata
import zipfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from fromnoise.data import DataError
from fromnoise.data.labels import LABEL_FILES, dataset_json, labels_csv, labels_json
from fromnoise.data.sources.base import SourceRequest
from fromnoise.data.sources.folder import folder, zip_file
from fromnoise.data.text import natural_key

hypothesis = pytest.importorskip("hypothesis")
assume, given, settings, st = (
    hypothesis.assume,
    hypothesis.given,
    hypothesis.settings,
    hypothesis.strategies,
)

# Names that every format can express: without separators of lists and paths, in NFC.
LETTERS = st.characters(
    exclude_categories=["C", "Z"], exclude_characters="/,;\\", max_codepoint=9999
)
NAMES = st.builds(" ".join, st.lists(st.text(LETTERS, min_size=1, max_size=5), min_size=1))
NAMES = NAMES.map(lambda name: unicodedata.normalize("NFC", name))
STEPS = NAMES.filter(lambda step: step[0] != "." and len(step.encode()) < 100)


@st.composite
def tables(draw):
    """Files, label names in natural order, and signs that all three formats can express."""
    stems = draw(st.lists(st.lists(STEPS, min_size=1, max_size=3), min_size=1, max_size=6))
    files = list(dict.fromkeys(f"{'/'.join(stem)}.png" for stem in stems))
    names = draw(st.lists(NAMES.filter(lambda n: n[0] != "-"), min_size=1, max_size=4, unique=True))
    names.sort(key=lambda name: (natural_key(name), name))
    assume(len(names) > 1 or names[0].lower() not in ("label", "labels"))
    values = draw(st.sampled_from([(-1, 1), (-1, 0, 1)]))
    row = st.lists(st.sampled_from(values), **of_size(len(names)))
    signs = np.array(draw(st.lists(row, **of_size(len(files)))), np.int8)
    complete = (signs != 0).all()
    named = signs == 1 if complete else signs != 0
    assume(named.any(axis=0).all())  # a list cannot express a label that no image names
    assume(complete or (signs == -1).any())  # nor an unknown label if none is absent
    return files, names, signs


def of_size(count):
    return {"min_size": count, "max_size": count}


def to_lists(files, names, signs, prefixes):
    """Return {file: names, with the prefix of their sign, for the signs that have one}."""
    return {
        file: [
            prefixes[sign] + name for name, sign in zip(names, row, strict=True) if sign in prefixes
        ]
        for file, row in zip(files, signs.tolist(), strict=True)
    }


def table(*rows):
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


def written(files, names, signs):
    """Write the same labels in every format: (name of the label file, its text)."""
    complete = bool((signs != 0).all())
    signed = to_lists(files, names, signs, {1: "", -1: "-"})
    lists = to_lists(files, names, signs, {1: ""}) if complete else signed
    cells = {1: "yes", -1: "0", 0: ""}
    columns = [[cells[sign] for sign in row] for row in signs.tolist()]
    vectors = np.where(signs < 0, 0, signs) if complete else signs
    entries = [[file, row.tolist()] for file, row in zip(files, vectors, strict=True)]
    return [
        ("labels.json", json.dumps(lists)),
        ("labels.json", json.dumps(signed)),
        ("labels.csv", table(("File", "labels"), *((f, ";".join(n)) for f, n in lists.items()))),
        ("labels.csv", table(("path", "Label"), *((f, ", ".join(n)) for f, n in lists.items()))),
        (
            "labels.csv",
            table(("image", *names), *([f, *row] for f, row in zip(files, columns, strict=True))),
        ),
        ("dataset.json", json.dumps({"labels": entries, "label_names": names})),
    ]


def labels_of(source, path):
    """Return names, labels and label names of a source, without decoding the files."""
    with closing(source(SourceRequest(path)).open()) as reader:
        return list(reader.names), reader.labels, reader.label_names


def put(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def pack(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.mark.slow
@settings(deadline=None)
@given(tables())
def test_the_same_labels_in_every_format(case):
    files, names, signs = case
    for kind, text in written(*case):
        found, label_names = LABEL_FILES[kind](text, where="here")
        assert (list(found), label_names) == (files, tuple(names)), text
        np.testing.assert_array_equal(np.stack(list(found.values())), signs, err_msg=text)
        assert {row.dtype for row in found.values()} == {np.dtype(np.int8)}


@settings(max_examples=15, deadline=None)
@given(tables(), st.sampled_from(["", "photos/", "my photos/all/"]), st.data())
def test_the_labels_reach_their_images(case, wrap, data):
    """For any source, any order of the entries, and any folder around them."""
    files, names, signs = case
    unnamed = ["zz/not named.png"]
    assume(not {f"{a}/" for a in files} & {f"{b[: len(a) + 1]}" for a in files for b in files})
    order = data.draw(st.permutations(range(len(files))))
    kind, text = data.draw(st.sampled_from(written([files[i] for i in order], names, signs[order])))
    everything = {wrap + name: b"" for name in files + unnamed} | {wrap + kind: text}
    expected = dict(zip([wrap + file for file in files], signs.tolist(), strict=True))
    expected |= {wrap + name: [0] * len(names) for name in unnamed}
    with tempfile.TemporaryDirectory() as place:
        root = put(Path(place, "root"), everything)
        for source, path in ((folder, root), (zip_file, pack(Path(place, "x.zip"), everything))):
            found, labels, label_names = labels_of(source, path)
            assert found == sorted(expected, key=natural_key)
            assert label_names == tuple(names)
            assert dict(zip(found, labels.tolist(), strict=True)) == expected


@settings(max_examples=15, deadline=None)
@given(
    st.lists(STEPS.filter(lambda n: n[0] != "-"), min_size=2, max_size=4, unique=True), st.data()
)
def test_classes_are_what_sub_folders_are(names, data):
    names.sort(key=lambda name: (natural_key(name), name))
    given_classes = data.draw(st.lists(st.sampled_from(names), max_size=5))
    classes = [*names, *given_classes]  # each at least once
    files = [f"{name}/{i}.png" for i, name in enumerate(classes)]
    pairs = list(zip(files, classes, strict=True))
    entries = [[file, names.index(name)] for file, name in pairs]
    with tempfile.TemporaryDirectory() as place:
        root = put(Path(place), dict.fromkeys(files, b""))
        expected = labels_of(folder, root)
        for kind, text in (
            ("labels.json", json.dumps(dict(pairs))),
            ("labels.csv", table(("file", "label"), *pairs)),
            ("dataset.json", json.dumps({"labels": entries, "label_names": names})),
        ):
            put(root, {kind: text})
            found = labels_of(folder, root)
            (root / kind).unlink()
            assert (found[0], found[2]) == (expected[0], expected[2])
            np.testing.assert_array_equal(found[1], expected[1])
            assert found[1].dtype == np.int8


@pytest.mark.parametrize(
    ("kind", "text", "names", "signs"),
    [
        ("labels.json", '{"a": "b", "c": ["a"]}', "a b", [[-1, 1], [1, -1]]),
        ("labels.json", '{"a": ["x10", "x9"], "b": []}', "x9 x10", [[1, 1], [-1, -1]]),
        ("labels.json", '{"a": ["x", "-y"], "b": []}', "x y", [[1, -1], [0, 0]]),
        ("labels.json", '{"a": " x ", "b": "- x"}', "x", [[1], [-1]]),
        ("labels.csv", "file,labels\na,\n\nb,x; y\n , \n", "x y", [[-1, -1], [1, 1]]),
        ("labels.csv", 'FileName,label\r\na,"y, -x"\r\nb,x', "x y", [[-1, 1], [1, 0]]),
        ("labels.csv", "path,z,y\na,TRUE,no\nb,,+1\n", "z y", [[1, -1], [0, 1]]),
        ("labels.csv", "image,x\na,False\nb,-1\nc, 1.0\nd,0.0\n", "x", [[-1], [-1], [1], [-1]]),
        ("labels.csv", "file,labels,label\na,1,0\n", "labels label", [[1, -1]]),
        ("dataset.json", '{"labels": [["a", 2], ["b", 0]]}', "0 1 2", [[-1, -1, 1], [1, -1, -1]]),
        ("dataset.json", '{"labels": [["a", 0]], "label_names": ["x", "y"]}', "x y", [[1, -1]]),
        ("dataset.json", '{"labels": [["a", [0, 1]], ["b", [0, 0]]]}', "0 1", [[-1, 1], [-1, -1]]),
        ("dataset.json", '{"labels": [["a", [0, 1.0]], ["b", [-1, 0]]]}', "0 1", [[0, 1], [-1, 0]]),
    ],
)
def test_present_absent_and_unknown_labels(kind, text, names, signs):
    found, label_names = LABEL_FILES[kind](text, where="here")
    assert label_names == tuple(names.split())
    assert [row.tolist() for row in found.values()] == signs


JSON_ROWS = [
    ("", r"here is not valid JSON: Expecting value: line 1"),
    ("[" * 100_000, r"here is not valid JSON: "),
    ("[1" + "0" * 9999 + "]", r"here is not valid JSON: "),
    ('{"a": "x", "a": "y"}', r"here has the key 'a' twice\. Remove one"),
]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *JSON_ROWS,
        ('["a"]', r'not a table of labels\. Write \{"file": \["name", …\], …\}, or rename the'),
        ("{}", r'here is not a table of labels\. Write \{"file"'),
        ('{"a": 3}', r"here: 'a': 3 is not a list of names"),
        ('{"a": ["x", null]}', r"'a': \[\"x\", null\] is not a list of names"),
        (json.dumps({"a": [{"id": 5}] * 99}), r"'a': \[\{.{57}… is not a list of names"),
        ('{"a": ["x", ""]}', r"here: 'a' has the empty name ''\. Remove it"),
        ('{"a": ["-"]}', r"here: 'a' has the empty name '-'"),
        ('{"a": ""}', r"here: 'a' has the empty name ''"),
        ('{"a": ["x", "y", "x"]}', r"here: 'a' has the label 'x' twice\. Remove one"),
        ('{"a": ["x", "-x"]}', r"here: 'a' has the label 'x' twice"),
        ('{"a": [], "b": []}', r"here has no label for any image"),
    ],
)
def test_a_labels_json_that_is_none(text, message):
    refused(labels_json, text, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"here has the columns \[\]\. Write file, filename, image or path first, then labels"),
        ("\n\nid,label\n", r'here: line 3 has the columns \["id", "label"\]\. Write file'),
        ("file;label\na;x\n", r'\["file;label"\]\. .* separated by commas, or rename the file'),
        ("file\na\n", r'line 1 has the columns \["file"\]\. Write file'),
        ("file,label\n", r"here has only a header\. Add one line"),
        ("file,label\na,x,y\n", r'line 2 has 3 cells, but the header has 2\. Write .* as "a, b"'),
        ("file,x,y\na,1\n", r"line 2 has 2 cells, but the header has 3"),
        ("file,label\n,x\n", r"line 2 has no file in the column 'file'"),
        ("file,label\na,x\n\na,y\n", r"line 4 has the file 'a' again\. Remove one"),
        ('file,label\n"a\nb",x\na,x;x\n', r"line 4 has the label 'x' twice"),
        ("file,label\na,x;;y\n", r"line 2 has the empty name ''"),
        ("file,label\na,x;\n", r"line 2 has the empty name ''"),
        ("file,label\na,\n", r"here has no label for any image"),
        (
            'file,label\na,"x\nb,y\n',
            r"here: line 3 is not valid CSV: unexpected end of data\. Correct",
        ),
        (
            "file,label\na," + "x" * 2**18,
            r"line 2 is not valid CSV: field larger .*\. Correct it\.",
        ),
        ("file,x,x\na,1,1\n", r"here: the header has the name 'x' twice"),
        ("file,x,\na,1,1\n", r"here: the header has an empty name"),
        ("file,x,y\na,1,\nb,0,2\n", r"line 3: 'y' is \"2\"\. Write 1, true or yes if present, 0, "),
    ],
)
def test_a_labels_csv_that_is_none(text, message):
    refused(labels_csv, text, message)


def entries(*labels, **more):
    pairs = [[f"{i}.png", label] for i, label in enumerate(labels)]
    return json.dumps({"labels": pairs} | more)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *JSON_ROWS,
        ("[]", r'\. Write \{"labels": \[\["file", 0\], …\]\} or \{"labels": null\}, or rename'),
        ("{}", r'here has no list of labels\. Write \{"labels"'),
        ('{"labels": []}', r'here has no list of labels\. Write \{"labels"'),
        ('{"labels": {"a": 0}}', r'here has no list of labels\. Write \{"labels"'),
        ('{"labels": [["a", 0], ["b"]]}', r'entry 2 is \["b"\]\. Write \["file", label\]'),
        ('{"labels": [[0, 0]]}', r"entry 1 is \[0, 0\]\. Write"),
        ('{"labels": [["a", 0], ["a", 1]]}', r"entry 2 has the file 'a' again"),
        (entries(0, -1), r"here: entry 2 \('1.png'\): -1 is invalid\. .* in 0\.\.65535\.$"),
        (entries(10**9), r"1000000000 is invalid"),
        (entries(0, True), r"entry 2 \('1.png'\): true is invalid"),
        (entries(1.0), r"1.0 is invalid"),
        (entries("cat"), r'"cat" is invalid'),
        (entries(None), r"null is invalid"),
        (entries(0, [0, 1]), r"\[0, 1\] is invalid"),
        (
            entries(1, 2, label_names=["x", "y"]),
            r"\('1.png'\): 2 is invalid\. Write a whole number in 0\.\.1, one per name in",
        ),
        (entries([0, 1], 1), r"entry 2 \('1.png'\): 1 is invalid\. Write a list of 2 numbers"),
        (entries([0, 1], [1]), r"\[1\] is invalid\. .* as many as in entry 1"),
        (entries([0, 2]), r"\[0, 2\] is invalid\. .* each -1, 0 or 1"),
        (entries([0, 0.5]), r"\[0, 0.5\] is invalid"),
        (entries([0, True]), r"\[0, true\] is invalid"),
        (entries([]), r"\[\] is invalid\. Write a list of K numbers"),
        (
            entries([0, 1], label_names=["x"]),
            r'a list of 1 numbers.* one per name in "label_names"',
        ),
        (entries(0, label_names=["x", "x"]), r"\"label_names\" has the name 'x' twice"),
        (entries(0, label_names=["x", " "]), r'"label_names" has an empty name'),
        (entries(0, label_names=[]), r'"label_names" is \[\]\. Write \["name", …\]'),
        (entries(0, label_names="x"), r'"label_names" is "x"\. Write'),
        (entries(0, label_names=[1]), r'"label_names" is \[1\]\. Write'),
    ],
)
def test_a_dataset_json_that_is_none(text, message):
    refused(dataset_json, text, message)


def refused(read, text, message):
    with pytest.raises(DataError, match=message) as error:
        read(text, where="here")
    assert str(error.value).startswith("here")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250


def test_a_label_file_that_says_there_are_none_overrules_the_folders(tmp_path):
    files = {"00000/a.png": b"", "00001/b.png": b"", "dataset.json": '{"labels": null}'}
    names, labels, label_names = labels_of(folder, put(tmp_path, files))
    assert (names, labels, label_names) == (["00000/a.png", "00001/b.png"], None, ())


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    images = {"a.png": b"", "b.png": b""}
    for kind, text in (
        ("labels.json", '{"a.png": "x"}'),
        ("labels.csv", "file,label\na.png,x\n"),
        ("dataset.json", '{"labels": [["a.png", 0]], "label_names": ["x"]}'),
    ):
        put(tmp_path, images | {kind: text.encode("utf-8-sig")})
        _, labels, label_names = labels_of(folder, tmp_path)
        assert (labels.tolist(), label_names) == ([[1], [0]], ("x",))
        (tmp_path / kind).unlink()


@pytest.mark.parametrize("kind", LABEL_FILES)
def test_errors_say_which_file_it_is(kind, tmp_path):
    root = put(tmp_path / "root", {"a.png": b"", kind: b"\xff\xfe{"})
    with pytest.raises(DataError, match=rf"^data.path: {root}/{kind} is not UTF-8 \("):
        labels_of(folder, root)
    path = pack(tmp_path / "x.zip", {"photos/a.png": b"", f"photos/{kind}": "{"})
    with pytest.raises(DataError, match=rf"^data.path: {path}/photos/{kind}"):
        labels_of(zip_file, path)


def test_a_label_file_that_cannot_be_read(tmp_path):
    root = put(tmp_path, {"a.png": b""})
    (root / "labels.csv").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"labels.csv cannot be read: No such file"):
        labels_of(folder, root)


def test_two_label_files_are_one_too_many(tmp_path):
    files = {"a.png": b"", "labels.json": '{"a.png": "x"}', "labels.csv": "file,label\na.png,x\n"}
    message = r"has several label files: labels.json and labels.csv\. Keep one"
    with pytest.raises(DataError, match=message):
        folder(SourceRequest(put(tmp_path / "root", files)))
    with pytest.raises(DataError, match=message):
        labels_of(zip_file, pack(tmp_path / "x.zip", files))


def test_no_entry_is_an_image(tmp_path):
    files = {f"photos/img{i}.png": b"" for i in range(5)}
    files["photos/labels.json"] = json.dumps({f"photos/img{i}": "x" for i in range(4)})
    message = (
        "photos/labels.json: none of the 4 files that it names exists (photos/img0; photos/img1; "
        "photos/img2; and 1 more). Name the images by their paths from its folder: img0.png; "
        "img1.png; img2.png; and 2 more."
    )
    for source, path in (
        (folder, put(tmp_path / "root", files)),
        (zip_file, pack(tmp_path / "x.zip", files)),
    ):
        with pytest.raises(DataError, match=re.escape(message)) as error:
            labels_of(source, path)
        assert "\n" not in str(error.value)


def test_one_file_by_two_names(tmp_path):
    root = put(tmp_path, {"a.png": b"", "labels.json": '{"./a.png": "x"}'})
    assert labels_of(folder, root)[1].tolist() == [[1]]
    put(root, {"labels.json": '{"a.png": "x", "./a.png": "y"}'})
    with pytest.raises(DataError, match=r"labels.json has the file 'a.png' twice"):
        labels_of(folder, root)


def test_a_label_file_beside_some_of_the_images_is_none(tmp_path):
    root = put(tmp_path, {"cat/a.png": b"", "dog/b.png": b"", "cat/labels.json": "not one"})
    assert labels_of(folder, root)[2] == ("cat", "dog")


def test_a_label_file_above_the_folder_of_all_images(tmp_path):
    files = {"img/a.png": b"", "img/b.png": b"", "labels.csv": "file,x\nimg/b.png,1\n"}
    assert labels_of(folder, put(tmp_path, files))[1].tolist() == [[0], [1]]
