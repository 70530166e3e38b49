"""From conditions to a table: with a classifier whose predictions are known, and from end to end."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import fromnoise
from fromnoise.classifier.classifier import (
    Classifier,
    ClassifierSpec,
    build_network,
    load_classifier,
)
from fromnoise.classifier.label_scores import LabelPredictions, label_counts, scores
from fromnoise.config.components import with_checked_components
from fromnoise.config.errors import ConfigError
from fromnoise.data import DataError
from fromnoise.evaluation.label_evaluation import (
    Prompts,
    captions,
    evaluate_labels,
    read_prompts,
    table,
)
from fromnoise.model.model import Model, build_denoiser
from fromnoise.model.spec import ModelSpec

NAMES = ("red", "green", "blue")
WANTED = np.array([[1, -1, -1], [1, 1, -1], [-1, 0, 1]], dtype=np.int8)


def model_of(names, size=(8, 8)):
    spec = ModelSpec.model_validate(
        {
            "network": {"name": "ddpm", "channels": 8, "multipliers": [1, 1], "groups": 4},
            "diffusion": {"T": 10},
            "sampling": {"steps": 2, "guidance": 2.0},
            "channels": 3,
            "size": size,
            "label_names": names,
        }
    )
    torch.manual_seed(0)
    spec = with_checked_components(spec)
    return Model(build_denoiser(spec).eval(), spec)


def judge_of(names, kind="labels"):
    """An untrained classifier, whose `predictions` a test replaces."""
    spec = ClassifierSpec(kind=kind, label_names=names, channels=3, size=(8, 8), stem="small")
    torch.manual_seed(0)
    return Classifier(build_network(spec), spec)


@pytest.fixture(scope="module")
def model():
    return model_of(NAMES)


def all_right(wanted, num):
    present = np.repeat(wanted > 0, num, axis=0)
    return LabelPredictions(np.where(present, 0.9, 0.1), present)


def test_a_judge_who_sees_all_that_was_asked_for(model, tmp_path):
    classifier = judge_of(NAMES)
    classifier.predictions = lambda images: all_right(WANTED, 4)
    prompts = [Prompts("test", WANTED)]
    rows = evaluate_labels(model, classifier, prompts, tmp_path, scales=[1.0, 2.0], num=4)
    assert [(row.prompts, row.guidance, row.num_images) for row in rows] == [
        ("test", 1.0, 12),
        ("test", 2.0, 12),
    ]
    for row in rows:
        for name in ("recall_at_k", "precision", "recall", "f1", "exact_match"):
            assert row.scores[name].value == 1
        assert row.scores["extra"].value == 0
        assert [label.asked for label in row.per_label] == [8, 4, 4]
    with Image.open(tmp_path / "test-s2.png") as picture:
        assert picture.width > 12 * 8


def test_the_labels_of_model_and_judge_may_come_in_another_order(model, tmp_path):
    classifier = judge_of(("blue", "red", "green"))
    seen = all_right(WANTED, 2)
    classifier.predictions = lambda images: LabelPredictions(*(part[:, [2, 0, 1]] for part in seen))
    [row] = evaluate_labels(
        model, classifier, [Prompts("a", WANTED)], tmp_path, scales=[2.0], num=2
    )
    assert row.scores["exact_match"].value == 1


def test_what_is_written_can_be_read_again(model, tmp_path):
    classifier = judge_of(NAMES)
    wanted = WANTED[:1] * 0 + np.array([1, 0, 0], dtype=np.int8)  # nothing is negated
    [row] = evaluate_labels(
        model, classifier, [Prompts("a", wanted)], tmp_path, scales=[1.5], num=3
    )
    written = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    [result] = written["results"]
    assert result["scores"]["f1"]["value"] == row.scores["f1"].value
    assert result["scores"]["extra"] == {"value": None, "low": None, "high": None}
    assert set(result["per_label"]) == set(NAMES)
    assert (written["sampling"]["steps"], result["guidance"]) == (2, 1.5)
    assert written["classifier"]["label_names"] == list(NAMES)
    assert (tmp_path / "scores.md").read_text(encoding="utf-8") == table([row], classifier)
    assert "| a | 1.5 | 3 | " in table([row], classifier)
    assert table([row], classifier).splitlines()[2].endswith("| – |")
    assert written["conditions"] == {"a": ["red, …"]}
    assert "s in ε = ε_∅ + s·(ε_c − ε_∅); 1 is off" in table([row], classifier)
    with pytest.raises(ConfigError, match="has the scores of an earlier evaluation; give another"):
        evaluate_labels(model, classifier, [Prompts("a", wanted)], tmp_path, scales=[1.5], num=3)


def test_of_classes_one_number_is_said(model, tmp_path):
    classifier = judge_of(NAMES, "classes")
    present = np.eye(3, dtype=bool)[[0, 0, 1, 1, 2, 0]]  # the last of the six is wrong
    classifier.predictions = lambda images: LabelPredictions(present.astype(float), present)
    [row] = evaluate_labels(
        model, classifier, read_prompts(NAMES, [], []), tmp_path, scales=[1.0], num=2
    )
    assert (row.prompts, row.num_images) == ("each label", 6)
    head, _, line, *_ = table([row], classifier).splitlines()
    assert head == "| conditions | s | images | accuracy |"
    assert line.startswith("| each label | 1 | 6 | 0.833 [")


def test_a_row_that_is_done_is_not_lost_with_the_next(model, tmp_path):
    classifier, calls = judge_of(NAMES), []

    def predictions(images):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return all_right(WANTED, 2)

    classifier.predictions = predictions
    with pytest.raises(KeyboardInterrupt):
        evaluate_labels(
            model, classifier, [Prompts("a", WANTED)], tmp_path, scales=[1.0, 2.0], num=2
        )
    [result] = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["results"]
    assert result["guidance"] == 1


def test_images_that_came_to_their_size_in_another_way_are_spoken_of(model, tmp_path, caplog):
    classifier = judge_of(NAMES)
    classifier.spec = classifier.spec.model_copy(update={"fit": "pad"})
    classifier.predictions = lambda images: all_right(WANTED, 1)
    evaluate_labels(model, classifier, [Prompts("a", WANTED)], tmp_path, scales=[1.0], num=1)
    assert "sees images of another kind" in caplog.text


def test_sets_of_prompts_follow_each_other_in_batches_of_the_size_asked_for(
    model, tmp_path, monkeypatch
):
    classifier, sizes, denoise = judge_of(NAMES), [], model.denoise
    classifier.predictions = lambda images: all_right(WANTED, 2)

    def counted(seeds, **how):
        sizes.append(len(seeds))
        return denoise(seeds, **how)

    monkeypatch.setattr(model, "denoise", counted)
    prompts = [Prompts("a", WANTED), Prompts("b", WANTED)]
    each = 2 * len(WANTED)
    rows = evaluate_labels(
        model, classifier, prompts, tmp_path, scales=[1.0, 2.0], num=2, batch_size=each - 1
    )
    assert [(row.prompts, row.guidance) for row in rows] == [
        (name, scale) for name in "ab" for scale in (1, 2)
    ]
    assert sizes == 4 * [each - 1, 1]


@pytest.mark.parametrize(
    "shape",
    [{"guidance_interval": (1, 5)}, {"guidance_rescale": 0.5}],
    ids=lambda how: next(iter(how)),
)
def test_what_shapes_guidance_is_left_out_where_a_scale_is_1(model, tmp_path, monkeypatch, shape):
    classifier, asked, sample = judge_of(NAMES), [], model.sample
    classifier.predictions = lambda images: all_right(WANTED, 1)
    monkeypatch.setattr(model, "sample", lambda *a, **how: asked.append(how) or sample(*a, **how))
    given = (model, classifier, [Prompts("a", WANTED)])
    rows = evaluate_labels(*given, tmp_path / "three", scales=[2.0, 1.0, 3.0], num=1, **shape)
    assert [row.guidance for row in rows] == [how["guidance"] for how in asked] == [2, 1, 3]
    assert [shape.keys() <= how.keys() for how in asked] == [True, False, True]
    for scales, wrong, said in (
        ([1.0], shape, "has no effect without guidance"),
        ([1.0, 2.0], {"guidance_interval": (6, 9)}, "none of the 2 times that are visited"),
    ):
        with pytest.raises(ValueError, match=said):
            evaluate_labels(*given, tmp_path / "no", scales=scales, num=1, **wrong)
        assert not (tmp_path / "no").exists()


def test_the_picture_says_of_each_image_whether_it_is_right():
    wanted = np.array([[1, -1, -1], [1, 0, -1], [1, 1, 1]], dtype=np.int8)
    present = np.array([[1, 0, 0], [1, 1, 1], [1, 1, 1]], dtype=bool)
    said = captions(LabelPredictions(present.astype(float), present), wanted, NAMES)
    assert said == ["✓ red", "✗ red\n-blue\n…", "✓ red\ngreen\nblue"]


def test_seeds_are_one_an_image_and_those_of_sample(model, tmp_path):
    looked_at = []

    def look(images):
        looked_at.append(images)
        return all_right(WANTED, 2)

    classifier = judge_of(NAMES)
    classifier.predictions = look
    prompts = [Prompts("a", WANTED)]
    evaluate_labels(
        model, classifier, prompts, tmp_path, scales=[2.0], num=2, first_seed=7, batch_size=4
    )
    cond = torch.from_numpy(np.repeat(WANTED, 2, axis=0))
    expected = model.sample(range(7, 13), cond=cond).numpy().astype(int)
    assert abs(looked_at[0] - expected).max() <= 1


def test_prompts_come_from_files_and_texts(tmp_path):
    for name in ("test", "new_test"):
        (tmp_path / f"{name}.json").write_text(json.dumps([["red"], ["green", "blue"]]))
    files = [tmp_path / "test.json", tmp_path / "new_test.json"]
    prompts = read_prompts(NAMES, files, ["red, -blue", "Blue"])
    assert [p.name for p in prompts] == ["test", "new_test", "labels"]
    np.testing.assert_array_equal(prompts[0].wanted, [[1, -1, -1], [-1, 1, 1]])
    np.testing.assert_array_equal(prompts[2].wanted, [[1, 0, -1], [0, 0, 1]])
    with pytest.raises(DataError, match="two sets of conditions are called test; rename"):
        read_prompts(NAMES, [files[0], files[0]], [])


@pytest.mark.parametrize(
    ("names", "size", "classified", "said"),
    [
        ((), (8, 8), NAMES, "trained without labels, so there is nothing to ask it for"),
        (NAMES, (8, 8), ("red", "green"), "has 3, the classifier 2, and only one of them has blue"),
        (NAMES, (16, 16), NAMES, r"16×16 \(H×W\), but this classifier was trained at 8×8"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_drawn(
    names, size, classified, said, tmp_path
):
    out = tmp_path / "out"
    model, classifier = model_of(names, size), judge_of(classified)
    prompts = [Prompts("a", np.ones((1, len(names)), dtype=np.int8))]
    with pytest.raises(ValueError, match=said):
        evaluate_labels(model, classifier, prompts, out, scales=[1.0])
    assert not out.exists()


def test_a_negative_scale_is_refused_with_the_formula(model, tmp_path):
    with pytest.raises(ValueError, match=r"at least 0, not -1: it is s in ε = ε_∅ \+ s"):
        evaluate_labels(
            model, judge_of(NAMES), [Prompts("a", WANTED)], tmp_path / "out", scales=[1.0, -1.0]
        )
    assert not (tmp_path / "out").exists()


# ---- from end to end ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """300 images of 8×8, in the layout of i-CLEVR: each colour's square in a place of its own."""
    root = tmp_path_factory.mktemp("squares")
    (root / "iclevr").mkdir()
    rng = np.random.default_rng(0)
    train = {}
    for i in range(300):
        shown = np.flatnonzero(rng.random(3) < 0.5)
        shown = shown if len(shown) else rng.integers(0, 3, 1)
        pixels = rng.integers(0, 60, (8, 8, 3), np.uint8)
        for k in shown:
            y, x = 4 * (k // 2), 4 * (k % 2)
            pixels[y : y + 4, x : x + 4, k] = 255
        Image.fromarray(pixels).save(root / "iclevr" / f"{i}.png")
        train[f"{i}.png"] = [NAMES[k] for k in shown]
    (root / "train.json").write_text(json.dumps(train))
    (root / "objects.json").write_text(json.dumps({name: k for k, name in enumerate(NAMES)}))
    pairs = [["red"], ["green"], ["blue"], ["red", "green"], ["green", "blue"], ["red", "blue"]]
    (root / "test.json").write_text(json.dumps(pairs))
    return root


@pytest.fixture(scope="module")
def trained(squares, tmp_path_factory):
    tree = {
        "data": {"source": "iclevr", "path": str(squares), "labels": True},
        "network": {"name": "ddpm", "channels": 8, "multipliers": [1, 2], "groups": 4},
        "diffusion": {"T": 100, "schedule": "cosine", "prediction": "v"},
        "training": {"steps": 150, "batch_size": 32, "learning_rate": 5e-3, "ema_decay": 0.95},
        "sampling": {"steps": 20, "guidance": 1.5},
    }
    tree["network"] |= {"num_res_blocks": 1, "dropout": 0.0, "attention_levels": []}
    tree["training"] |= {"precision": "fp32", "channels_last": False, "preview_every": 1000}
    return fromnoise.train(tree, out=tmp_path_factory.mktemp("trained") / "run").folder


def test_a_small_run_draws_what_it_is_asked_for(squares, trained, cli, caplog, tmp_path):
    """By three commands: F1 is at least 0.3 above that of images that ignore what was asked for."""
    caplog.set_level(logging.INFO)
    classifier = tmp_path / "classifier"
    assert cli("classifier", "train", squares, "--out", classifier, "--epochs", "8").code == 0
    assert "held-out images: f1 " in caplog.text
    asked = ["--conditions", squares / "test.json", "--guidance", "1,2", "--num", "8"]
    said = cli(
        "evaluate", trained, "--classifier", classifier, *asked, "--out", tmp_path / "scores"
    )
    assert "| test | 2 | 48 | " in said.out
    results = json.loads((tmp_path / "scores" / "scores.json").read_text())["results"]
    [prompts] = read_prompts(NAMES, [squares / "test.json"], [])
    real = fromnoise.open_images("iclevr", squares).images[:48]
    wanted = np.repeat(prompts.wanted, 8, axis=0)
    chance = scores(label_counts(load_classifier(classifier).predictions(real), wanted))["f1"]
    assert 0.3 < chance < 0.7
    assert max(result["scores"]["f1"]["value"] for result in results) > chance + 0.3

    how = ["--labels", "red", "--num", 2, "--steps", 2, "--eta", 0.5, "--timesteps", "trailing"]
    assert cli("evaluate", trained, "--classifier", classifier, *how).code == 0
    [folder] = (trained / "evaluation").iterdir()
    assert folder.name == "labels-000150-ema-ddim-2-eta0.5-spacingtrailing-labels"
    sampling = json.loads((folder / "scores.json").read_text())["sampling"]
    assert sampling["sampler"] == {"name": "ddim", "eta": 0.5}
    assert (sampling["steps"], sampling["timesteps"]) == (2, "trailing")


def test_a_judge_skips_what_is_missing_and_counts_it_unless_strict(squares, cli, caplog, tmp_path):
    root = tmp_path / "squares"
    shutil.copytree(squares, root)
    for name in ("3.png", "5.png"):
        (root / "iclevr" / name).unlink()
    out = ["--out", tmp_path / "classifier", "--epochs", "1"]
    code, _, err = cli("classifier", "train", root, *out, "--strict")
    assert code == 2
    assert "2 of 300 images cannot be read: 3.png: named in train.json, but not in iclevr/" in err
    assert not (tmp_path / "classifier").exists()
    assert cli("classifier", "train", root, *out).code == 0
    assert "skipped 2 images" in caplog.text
