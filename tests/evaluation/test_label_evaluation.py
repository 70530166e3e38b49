"""Label evaluation, with a classifier whose predictions are known, and from end to end."""

import json
import logging
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

import fromnoise
from fromnoise.checkpoints import NotFinite
from fromnoise.classifier.classifier import (
    Classifier,
    ClassifierSpec,
    build_network,
    load_classifier,
)
from fromnoise.classifier.label_scores import LabelPredictions, score_ratios, scores
from fromnoise.config.components import with_checked_components
from fromnoise.config.errors import ConfigError
from fromnoise.data import DataError
from fromnoise.evaluation import label_evaluation
from fromnoise.evaluation.images import Drawing
from fromnoise.evaluation.label_evaluation import (
    evaluate_labels_to_folder,
    label_captions,
    read_prompts,
)
from fromnoise.model.model import Model, build_denoiser
from fromnoise.model.spec import ModelSpec

NAMES = ("red", "green", "blue")
CONDITIONS = np.array([[1, -1, -1], [1, 1, -1], [-1, 0, 1]], dtype=np.int8)


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


def classifier_of(names, kind="labels"):
    """An untrained classifier, whose `predictions` a test replaces."""
    spec = ClassifierSpec(kind=kind, label_names=names, channels=3, size=(8, 8), stem="small")
    torch.manual_seed(0)
    return Classifier(build_network(spec), spec)


@pytest.fixture(scope="module")
def model():
    return model_of(NAMES)


def score_labels(model, classifier, prompts, folder, *, batch_size=64, **options):
    """Score loaded objects; return the results and the table."""
    loaded = {"load_in_fp32": model, "load_classifier": classifier, "read_prompts": prompts}
    returned = {name: lambda *_, of=value, **__: of for name, value in loaded.items()}
    with mock.patch.multiple(label_evaluation, **returned):
        drawing = Drawing(batch_size=batch_size)
        table, _ = evaluate_labels_to_folder(Path("m"), Path("c"), drawing, out=folder, **options)
    return json.loads((folder / "scores.json").read_text(encoding="utf-8"))["results"], table


def all_right(conditions, num):
    present = np.repeat(conditions > 0, num, axis=0)
    return LabelPredictions(np.where(present, 0.9, 0.1), present)


def test_perfect_predictions_have_perfect_scores(model, tmp_path):
    classifier = classifier_of(NAMES)
    classifier.predictions = lambda images: all_right(CONDITIONS, 4)
    prompts = {"test": CONDITIONS}
    rows, _ = score_labels(model, classifier, prompts, tmp_path, scales=[1.0, 2.0], num=4)
    assert [(row["prompts"], row["guidance"], row["num_images"]) for row in rows] == [
        ("test", 1.0, 12),
        ("test", 2.0, 12),
    ]
    for row in rows:
        for name in ("recall_at_k", "precision", "recall", "f1", "exact_match"):
            assert row["scores"][name]["value"] == 1
        assert row["scores"]["extra"]["value"] == 0
        assert [label["asked"] for label in row["per_label"].values()] == [8, 4, 4]
    with Image.open(tmp_path / "test-s2.png") as picture:
        assert picture.width > 12 * 8


def test_the_labels_of_model_and_classifier_may_differ_in_order(model, tmp_path):
    classifier = classifier_of(("blue", "red", "green"))
    seen = all_right(CONDITIONS, 2)
    classifier.predictions = lambda images: LabelPredictions(*(part[:, [2, 0, 1]] for part in seen))
    [row], _ = score_labels(model, classifier, {"a": CONDITIONS}, tmp_path, scales=[2.0], num=2)
    assert row["scores"]["exact_match"]["value"] == 1


def test_the_files_hold_the_scores(model, tmp_path):
    classifier = classifier_of(NAMES)
    prompts = {"a": np.array([[1, 0, 0]], dtype=np.int8)}  # no −1
    _, table = score_labels(model, classifier, prompts, tmp_path, scales=[1.5], num=3)
    written = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    [result] = written["results"]
    f1 = result["scores"]["f1"]
    assert "{value:.3f} [{low:.3f}, {high:.3f}]".format(**f1) in table
    assert result["scores"]["extra"] == {"value": None, "low": None, "high": None}
    assert set(result["per_label"]) == set(NAMES)
    assert (written["sampling"]["steps"], result["guidance"]) == (2, 1.5)
    assert written["classifier"]["label_names"] == list(NAMES)
    assert (tmp_path / "scores.md").read_text(encoding="utf-8") == table
    assert "| a | 1.5 | 3 | " in table
    assert table.splitlines()[2].endswith("| – |")
    assert written["conditions"] == {"a": ["red, …"]}
    assert "s in ε = ε_∅ + s·(ε_c − ε_∅); 1 is off" in table
    with pytest.raises(ConfigError, match=r"has scores already\. Give another"):
        score_labels(model, classifier, prompts, tmp_path, scales=[1.5], num=3)


def test_classes_have_one_score(model, tmp_path):
    classifier = classifier_of(NAMES, "classes")
    present = np.eye(3, dtype=bool)[[0, 0, 1, 1, 2, 0]]  # the last of the six is wrong
    classifier.predictions = lambda images: LabelPredictions(present.astype(float), present)
    [row], table = score_labels(
        model, classifier, read_prompts(NAMES, [], []), tmp_path, scales=[1.0], num=2
    )
    assert (row["prompts"], row["num_images"]) == ("each label", 6)
    head, _, line, *_ = table.splitlines()
    assert head == "| conditions | s | images | accuracy |"
    assert line.startswith("| each label | 1 | 6 | 0.833 [")


def test_an_interrupt_keeps_the_finished_results(model, tmp_path):
    classifier, calls = classifier_of(NAMES), []

    def predictions(images):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return all_right(CONDITIONS, 2)

    classifier.predictions = predictions
    with pytest.raises(KeyboardInterrupt):
        score_labels(model, classifier, {"a": CONDITIONS}, tmp_path, scales=[1.0, 2.0], num=2)
    [result] = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["results"]
    assert result["guidance"] == 1


def test_images_resized_differently_cause_a_warning(model, tmp_path, caplog):
    classifier = classifier_of(NAMES)
    classifier.spec = classifier.spec.model_copy(update={"fit": "pad"})
    classifier.predictions = lambda images: all_right(CONDITIONS, 1)
    score_labels(model, classifier, {"a": CONDITIONS}, tmp_path, scales=[1.0], num=1)
    assert "The scores may be wrong" in caplog.text


def test_batches_have_the_given_size_and_do_not_mix_prompt_sets(model, tmp_path, monkeypatch):
    classifier, sizes, denoise = classifier_of(NAMES), [], model.denoise
    classifier.predictions = lambda images: all_right(CONDITIONS, 2)

    def counted(seeds, *arguments, **options):
        sizes.append(len(seeds))
        return denoise(seeds, *arguments, **options)

    monkeypatch.setattr(model, "denoise", counted)
    prompts = {"a": CONDITIONS, "b": CONDITIONS}
    each = 2 * len(CONDITIONS)
    rows, _ = score_labels(
        model, classifier, prompts, tmp_path, scales=[1.0, 2.0], num=2, batch_size=each - 1
    )
    assert [(row["prompts"], row["guidance"]) for row in rows] == [
        (name, scale) for name in "ab" for scale in (1, 2)
    ]
    assert sizes == 4 * [each - 1, 1]


@pytest.mark.parametrize(
    "shape",
    [{"guidance_interval": (1, 5)}, {"guidance_rescale": 0.5}],
    ids=lambda shape: next(iter(shape)),
)
def test_options_that_shape_guidance_are_left_out_at_scale_1(model, tmp_path, monkeypatch, shape):
    classifier, configs, sample = classifier_of(NAMES), [], model.sample
    classifier.predictions = lambda images: all_right(np.eye(3), 1)

    def recorded(seeds, config, **options):
        configs.append(config)
        return sample(seeds, config, **options)

    monkeypatch.setattr(model, "sample", recorded)
    monkeypatch.setattr(label_evaluation, "load_in_fp32", lambda *_, **__: model)
    monkeypatch.setattr(label_evaluation, "load_classifier", lambda *_, **__: classifier)

    def evaluate(scales, **sampling):
        paths, out = (tmp_path / "run", tmp_path / "classifier"), tmp_path / "out"
        drawing = Drawing(sampling=sampling)
        evaluate_labels_to_folder(*paths, drawing, scales=scales, num=1, out=out)
        return json.loads((out / "scores.json").read_text(encoding="utf-8"))

    for scales, wrong, message in (
        ([1.0], shape, "has no effect: guidance is off"),
        ([1.0, 2.0], {"guidance_interval": (6, 9)}, "none of the 2 timesteps lies in it"),
        ([4.0, -1.0], shape, r"guidance = -1\.0: use s ≥ 0 in ε = ε_∅ \+ s"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluate(scales, **wrong)
        assert not (tmp_path / "out").exists()
    record = evaluate([1.0, 2.0, 3.0], **shape)
    assert [row["guidance"] for row in record["results"]] == [1, 2, 3]
    assert [config.guidance for config in configs] == [1, 2, 3]
    [(name, value)] = shape.items()
    assert [getattr(config, name) == value for config in configs] == [False, True, True]
    assert record["sampling"][name] == (list(value) if isinstance(value, tuple) else value)


def test_images_that_are_nan_are_not_classified(model, tmp_path, nan_seeds):
    with pytest.raises(NotFinite, match="2 of 12 images are NaN or infinite, of seeds 5, 6"):
        score_labels(
            model, classifier_of(NAMES), {"a": CONDITIONS}, tmp_path / "out", scales=[1.0], num=4
        )
    assert not (tmp_path / "out").exists()


def test_captions_mark_right_and_wrong_images():
    targets = np.array([[1, -1, -1], [1, 0, -1], [1, 1, 1]], dtype=np.int8)
    present = np.array([[1, 0, 0], [1, 1, 1], [1, 1, 1]], dtype=bool)
    captions = label_captions(LabelPredictions(present.astype(float), present), targets, NAMES)
    assert captions == ["✓ red", "✗ red\n-blue\n…", "✓ red\ngreen\nblue"]


def test_seeds_count_from_the_first_seed_as_in_sample(model, tmp_path):
    batches = []

    def predictions(images):
        batches.append(images)
        return all_right(CONDITIONS, 2)

    classifier = classifier_of(NAMES)
    classifier.predictions = predictions
    prompts = {"a": CONDITIONS}
    score_labels(
        model, classifier, prompts, tmp_path, scales=[2.0], num=2, first_seed=7, batch_size=4
    )
    cond = torch.from_numpy(np.repeat(CONDITIONS, 2, axis=0))
    expected = model.sample(range(7, 13), cond=cond).numpy().astype(int)
    assert abs(batches[0] - expected).max() <= 1


def test_prompts_come_from_files_and_texts(tmp_path):
    for name in ("test", "new_test"):
        (tmp_path / f"{name}.json").write_text(json.dumps([["red"], ["green", "blue"]]))
    files = [tmp_path / "test.json", tmp_path / "new_test.json"]
    prompts = read_prompts(NAMES, files, ["red, -blue", "Blue"])
    assert list(prompts) == ["test", "new_test", "labels"]
    np.testing.assert_array_equal(prompts["test"], [[1, -1, -1], [-1, 1, 1]])
    np.testing.assert_array_equal(prompts["labels"], [[1, 0, -1], [0, 0, 1]])
    with pytest.raises(DataError, match=r"two sets of conditions are called test\. Rename"):
        read_prompts(NAMES, [files[0], files[0]], [])


@pytest.mark.parametrize(
    ("names", "size", "classified", "message"),
    [
        ((), (8, 8), NAMES, r"this model is unconditional\. Train one with data\.labels=true"),
        (NAMES, (8, 8), ("red", "green"), "has 3, the classifier 2, and only one of them has blue"),
        (NAMES, (16, 16), NAMES, r"16×16 \(H×W\) with .*, but this classifier was trained on 8×8"),
    ],
)
def test_mismatches_are_refused_before_sampling(names, size, classified, message, tmp_path):
    out = tmp_path / "out"
    model, classifier = model_of(names, size), classifier_of(classified)
    prompts = {"a": np.ones((1, len(names)), dtype=np.int8)}
    with pytest.raises(ValueError, match=message):
        score_labels(model, classifier, prompts, out, scales=None)
    assert not out.exists()


def test_a_negative_scale_is_refused_with_the_formula(model, tmp_path):
    with pytest.raises(ValueError, match=r"guidance = -1.*: use s ≥ 0 in ε = ε_∅ \+"):
        score_labels(
            model, classifier_of(NAMES), {"a": CONDITIONS}, tmp_path / "out", scales=[1.0, -1.0]
        )
    assert not (tmp_path / "out").exists()


# ---- from end to end ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """Write 300 images of 8×8 in the layout of i-CLEVR: one square for each colour."""
    root = tmp_path_factory.mktemp("squares")
    (root / "iclevr").mkdir()
    rng = np.random.default_rng(0)
    train = {}
    for i in range(300):
        present = np.flatnonzero(rng.random(3) < 0.5)
        present = present if len(present) else rng.integers(0, 3, 1)
        pixels = rng.integers(0, 60, (8, 8, 3), np.uint8)
        for k in present:
            y, x = 4 * (k // 2), 4 * (k % 2)
            pixels[y : y + 4, x : x + 4, k] = 255
        Image.fromarray(pixels).save(root / "iclevr" / f"{i}.png")
        train[f"{i}.png"] = [NAMES[k] for k in present]
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


@pytest.mark.slow
def test_a_small_run_shows_the_labels_of_its_conditions(squares, trained, cli, caplog, tmp_path):
    """Run three commands: F1 is at least 0.3 above that of images that ignore the conditions."""
    caplog.set_level(logging.INFO)
    classifier = tmp_path / "classifier"
    assert cli("classifier", "train", squares, "--out", classifier, "epochs=8").code == 0
    assert "held-out images: f1 " in caplog.text
    inputs = ["--conditions", squares / "test.json", "--guidance", "1,2", "--num", "8"]
    result = cli(
        "evaluate-labels",
        trained,
        "--classifier",
        classifier,
        *inputs,
        "--out",
        tmp_path / "scores",
    )
    assert "| test | 2 | 48 | " in result.out
    results = json.loads((tmp_path / "scores" / "scores.json").read_text())["results"]
    conditions = read_prompts(NAMES, [squares / "test.json"], [])["test"]
    real = fromnoise.open_images("iclevr", squares).images[:48]
    targets = np.repeat(conditions, 8, axis=0)
    chance = scores(score_ratios(load_classifier(classifier).predictions(real), targets))["f1"]
    assert 0.3 < chance < 0.7
    assert max(result["scores"]["f1"]["value"] for result in results) > chance + 0.3

    how = ["--num", 2, "--steps", 2, "eta=0.5", "timesteps=leading"]
    for label in ("red", "blue"):
        options = ["--classifier", classifier, "--labels", label, *how]
        assert cli("evaluate-labels", trained, *options).code == 0
    folder, other = sorted(
        (trained / "evaluation").iterdir(), key=lambda path: path.stat().st_mtime
    )
    assert folder != other
    for path, label in ((folder, "red"), (other, "blue")):
        assert path.name.startswith("labels-000150-ema-ddim-2-eta0.5-leading-fp32-labels-")
        assert path.name.endswith("-s1.5")
        scores_of = json.loads((path / "scores.json").read_text())
        assert scores_of["conditions"] == {"labels": [f"{label}, …"]}
        assert scores_of["model"]["precision"] == "fp32"
    sampling = json.loads((folder / "scores.json").read_text())["sampling"]
    assert sampling["sampler"] == {"name": "ddim", "eta": 0.5}
    assert (sampling["steps"], sampling["timesteps"]) == (2, "leading")


@pytest.mark.slow
def test_missing_images_are_skipped_and_counted_unless_strict(squares, cli, caplog, tmp_path):
    root = tmp_path / "squares"
    shutil.copytree(squares, root)
    for name in ("3.png", "5.png"):
        (root / "iclevr" / name).unlink()
    out = ["--out", tmp_path / "classifier", "epochs=1"]
    code, _, err = cli("classifier", "train", root, *out, "strict=true")
    assert code == 2
    assert "2 of 300 images cannot be read: 3.png: named in train.json, but not in iclevr/" in err
    assert not (tmp_path / "classifier").exists()
    assert cli("classifier", "train", root, *out).code == 0
    assert "skipped 2 images" in caplog.text
