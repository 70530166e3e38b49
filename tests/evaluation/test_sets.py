"""`fromnoise evaluate` of a set: its numbers, what stands beside them, and what it refuses."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fromnoise
from fromnoise.data import open_images
from fromnoise.evaluation import features, likelihood
from fromnoise.evaluation import sets as set_evaluation
from fromnoise.evaluation.copies import evenly_spaced
from fromnoise.evaluation.features import Against
from fromnoise.evaluation.images import (
    Drawing,
    RealImages,
    generate_images,
    interleave_labels,
    read_images,
    run_images_of,
)
from fromnoise.evaluation.metrics import frechet_distance, kernel_distance, moments_of
from fromnoise.evaluation.records import WEIGHTS, Metrics, plain, published_beside, table
from fromnoise.evaluation.sets import LIBRARIES, evaluate

QUICK = ("--extractor", "pixels", "--num", 66, "--steps", 2)


def written(folder) -> dict:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def pixel_moments(images):
    return moments_of(np.asarray(images).reshape(len(images), -1) / 255)


def test_a_run_is_scored_against_what_it_was_trained_on(cli, run, tmp_path):
    code, out, err = cli("evaluate", run, *QUICK)
    assert code == 0, err
    model, digits = fromnoise.load(run), open_images("digits")
    name = f"set-{model.spec.step:06d}-ema-ddim-2-fp32-pixels-train-66"
    folder = run / "evaluation" / name
    record = written(folder)
    drawn = pixel_moments(model.sample(range(66), steps=2, precision="fp32"))
    real = pixel_moments(digits.images)
    expected = frechet_distance(drawn.mean, drawn.covariance, real.mean, real.covariance)
    assert record["scores"]["fid"]["value"] == pytest.approx(expected, rel=1e-5)
    for score in record["scores"].values():
        assert score["low"] <= score["value"] <= score["high"]
    assert set(record["scores"]) == {"fid", "kid", "precision", "recall"}
    assert record["missing"]["fid_infinity"] == "3 images per feature are needed, of 64"
    assert "has no classes; use inception" in record["missing"]["is"]
    assert record["complete"]
    assert record["copies"]["training_images"] == 1797
    assert record["copies"]["compared with"] == "training images, each left out"
    assert record["copies"]["verdict"] in out
    assert (folder / record["copies"]["sheet"]).is_file()
    assert record["reference"] == {
        "what": "digits, train",
        "count": 1797,
        "shape": [1, 8, 8],
        "fingerprint": digits.fingerprint,
    }
    assert record["generated"]["seeds"] == "0-65"
    assert (record["generated"]["weights"], record["generated"]["step"]) == ("ema", model.spec.step)
    assert record["generated"]["sampling"]["steps"] == 2
    assert record["generated"]["loaded from"] == str(run.absolute())
    assert record["extractor"] == {"name": "pixels", "width": 64, "weights": "", "resize": "none"}
    assert set(record["versions"]) == set(LIBRARIES)
    assert record["seconds"]["drawing"] > 0
    assert out == table(Metrics(**record)) + f"{folder.absolute()}\n"
    assert "| Inception Score | – | the extractor has no classes" in out
    assert "| Fréchet distance, N → ∞ | – | 3 images per feature" in out
    assert out == (folder / "metrics.md").read_text(encoding="utf-8") + f"{folder.absolute()}\n"


def test_bits_are_a_command_of_their_own(cli, run, tmp_path):
    for metrics in ("bits", "fid,bits"):
        how = [*QUICK, "--metrics", metrics, "--out", tmp_path / "out"]
        code, _, err = cli("evaluate", run, *how)
        assert (code, len(err.splitlines())) == (2, 1)
        assert "--metrics bits is a command of its own. Use fromnoise likelihood." in err
        assert not (tmp_path / "out").exists()


def test_likelihood_shows_its_progress(cli, run, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "fromnoise")
    monkeypatch.setattr(likelihood, "MAX_IMAGES", 130)
    assert cli("likelihood", run, "--out", tmp_path / "out").code == 0
    lines = [line for line in caplog.messages if line.startswith("images: ")]
    assert lines == [f"images: {n} of 130" for n in (64, 128, 130)]


def test_likelihood_samples_nothing_and_opens_no_extractor(cli, run, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("bits need no samples and no features")

    monkeypatch.setattr(fromnoise.model.model.Model, "sample", never)
    monkeypatch.setattr(features, "open_extractor", never)
    monkeypatch.setattr("fromnoise.evaluation.images.reference_of", never)
    monkeypatch.setattr(likelihood, "MAX_IMAGES", 30)
    code, out, err = cli("likelihood", run)
    assert code == 0, err
    folder = run / "evaluation" / f"likelihood-{fromnoise.load(run).spec.step:06d}-ema"
    record = written(folder)
    model, images = fromnoise.load(run), run_images_of(run).training.images.images
    images = images[evenly_spaced(len(images), 30)]
    expected = likelihood.measure_bits(model, images, data="30 images of digits, train")
    assert record["bits"] == json.loads(json.dumps(plain(expected))) | {"picture": "bits.png"}
    parts = sum(record["bits"][part]["value"] for part in ("L_T", "middle", "L_0"))
    assert record["bits"]["total"]["value"] == pytest.approx(parts)
    assert record["complete"]
    assert record["generated"]["loaded from"] == str(run.absolute())
    assert out == (folder / "metrics.md").read_text(encoding="utf-8") + f"{folder.absolute()}\n"
    assert "| bits per dimension |" in out
    assert {file.name for file in folder.iterdir()} == {"metrics.json", "metrics.md", "bits.png"}
    assert "has scores already. Give another --out" in cli("likelihood", run).err


def test_likelihood_needs_a_model_and_its_run(cli, run, tmp_path):
    np.savez(tmp_path / "made.npz", arr_0=np.zeros((70, 8, 8, 1), np.uint8))
    fromnoise.load(run).save(tmp_path / "alone" / "model.safetensors")
    for path, message in (
        (tmp_path / "made.npz", "made.npz"),
        (tmp_path / "alone", "need real images, and the training images are unknown: there is no"),
    ):
        code, _, err = cli("likelihood", path, "--out", tmp_path / "out")
        assert (code, len(err.splitlines())) == (2, 1)
        assert message in err
        assert not (tmp_path / "out").exists()


def test_the_reason_names_why_training_images_are_unknown(run, tmp_path):
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace("source: digits", "source: folder"))
    images = run_images_of(run)
    assert images.training is images.held_out is None
    assert images.reason == (
        "the training images are not available: data.path is missing, but source folder needs a "
        "path. Set it, or give --data PATH."
    )
    (run / "recipe.yaml").unlink()
    assert run_images_of(run).reason == ("the training images are unknown: there is no recipe.yaml")


def test_a_second_time_asks_for_another_folder_before_it_draws(cli, run):
    assert cli("evaluate", run, *QUICK, "--metrics", "fid").code == 0
    code, _, err = cli("evaluate", run, *QUICK, "--metrics", "fid")
    assert code == 2
    assert "has scores already. Give another --out" in err
    code, _, err = cli("evaluate", run, *QUICK, "--metrics", "fed")
    assert "--metrics 'fed' is unknown" in err  # whatever the folder holds
    for more in (["eta=0.5"], ["timesteps=leading"], ["--sampler", "ddpm"]):
        assert cli("evaluate", run, *QUICK, "--metrics", "fid", *more).code == 0
    more = ["sampler=ddpm", "variance=large"]
    assert cli("evaluate", run, *QUICK, "--metrics", "fid", *more).code == 0
    model = fromnoise.load(run)
    before, after = (f"set-{model.spec.step:06d}-ema-", "-fp32-pixels-train-66")
    sampling = {
        folder.name.removeprefix(before).removesuffix(after): written(folder)["generated"][
            "sampling"
        ]
        for folder in (run / "evaluation").iterdir()
    }
    assert sampling["ddim-2-eta0.5"]["sampler"] == {"name": "ddim", "eta": 0.5}
    assert sampling["ddim-2-leading"]["timesteps"] == "leading"
    assert sampling["ddpm-2-variancelarge"]["sampler"] == {"name": "ddpm", "variance": "large"}
    assert set(sampling) >= {"ddim-2", "ddpm-2"}


def test_images_that_are_there_are_scored_against_others(cli, tmp_path):
    rng = np.random.default_rng(0)
    made, real = (
        rng.integers(0, high, (n, 4, 5, 3), np.uint8) for n, high in ((70, 256), (90, 200))
    )
    np.savez(tmp_path / "made.npz", arr_0=made)
    np.savez(tmp_path / "real.npz", images=real)
    arguments = ["evaluate", tmp_path / "made.npz", "--reference", tmp_path / "real.npz"]
    assert cli(*arguments, "--extractor", "pixels").code == 0
    record = written(tmp_path / "set-made-pixels-real-70")
    a, b = pixel_moments(made), pixel_moments(real)
    expected = frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
    assert record["scores"]["fid"]["value"] == pytest.approx(expected, rel=1e-5)
    assert record["generated"] == {"what": str(tmp_path / "made.npz"), "count": 70}
    assert record["missing"]["copies"].startswith("the training images are unknown")
    code, _, err = cli(*arguments, "--extractor", "pixels", "--num", 71)
    assert code == 2
    assert "has 70 images, fewer than --num 71. Use fewer." in err
    np.savez(tmp_path / "small.npz", images=real[:, :, :4])
    code, _, err = cli(*arguments[:2], "--reference", tmp_path / "small.npz", *QUICK[:2])
    assert code == 2
    assert "has images of 4×4 (H×W) with 3 channels, but the generated ones are 4×5 (H×W)" in err
    assert "Bring them to one size." in err
    np.savez(tmp_path / "grey.npz", images=real[..., 0])
    code, _, err = cli(*arguments[:2], "--reference", tmp_path / "grey.npz", *QUICK[:2])
    assert code == 2
    assert "1 channels, but the generated ones are 4×5 (H×W) with 3 channels. Bring them all" in err


def test_a_folder_that_sample_wrote_holds_its_samples(cli, run, tmp_path):
    drawn, how = (
        tmp_path / "drawn",
        ["--steps", 2, "--gif", "--trajectory", "--noise", "--each-step"],
    )
    assert cli("sample", run, "--num", 70, "--out", drawn, *how).code == 0
    assert {"grid.png", "noise.png", "trajectory.png"} <= {file.name for file in drawn.iterdir()}
    assert len(list((drawn / "steps").glob("*.png"))) == 5
    np.savez(tmp_path / "real.npz", images=open_images("digits").images)
    arguments = ["evaluate", drawn, "--extractor", "pixels", "--metrics", "fid"]
    assert cli(*arguments, "--reference", tmp_path / "real.npz").code == 0
    record = written(tmp_path / "set-drawn-pixels-real-70")
    made, real = fromnoise.load(run).sample(range(70), steps=2), open_images("digits").images
    a, b = pixel_moments(made), pixel_moments(real)
    expected = frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
    assert record["scores"]["fid"]["value"] == pytest.approx(expected, rel=1e-5)
    assert record["generated"]["count"] == 70
    # as what others are compared with too, by a model or as they are
    for path in (run, drawn):
        out, more = tmp_path / f"against {path.name}", QUICK[2:] if path == run else ()
        how = ["--extractor", "pixels", "--metrics", "fid", "--reference", drawn, "--out", out]
        assert cli("evaluate", path, *how, *more).code == 0
        assert written(out)["reference"]["count"] == 70


def test_a_picture_of_another_size_is_named(cli, tmp_path):
    for name, side in (("000000", 4), ("000001", 4), ("grid", 9)):  # no sample says it is one
        Image.fromarray(np.zeros((side, side), np.uint8)).save(tmp_path / f"{name}.png")
    np.savez(tmp_path / "real.npz", images=np.zeros((2, 4, 4, 1), np.uint8))
    paths = [tmp_path, tmp_path / "real.npz"]
    for path, real in (paths, paths[::-1]):
        code, _, err = cli("evaluate", path, "--reference", real, "--extractor", "pixels")
        assert code == 2
        assert "2 sizes, most often 4×4 (H×W; 2 of 3), but grid.png is 9×9. Images are comp" in err
        assert f"error: {tmp_path}: " in err
        assert "data.size" not in err


def test_statistics_alone_give_the_distance_alone(cli, run, tmp_path):
    real = pixel_moments(open_images("digits").images)
    np.savez(tmp_path / "stats.npz", mu=real.mean, sigma=real.covariance)
    how = [*QUICK, "--reference", tmp_path / "stats.npz", "--out", tmp_path / "out"]
    assert cli("evaluate", run, *how).code == 0
    record = written(tmp_path / "out")
    assert set(record["scores"]) == {"fid"}
    assert record["missing"]["kid"] == "the reference is a mean and a covariance, not images"
    assert record["reference"]["count"] is None
    by_images = tmp_path / "by images"
    assert cli("evaluate", run, *QUICK, "--metrics", "fid", "--out", by_images).code == 0
    assert record["scores"]["fid"] == pytest.approx(written(by_images)["scores"]["fid"], rel=1e-4)


@pytest.fixture
def evaluate_with_kid(tmp_path, monkeypatch):
    """evaluate_with_kid(kid): the record of an evaluation in which KID is another function."""
    rng = np.random.default_rng(0)
    for name, count in (("made", 80), ("real", 90)):
        images = rng.integers(0, 256, (count, 3, 3, 1), dtype=np.uint8)
        np.savez(tmp_path / f"{name}.npz", images=images)

    def call(kid):
        monkeypatch.setitem(set_evaluation.METRICS, "kid", kid)
        against = Against(str(tmp_path / "real.npz"), "pixels")
        how = {"metrics": ["fid", "kid", "prc"], "out": tmp_path / "out"}
        evaluate(tmp_path / "made.npz", against, Drawing(), **how)
        return written(tmp_path / "out")

    return call


def test_what_is_done_when_it_is_stopped_is_kept_and_marked(evaluate_with_kid, tmp_path):
    def stopped(subject):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_with_kid(stopped)
    record = written(tmp_path / "out")
    assert set(record["scores"]) == {"fid", "fid_infinity"}
    assert not record["complete"]
    assert "incomplete" in (tmp_path / "out" / "metrics.md").read_text(encoding="utf-8")


def test_a_metric_that_the_images_are_not_fit_for_leaves_the_others(evaluate_with_kid):
    def unfit(subject):
        return {"missing": {"kid": "of another size"}}

    record = evaluate_with_kid(unfit)
    assert record["missing"]["kid"] == "of another size"
    assert {"fid", "precision"} <= set(record["scores"])


def test_a_bug_in_a_metric_is_not_taken_for_a_metric_that_is_not_defined(
    evaluate_with_kid, tmp_path
):
    def wrong(subject):
        return np.zeros(2) + np.zeros(3)  # a ValueError

    with pytest.raises(ValueError, match="could not be broadcast"):
        evaluate_with_kid(wrong)
    record = written(tmp_path / "out")
    assert set(record["scores"]) == {"fid", "fid_infinity"}
    assert not record["complete"]


def test_a_metric_of_ones_own_is_one_line_in_the_dict(cli, run, tmp_path, monkeypatch):
    def brightness(subject):
        mean = float(subject.generated.images.mean())
        assert subject.features.shape == (66, 64)
        return {"scores": {"brightness": {"value": mean, "low": mean - 1, "high": mean + 1}}}

    monkeypatch.setitem(set_evaluation.METRICS, "mine", brightness)
    how = [*QUICK, "--metrics", "mine,fid", "--out", tmp_path / "out"]
    code, out, err = cli("evaluate", run, *how)
    assert code == 0, err
    record = written(tmp_path / "out")
    mean = fromnoise.load(run).sample(range(66), steps=2).double().mean().item()
    assert record["scores"]["brightness"]["value"] == pytest.approx(mean)
    assert {"brightness", "fid"} <= set(record["scores"])
    assert record["seconds"]["mine"] >= 0
    assert f"| brightness | {mean:.4g} | {mean - 1:.4g} to {mean + 1:.4g} |" in out


def test_sub_folders_are_no_blocks():
    """Real images that come class by class: the interval is not that of leaving a class out."""
    rng = np.random.default_rng(0)
    classes = rng.normal(scale=5, size=(4, 1, 3)).repeat(100, axis=1)
    x, y = (
        (classes + rng.normal(size=classes.shape)).reshape(400, 3).astype(np.float32)
        for _ in range(2)
    )
    x = rng.permutation(x)
    shuffled, by_class = kernel_distance(x, rng.permutation(y)), kernel_distance(x, y)
    widths = [score.high - score.low for score in (by_class, shuffled)]
    assert widths[0] == pytest.approx(widths[1], rel=0.6)


def test_fewer_images_than_features_are_refused_or_marked(cli, run, tmp_path):
    few = ["evaluate", run, *QUICK[:2], "--steps", 2, "--num", 50]
    code, _, err = cli(*few, "--out", tmp_path / "few")
    assert code == 2
    assert "50 images are fewer than the 64 features of pixels" in err
    assert not (tmp_path / "few").exists()
    code, out, _ = cli(*few, "--out", tmp_path / "few", "--allow-small", "--metrics", "fid")
    assert code == 0
    assert "Small: 50 images in 64 dimensions." in out
    assert written(tmp_path / "few")["marks"][0].startswith("Small: 50 images")


def test_fewer_real_images_than_features_are_refused_or_marked(cli, tmp_path):
    rng = np.random.default_rng(0)
    for name, count in (("made", 70), ("fifty", 50), ("ten", 10), ("one", 1)):
        images = rng.integers(0, 256, (count, 8, 8, 1), np.uint8)
        np.savez(tmp_path / f"{name}.npz", images=images)

    def against(name, *more):
        how = ["--extractor", "pixels", "--metrics", "fid", "--out", tmp_path / "out"]
        return cli(
            "evaluate", tmp_path / "made.npz", "--reference", tmp_path / f"{name}.npz", *how, *more
        )

    few = "real images are fewer than the 64 features of pixels, which makes the Fréchet distance"
    for name, said, more in (
        ("fifty", f"50 {few}", []),
        ("ten", f"10 {few}", []),
        ("one", "1 real images are too few. Give --reference at least 2.", ["--allow-small"]),
    ):
        code, _, err = against(name, *more)
        assert (code, len(err.splitlines())) == (2, 1)
        assert said in err
    assert not (tmp_path / "out").exists()
    code, out, _ = against("ten", "--allow-small", "--metrics", "fid,kid")
    assert code == 0
    assert "The reference is small: 10 images in 64 dimensions." in out
    assert "| KID | – | 10 real images are too few, 40 are needed |" in out


def test_what_cannot_be_had_of_given_images_is_said_before_anything_is_written(cli, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (70, 4, 4, 1), np.uint8)
    np.savez(tmp_path / "made.npz", images=images)
    moments = pixel_moments(images)
    np.savez(tmp_path / "stats.npz", mu=moments.mean, sigma=moments.covariance)
    how = ["--extractor", "pixels", "--reference", tmp_path / "stats.npz", "--out", tmp_path / "x"]
    code, _, err = cli("evaluate", tmp_path / "made.npz", *how, "--metrics", "kid,prc,copies,is")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "kid: the reference is a mean and a covariance, not images; prc: " in err
    assert "copies: the training images are unknown" in err
    assert not (tmp_path / "x").exists()
    # one that can be had is enough for the others to be named
    assert cli("evaluate", tmp_path / "made.npz", *how, "--metrics", "fid,kid").code == 0
    assert set(written(tmp_path / "x")["missing"]) == {"kid"}


def test_a_broken_picture_among_samples_is_named(cli, tmp_path):
    for name in ("a", "b"):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "c.png").write_bytes(b"broken")
    code, _, err = cli("evaluate", tmp_path, "--reference", tmp_path, "--extractor", "pixels")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "1 of 3 images are unreadable (c.png: " in err
    assert "Repair or remove them." in err
    assert "strict" not in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--metrics", "fid,fed"], "--metrics 'fed' is unknown; did you mean fid?"),
        (["--num", "39", "--allow-small"], "39 images are too few. Use at least 40."),
        (["--guidance", "2"], "guidance has no effect: this model is unconditional"),
        (["--steps", "0"], "steps = 0 is out of range. Use 1 to T = 100."),
        (["--reference", "test"], "test is not available: the source has no test split"),
        (["--reference", "nowhere"], "nowhere does not exist. Give train or test"),
        (["--reference", "."], "is a run or a model. Give train or test, or a folder"),
        (["--metrics", "is"], "no metric of --metrics is available (is: the extractor has no cl"),
        (["--extractor", "classifier"], "--extractor classifier needs --classifier FOLDER"),
        (["--conditions", "c.json"], "Use fromnoise evaluate-labels."),
        (["--cycle-classes"], "Use fromnoise evaluate-labels."),
        (["--labels", "red"], "Use fromnoise evaluate-labels."),
        (["--classifier", "j"], "--classifier belongs to --extractor classifier, not to pixels"),
        (["--features-weights", "w"], "--features-weights belongs to --extractor inception"),
        (["eta=0.5", "sampler=ddpm"], "eta is an option of ddim, not of ddpm"),
        (["--eta", "0.5"], "--eta has a new name. Use eta=…."),
        (["timesteps=even"], "sampling.timesteps = 'even' is unknown"),
        (["precision=fp8"], "sampling.precision"),
        (["training.steps=5"], "training.steps has no effect on sampling. Remove it."),
    ],
)
def test_bad_wishes_are_one_line_and_write_nothing(cli, run, arguments, said, monkeypatch):
    monkeypatch.chdir(run)
    code, _, err = cli("evaluate", run, *QUICK, *arguments)
    assert code == 2
    assert said in err
    assert len(err.splitlines()) == 1
    assert not (run / "evaluation").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--guidance", "1,2"], "--guidance 1,2: "),
        (
            ["--conditions", "5"],
            "--conditions belongs to another command. Use fromnoise evaluate-labels",
        ),
    ],
)
def test_options_of_evaluate_labels_are_no_options_of_evaluate(cli, run, arguments, message):
    code, out, err = cli("evaluate", run, *QUICK, *arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(err.replace("│", " ").split())
    assert not (run / "evaluation").exists()


def test_options_without_effect_on_images_are_refused(cli, tmp_path):
    np.savez(tmp_path / "made.npz", arr_0=np.zeros((70, 8, 8, 1), np.uint8))
    against = ["--reference", tmp_path / "made.npz", "--extractor", "pixels"]
    command = ["evaluate", tmp_path / "made.npz", *against, "--out", tmp_path / "out"]
    for arguments, name in (
        (["--steps", 2], "steps"),
        (["--sampler", "ddpm"], "sampler"),
        (["--guidance", 2], "guidance"),
        (["eta=0.5"], "eta"),
        (["timesteps=trailing"], "timesteps"),
        (["precision=fp32"], "precision"),
        (["clamp=false"], "clamp"),
        (["--weights", "raw"], "--weights"),
        (["--seed", 1], "--seed"),
        (["--seed", 0], "--seed"),
        (["--batch-size", 64], "--batch-size"),
    ):
        code, out, err = cli(*command, *arguments)
        assert (code, out, len(err.splitlines())) == (2, "", 1), (arguments, err)
        assert err.startswith(f"error: {name} has no effect: "), err
        assert "made.npz holds images, not a model. Remove it." in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["evaluate", "sweep"])
def test_scores_are_those_of_fp32_on_a_device_that_computes_in_bf16(cli, run, monkeypatch, command):
    monkeypatch.setattr(fromnoise.model.model, "default_precision", lambda device: "bf16")
    monkeypatch.setattr(fromnoise.model.model, "in_bf16", None)
    assert fromnoise.load(run).auto_precision == "bf16"
    how = ["--steps", 2] if command == "evaluate" else ["--steps", "2", "--samplers", "ddim"]
    code, _, err = cli(command, run, "--extractor", "pixels", "--num", 66, *how)
    assert code == 0, err
    [folder] = (run / "evaluation").iterdir()
    assert "-fp32-" in folder.name
    files = [file.read_text() for file in folder.glob("*.json")]
    assert '"precision": "fp32"' in files[0]


@pytest.mark.parametrize(
    "command",
    [
        ("sample", "--num", 8),
        ("evaluate", *QUICK),
        ("sweep", *QUICK[:4], "--steps", "2", "--samplers", "ddim"),
    ],
    ids=lambda command: command[0],
)
def test_images_that_are_nan_are_refused_by_their_seeds(cli, run, tmp_path, nan_seeds, command):
    name, *how = command
    code, out, err = cli(name, run, *how, "--out", tmp_path / "out")
    assert (code, out, len(err.splitlines())) == (1, "", 1), err
    assert "2 of " in err
    assert "images are NaN or infinite, of seeds 5, 6. Check the weights" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_precision_that_was_asked_for_is_used_noted_and_in_the_name(cli, run, precision):
    asked = [*QUICK, "--metrics", "fid", f"precision={precision}"]
    code, out, err = cli("evaluate", run, *asked)
    assert code == 0, err
    folder = Path(out.splitlines()[-1])
    assert f"-{precision}-pixels-" in folder.name
    assert json.loads((folder / "metrics.json").read_text())["generated"]["precision"] == precision


def test_labels_need_a_classifier(cli, run):
    code, _, err = cli("evaluate-labels", run)
    assert code == 2
    assert "--classifier" in err


def test_a_path_without_model_and_images_is_one_line(cli, tmp_path):
    (tmp_path / "empty").mkdir()
    for path, said in (
        (tmp_path / "empty", "no images"),
        (tmp_path / "nothing", "no run, model or f"),
    ):
        code, _, err = cli("evaluate", path, "--reference", path, "--extractor", "pixels")
        assert code == 2
        assert said in err
    np.savez(tmp_path / "made.npz", arr_0=np.zeros((70, 2, 2, 1), np.uint8))
    code, _, err = cli("evaluate", tmp_path / "made.npz")
    assert code == 2
    assert "--reference train is not available: the training images are unknown" in err


def test_a_model_with_labels_is_asked_for_those_of_the_reference(tiny_tree, tmp_path):
    tree = copy.deepcopy(tiny_tree) | {"data": {"source": "digits", "labels": True}}
    tree["training"]["steps"] = 1
    model = fromnoise.train(tree, out=tmp_path / "run").model()
    requests, sizes, sample = [], [], model.sample

    def counted(seeds, config, *, cond, **options):
        requests.append(cond)
        sizes.append(len(seeds))
        return sample(seeds, config, cond=cond, **options)

    model.sample = counted
    digits, config = open_images("digits"), model.sampling_config(steps=1)
    generated = generate_images(
        model, 300, config, labels_of=RealImages(digits, "digits, train"), batch_size=200
    )
    assert sizes == [200, 100]
    shares = np.concatenate(requests).clip(0).mean(axis=0)
    assert generated.images.shape == (300, 1, 8, 8)
    assert np.concatenate(requests).shape == (300, 10)
    np.testing.assert_allclose(shares, (digits.labels > 0).mean(axis=0), atol=0.005)
    assert generated.info["labels"].startswith("those of the reference")
    requests.clear()
    unlabelled = generate_images(model, 2, config)
    assert unlabelled.info["labels"] == "none: the reference lacks the labels of the model"
    assert requests == [None]


def test_without_a_condition_no_guidance_is_noted(tiny_tree, tmp_path):
    tree = copy.deepcopy(tiny_tree) | {"data": {"source": "digits", "labels": True}}
    tree["training"]["steps"] = 1
    tree["sampling"] = {**tree.get("sampling", {}), "guidance": 3.0}
    model = fromnoise.train(tree, out=tmp_path / "run").model()
    config = model.sampling_config(steps=1)
    assert generate_images(model, 2, config).info["sampling"]["guidance"] == 1
    labelled = generate_images(
        model, 2, config, labels_of=RealImages(open_images("digits"), "digits, train")
    )
    assert labelled.info["sampling"]["guidance"] == 3


def test_any_stretch_of_the_labels_has_their_shares():
    rng = np.random.default_rng(0)
    classes = rng.choice(4, 1000, p=(0.5, 0.3, 0.15, 0.05))
    order = interleave_labels(np.eye(4, dtype=np.int8)[classes] * 2 - 1)
    assert sorted(order) == list(range(1000))
    for i in range(0, 1000, 50):
        counts = np.bincount(classes[order[i : i + 50]], minlength=4)
        assert (abs(counts - np.bincount(classes) / 20) < 2).all()
    # rows that are all different have nothing to deal out: they come in any order
    rows = rng.choice([-1, 1], (1000, 40))
    assert abs(np.corrcoef(interleave_labels(rows), np.arange(1000))[0, 1]) < 0.1


def test_some_images_of_a_file_are_evenly_interleave_labels(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", arr_0=images)
    taken = read_images(tmp_path / "x.npz", 5)
    np.testing.assert_array_equal(taken.images, images[::2].transpose(0, 3, 1, 2))


def test_published_numbers_stand_beside_the_same_protocol_alone():
    record = {
        "scores": {"fid": 3.0},
        "generated": {"weights": "ema", "count": 50_000, "labels": "none: the model has none"},
        "reference": {"what": "cifar10, train", "count": 50_000, "shape": [3, 32, 32]},
        "extractor": {"name": "inception", "weights": WEIGHTS + "0" * 56},
    }
    assert [r["fid"] for r in published_beside(Metrics(**record))] == [3.17, 2.90, 1.97]
    for section, key, other in (
        ("generated", "count", 10_000),
        ("generated", "weights", "raw"),
        ("reference", "what", "cifar10, test"),
        ("reference", "shape", [3, 64, 64]),
        ("extractor", "name", "classifier"),
        ("extractor", "weights", "0" * 64),
    ):
        changed = record | {section: record[section] | {key: other}}
        assert published_beside(Metrics(**changed)) == []
    of_a_file = {"what": "stats.npz", "count": 50_000, "fingerprint": "0" * 64}  # mu and sigma
    assert published_beside(Metrics(**record | {"reference": of_a_file})) == []
