import copy
import json
import logging
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fromnoise
from fromnoise.classifier.classifier import Classifier, ClassifierSpec, build_network
from fromnoise.config.recipe import recipe_text, shipped_recipes
from fromnoise.data import open_images
from fromnoise.diffusion import SAMPLERS
from fromnoise.training import loop
from fromnoise.training.log import read_log


@pytest.fixture
def images(tmp_path) -> Path:
    """40 grey 8×8 images, of which three cannot be read."""
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    for name in ("03", "17", "31"):
        (folder / f"{name}.png").write_bytes(b"\x89PNG and no more")
    return folder


@pytest.fixture
def refused(cli, tmp_path, monkeypatch):
    """refused("train", …): the one line of a command that ends with 2 and writes nothing."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> str:
        before = set(tmp_path.rglob("*"))
        code, out, err = cli(*arguments)
        assert (code, out) == (2, "")
        [line] = err.splitlines()
        assert line.startswith("error: ")
        assert set(tmp_path.rglob("*")) == before
        return line.removeprefix("error: ")

    return call


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.stepz=5", "unknown key training.stepz; did you mean training.steps?"),
        ("training.steps=-5", "training.steps = -5 is too small. Give at least 0"),
        ("training.steps=many", "training.steps = 'many' is not a whole number"),
        ("training.steps", "'training.steps' is not a setting. Write KEY=VALUE"),
        ("network.channels=9", "channels is 9. Use an even number"),
        ("data.size=9", "9x9 does not fit this network: .* Use 8x8 or 10x10"),
        ("network.multipliers=[1,1,1,1,1]", "8x8 does not fit this network: .* Use 16x16"),
        (
            "diffusion.schedule={name: warmup, fraction: 0}",
            "schedule = warmup: fraction must lie in",
        ),
        ("diffusion.zero_terminal_snr=true", "ᾱ_T is 0.* Set diffusion.prediction to v, x0, f"),
        ("training.precision=fp16", "needs a GPU"),
        ("training.device=abacus", "device = 'abacus' is unknown"),
        ("stepz=5", "^unknown key stepz; did you mean steps?"),
        ("times=uniform", "^training.times has a new name. Use training.noise_levels.$"),
        ("diffusion.metric=mse", "^diffusion.metric has a new name. Use diffusion.loss.$"),
    ],
)
def test_a_wrong_setting(refused, recipe_file, override, said):
    line = refused("train", recipe_file, "--out", "run", override)
    assert re.search(said.replace("?", r"\?"), line)


def test_a_recipe_that_does_not_parse(refused, tmp_path):
    (tmp_path / "bad.yaml").write_text("data: [1,\ntraining: {")
    assert refused("train", "bad.yaml").startswith("bad.yaml is not valid YAML: ")


def test_a_recipe_that_is_not_there(refused):
    assert "did you mean digits?" in refused("train", "digitz")
    assert "there is no recipe file" in refused("train", "mine.yaml")
    assert "did you mean digits?" in refused("recipes", "show", "digitz")


def test_a_folder_of_images_that_is_missing_or_has_none(refused, recipe_file, tmp_path):
    data = tmp_path / "data"
    assert f"{data} does not exist" in refused("train", recipe_file, "--data", data)
    data.mkdir()
    assert "has no images, and no other files. Use files" in refused(
        "train", recipe_file, "--data", data
    )
    (data / "notes.txt").write_text("none")
    assert "no images, only .txt ×1. Use" in refused("train", recipe_file, "--data", data)
    assert "no images, only .txt ×1. Use" in refused("data", "check", data)
    (data / "broken.png").write_text("none")
    line = refused("train", recipe_file, "--data", data)
    assert f"none of the 1 images of {data} can be read: broken.png" in line


def test_a_model_that_cannot_be_sampled(refused, tmp_path):
    assert "Give a run folder, a checkpoint folder, a" in refused("sample", tmp_path)
    (tmp_path / "x.safetensors").write_bytes(b"\x08")
    assert "is not a valid .safetensors file" in refused("sample", tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--seeds", "9-3"], "runs backwards"),
        (["--steps", 0], "steps = 0 is out of range. Use 1 to T = 100."),
        (["--sampler", "dpm"], "sampling.sampler = 'dpm' is unknown; did you mean ddpm?"),
        (["variance=small"], "variance is an option of ddpm, not of ddim. Options of ddim: eta"),
        (["steps=5", "--steps", 5], "steps is given twice. Give it once."),
        (["training.steps=5"], "training.steps has no effect on sampling. Remove it."),
        (["steps=many"], "sampling.steps = 'many' is not a whole number"),
        (["spacing=leading"], "sampling.spacing has a new name. Use sampling.timesteps."),
        (["steps="], "steps has no value. Write steps=VALUE, or leave it out."),
        (["--device", "abacus"], "device = 'abacus' is unknown"),
    ],
)
def test_a_wrong_sampling_setting(refused, finished_run, options, said):
    assert said in refused("sample", finished_run, *options)


def test_what_a_sweep_compares_is_a_flag(refused, finished_run):
    for key, flag in {
        "sampler": "--samplers",
        "steps": "--steps",
        "guidance": "--guidance",
    }.items():
        line = refused("sweep", finished_run, f"{key}=1")
        assert line == f"{key} has no effect: a sweep sets it. Use {flag}."


def test_a_run_that_is_none(refused, tmp_path):
    assert "is not a run: it has no recipe.yaml" in refused("resume", tmp_path)


@pytest.mark.parametrize("command", [["trian"], ["train"], ["sample", ".", "--num", "0"]])
def test_a_wrong_argument_is_one_line(cli, command):
    code, out, err = cli(*command)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("error: ")
    assert err.endswith(" --help.\n")


def test_divergence_is_no_fault_of_the_input(cli, recipe_file, tmp_path, monkeypatch):
    real = loop.sample_batch

    def nan(*arguments, **where):
        batch = real(*arguments, **where)
        return batch._replace(eps=batch.eps * math.nan)

    monkeypatch.setattr(loop, "sample_batch", nan)
    code, _, err = cli("train", recipe_file, "--out", tmp_path / "run", "training.steps=99")
    assert code == 1
    assert err.startswith("error: training stopped at step 10: ")


def test_debug_shows_where_an_error_came_from(shell, tmp_path):
    code, _, err = shell("sample", tmp_path, "--debug")
    assert code == 1
    assert err.startswith("Traceback ")
    assert "CheckpointError" in err.splitlines()[-1]


def test_in_a_process_of_its_own_an_error_is_the_last_line(shell, recipe_file, tmp_path):
    code, out, err = shell("train", recipe_file, "--out", tmp_path / "run", "data.size=9")
    assert (code, out) == (2, "")
    *before, last = err.splitlines()
    assert before[-1] == "digits: 1797 images, 1 channels, 9x9"
    assert last.startswith("error: image size 9x9 does not fit this network")
    assert not (tmp_path / "run").exists()


def test_the_installed_command_and_the_module_are_the_same(shell):
    script = Path(sys.executable).with_name("fromnoise")
    done = subprocess.run(
        [script, "train", "digits", "a"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == shell("train", "digits", "a")
    assert done.stderr == "error: 'a' is not a setting. Write KEY=VALUE, as in steps=500.\n"


# ---- training -----------------------------------------------------------------------------------


def test_broken_files_are_named_skipped_and_counted(cli, recipe_file, images, tmp_path, caplog):
    code, _, _ = cli("train", recipe_file, "--data", images, "--out", tmp_path / "run")
    assert code == 0
    for name in ("03.png", "17.png", "31.png"):
        assert f"skipped {name}: " in caplog.text
    assert "skipped 3 images of " in caplog.text
    assert read_log(tmp_path / "run")[-1]["epoch"] == pytest.approx(6 * 8 / 37)


def test_strict_makes_them_an_error(refused, recipe_file, images):
    line = refused("train", recipe_file, "--data", images, "--out", "run", "data.strict=true")
    assert "3 of 40 images cannot be read: 03.png: " in line


def test_a_batch_larger_than_the_data_is_drawn_over_epochs(
    cli, recipe_file, images, tmp_path, caplog
):
    run = tmp_path / "run"
    code, _, _ = cli("train", recipe_file, "--data", images, "--out", run, "training.batch_size=80")
    assert code == 0
    assert "training.batch_size = 80 is more than the 37 images" in caplog.text
    assert read_log(run)[-1]["epoch"] == pytest.approx(6 * 80 / 37)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_class_of_any_name_is_trained_and_sampled(cli, recipe_file, tmp_path, caplog):
    for i, name in enumerate((b"caf\xe9", b"a, b", b"$x^$", b"line\n\x1b[1m")):
        folder = Path(os.fsdecode(os.fsencode(tmp_path / "data") + b"/" + name))
        folder.mkdir(parents=True)
        for j in range(2):
            Image.new("L", (8, 8), 20 * i + j).save(folder / f"{j}.png")
    run = tmp_path / "run"
    settings = ("data.labels=true", "data.size=8")
    code, _, err = cli("train", recipe_file, "--data", tmp_path / "data", "--out", run, *settings)
    assert code == 0, err
    assert cli("resume", run, "training.steps=7").code == 0
    assert "\x1b" not in caplog.text
    for i, name in enumerate(("caf\\xe9", "a, b", "$x^$", "line\\n\\x1b[1m")):
        out = tmp_path / f"out {i}"
        done = cli("sample", run, "--class", name, "--num", 1, "--steps", 1, "--out", out)
        assert done.code == 0, done.err
        (png,) = out.glob("0*.png")
        with Image.open(png) as image:
            assert image.info["labels"] == name


def mixed_folder(folder: Path) -> None:
    """Every mode that photographs and drawings come in, and one file that is broken."""
    folder.mkdir()
    colour = Image.linear_gradient("L").resize((20, 14)).convert("RGB")
    for name, mode in {"rgb": "RGB", "rgba": "RGBA", "la": "LA", "p": "P", "l": "L"}.items():
        colour.convert(mode).save(folder / f"{name}.png")
    deep = np.linspace(0, 65535, 14 * 20).reshape(14, 20).astype(np.uint16)
    Image.fromarray(deep).save(folder / "sixteen.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    colour.save(folder / "turned.JPG", exif=exif)
    (folder / "corrupt.jpg").write_bytes((folder / "turned.JPG").read_bytes()[:200])


def test_a_check_verifies_the_cache(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "cache"))
    for name in ("train/a", "train/b\x1b", "test/a"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "data" / name / "1.png")
    open_images("folder", tmp_path / "data")
    code, out, _ = cli("data", "check", tmp_path / "data", "--verify")
    assert code == 0
    assert "note:      data has the splits test/ (1 images), train/ (2 images): data.split=" in out
    assert "  b\\x1b: 1" in out
    assert out.endswith("\ncache: 1 verified, 0 damaged\n")
    (images,) = (tmp_path / "cache").glob("*/images.npy")
    images.write_bytes(images.read_bytes()[:-1])
    _, out, _ = cli("data", "check", tmp_path / "data", "--verify")
    assert "images.npy has 255 bytes instead of 256). It is removed" in out
    assert out.endswith("\ncache: 0 verified, 1 damaged\n")


def test_from_a_mixed_folder_to_pictures(cli, recipe_file, tmp_path, caplog):
    caplog.set_level(logging.INFO, "fromnoise")
    data, run = tmp_path / "mixed", tmp_path / "run"
    mixed_folder(data)
    code, out, _ = cli("data", "check", data)
    assert code == 0
    assert "7 images" in out
    assert "cannot be read: 1\n  corrupt.jpg: " in out
    assert "1 of 7 images are rotated by EXIF" in out

    assert cli("train", recipe_file, "--data", data, "--out", run, "data.size=[8, 12]").code == 0
    assert ": 7 images, 3 channels, 8x12" in caplog.text
    assert "skipped corrupt.jpg: " in caplog.text
    assert cli("resume", run, "training.steps=7").code == 0
    assert f"saved {run / 'checkpoints' / '000007'}" in caplog.text
    previews = {path.name for path in (run / "previews").iterdir()}
    assert previews == {"000006.png", "000006.npz", "000007.png", "000007.npz"}

    code, out, _ = cli("sample", run, "--num", 3, "--npz", "--batch-size", 2)
    samples = run / "samples" / "000007-ema-ddim-5"
    assert code == 0
    assert out.splitlines() == [
        f"3 images in {samples}",
        str(samples / "grid.png"),
        str(samples / "samples_3x8x12x3.npz"),
    ]
    with Image.open(samples / "000002.png") as image:
        assert (image.mode, image.size) == ("RGB", (12, 8))


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["cosine", "jsd"])
def test_without_any_image_at_T_it_trains_and_every_sampler_walks(
    cli, recipe_file, tmp_path, schedule
):
    overrides = (f"diffusion.schedule={schedule}", "diffusion.zero_terminal_snr=true")
    run = tmp_path / "run"
    assert cli("train", recipe_file, "--out", run, *overrides, "diffusion.prediction=v").code == 0
    assert all(math.isfinite(row["loss"]) for row in read_log(run) if "loss" in row)
    model = fromnoise.load(run, device="cpu")
    assert model.denoiser.schedule.alpha_bar[-1] == 0
    for sampler in SAMPLERS:
        for step in model.denoise([0, 1], sampler=sampler, clamp=False, steps=7):
            assert step.x.isfinite().all()


# ---- the rest -----------------------------------------------------------------------------------


def test_recipes_are_listed(cli):
    code, out, _ = cli("recipes")
    assert code == 0
    assert all(name in out for name in shipped_recipes())


def test_a_recipe_is_shown_as_it_is(cli):
    for name in shipped_recipes():
        assert cli("recipes", "show", name) == (0, recipe_text(name), "")


def test_conditions_of_a_model_without_labels_are_refused_as_such(cli, run, tmp_path):
    (tmp_path / "test.json").write_text('[["red cube"]]')
    code, _, err = cli("sample", run, "--conditions", tmp_path / "test.json")
    assert code == 2
    assert "this model is unconditional. Remove the label options." in err
    assert "exclude each other" in cli("sample", run, "--seeds", "0", "--num", 1).err


def test_autoguidance_by_an_earlier_checkpoint(cli, finished_run, tmp_path, refused, caplog):
    caplog.set_level(logging.INFO, "fromnoise")
    first = sorted((finished_run / "checkpoints").iterdir())[0]
    code, _, _ = cli(
        *("sample", finished_run, "--num", 2, "--steps", 2, "--out", tmp_path / "out"),
        *("--autoguidance", first, "--autoguidance-scale", 1.5),
    )
    assert code == 0
    assert "ε = ε_weak + s·(ε − ε_weak) with s = 1.5, ε_weak of step 3; 1 is off" in caplog.text
    assert (tmp_path / "out/grid.png").is_file()
    assert "changes nothing" not in caplog.text
    line = refused("sample", finished_run, "--autoguidance-scale", 2, "--out", "other")
    assert line == "--autoguidance-scale has no effect. Add --autoguidance MODEL."


def test_autoguidance_by_itself_is_said_to_change_nothing(cli, finished_run, tmp_path, caplog):
    how = ("--autoguidance", finished_run, "--num", 1, "--steps", 1, "--out", tmp_path / "out")
    assert cli("sample", finished_run, *how).code == 0
    [line] = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "changes nothing and doubles the cost. Give an earlier checkpoint." in line


def test_autoguidance_is_checked_before_it_is_announced(finished_run, tmp_path, refused, caplog):
    caplog.set_level(logging.INFO, "fromnoise")
    loaded = fromnoise.load(finished_run)
    diffusion = loaded.spec.diffusion.model_copy(update={"T": 50})
    loaded.spec = loaded.spec.model_copy(update={"diffusion": diffusion})
    other = loaded.save(tmp_path / "other.safetensors")
    said = refused("sample", finished_run, "--autoguidance", other, "--out", tmp_path / "out")
    assert "the weaker model has another noise schedule" in said
    assert "autoguidance: ε" not in caplog.text


# ---- labels -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def conditional(tmp_path_factory, tiny_tree):
    """A model of the ten digits after two steps; conditions; a classifier of other labels."""
    home = tmp_path_factory.mktemp("conditional")
    tree = copy.deepcopy(tiny_tree) | {"data": {"source": "digits", "labels": True}}
    tree["training"]["steps"] = 2
    fromnoise.train(tree, out=home / "run")
    for name, content in {"none": [], "empty": [["3"], []], "clevr": [["red cube"]]}.items():
        (home / f"{name}.json").write_text(json.dumps(content))
    spec = ClassifierSpec(
        kind="labels", label_names=("cat", "dog"), channels=1, size=(8, 8), stem="small"
    )
    Classifier(build_network(spec), spec).save(home / "classifier")
    return home


FORMULA = "ε = ε_∅ + s·(ε_c − ε_∅)"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--labels", "3, -x"], "there is no label 'x'. The labels are 0, 1, 2, 3"),
        (["--class", "33"], "there is no label '33'. Did you mean 3?"),
        (["--class", "-3"], "there is no label '-3'. Did you mean 3?"),
        (["--labels", "3, -3"], "'3, -3' names the label '3' twice"),
        (["--compose", "3"], "'3' has no weight. Write label=number"),
        (["--compose", "3=1", "--class", "3"], "exclude each other. Give one."),
        (["--compose", "3=1", "--guidance", "2", "--each-step"], "not a composition, or remove"),
        (["--compose", "3=1", "--guidance", "2"], "not a composition, or remove guidance."),
        (["--class", "3", "--cycle-classes"], "exclude each other. Give one."),
        (["--conditions", "none.json"], "none.json has no list of conditions. Write [["),
        (["--conditions", "empty.json"], "condition 2 of 2: [] is invalid. Write"),
        (["--conditions", "clevr.json"], "condition 1 of 1: there is no label 'red cube'"),
        (["--conditions", "gone.json"], "gone.json cannot be read: No such file"),
        (["--class", "3", "--guidance", "-1"], f"guidance = -1.0: use s ≥ 0 in {FORMULA}"),
        (["--guidance", "2"], f"guidance has no effect: {FORMULA} needs ε_c. Give labels"),
        (
            ["--guidance", "2", "--each-step"],
            f"guidance has no effect: {FORMULA} needs ε_c. Give labels",
        ),
        (["--class", "3", "guidance=2", "guidance_interval=x"], "guided t, as in 200-800"),
        (["--class", "3", "guidance=2", "guidance_interval=5-101"], "1 ≤ first ≤ last ≤ T = 100"),
        (
            ["--class", "3", "--guidance", "2", "guidance_interval=45-55", "--steps", "3"],
            "guidance_interval = 45-55 has no effect: none of the 3 timesteps",
        ),
        (
            ["--class", "3", "guidance_interval=5-50"],
            f"guidance_interval has no effect: guidance is off, s = 1 in {FORMULA}",
        ),
    ],
)
def test_an_impossible_request_is_one_line_and_writes_nothing(
    refused, conditional, arguments, said
):
    arguments = [conditional / a if str(a).endswith(".json") else a for a in arguments]
    assert said in refused("sample", conditional / "run", *arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--labels", "3"], "this model is unconditional. Remove the label options."),
        (["--class", "3"], "this model is unconditional. Remove"),
        (["--cycle-classes"], "this model is unconditional. Remove"),
        (["--compose", "3=1"], "this model is unconditional. Remove"),
        (
            ["--guidance", "2"],
            f"guidance has no effect: this model is unconditional, and {FORMULA}",
        ),
    ],
)
def test_label_options_of_an_unconditional_model_are_refused(
    refused, finished_run, arguments, said
):
    assert said in refused("sample", finished_run, *arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the model has 10, the classifier 2, and only one of them has 0, 1, 2, 3, …"),
        (["--guidance", "1", "guidance=2"], "guidance is given twice. Give it once."),
        (["guidance=-2"], "--guidance '-2' is unreadable. Write 1,2,3."),
        (["--guidance", "1,-2"], "--guidance '1,-2' is unreadable. Write 1,2,3."),
        (["--conditions", "clevr.json"], "condition 1 of 1: there is no label 'red cube'"),
        (["--classifier", "run"], "holds a diffusion model, not a classifier. Give the folder"),
    ],
)
def test_an_impossible_evaluation_is_one_line_and_writes_nothing(
    refused, conditional, arguments, said
):
    arguments = [conditional / a if str(a).endswith((".json", "run")) else a for a in arguments]
    classifier = [] if "--classifier" in arguments else ["--classifier", conditional / "classifier"]
    line = refused("evaluate-labels", conditional / "run", *classifier, *arguments)
    assert said in line
    assert not (conditional / "run" / "evaluation").exists()


def test_a_model_without_labels_is_not_evaluated(refused, finished_run, conditional):
    for more in ([], ["--conditions", conditional / "clevr.json"]):
        line = refused(
            "evaluate-labels", finished_run, "--classifier", conditional / "classifier", *more
        )
        assert "this model is unconditional. Train one with data.labels=true" in line


def test_the_formula_is_said_with_the_scale(conditional, cli, caplog, tmp_path):
    caplog.set_level(logging.INFO)
    how = ["--num", 1, "--steps", 2, "--overwrite", "--out", tmp_path]
    assert cli("sample", conditional / "run", "--class", "3", "--guidance", 2.5, *how).code == 0
    assert f"{FORMULA} with s = 2.5; 1 is off" in caplog.text
    assert cli("sample", conditional / "run", "--compose", "3=2,4=-1", *how).code == 0
    assert "ε = ε_∅ + 2·(ε[3] − ε_∅) − 1·(ε[4] − ε_∅)" in caplog.text


# ---- old names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "new"),
    [
        (["judge", "train", "images"], "Use fromnoise classifier."),
        (["judge"], "Use fromnoise classifier."),
        (["sample", "RUN", "--eta", "0.5"], "--eta has a new name. Use eta=…."),
        (["sample", "RUN", "--eta=0.5"], "--eta has a new name. Use eta=…."),
        (["sample", "RUN", "--spacing", "leading"], "--spacing has a new name. Use timesteps=…."),
        (["sample", "RUN", "--variance", "small"], "Use variance=…."),
        (["sample", "RUN", "--clamp", "no"], "Use clamp=true, false or dynamic."),
        (["sample", "RUN", "--guidance-interval", "2-8"], "Use guidance_interval=200-800."),
        (["sample", "RUN", "--guidance-rescale", "0.7"], "Use guidance_rescale=…."),
        (["sample", "RUN", "--precision", "fp32"], "Use precision=…."),
        (["evaluate", "RUN", "--judge", "folder"], "--judge has a new name. Use --classifier."),
        (
            ["train", "digits", "--strict"],
            "Use data.strict=true, or strict=true of classifier train.",
        ),
        (["evaluate", "RUN", "--conditions", "f"], "Use fromnoise evaluate-labels."),
        (["evaluate", "RUN", "--labels", "3"], "Use fromnoise evaluate-labels."),
        (["evaluate", "RUN", "--cycle-classes"], "Use fromnoise evaluate-labels."),
        (["train", "digits", "--steps", 5], "--steps is a setting, not a flag. Use steps=…."),
        (["resume", "RUN", "--batch-size=5"], "Use batch_size=…."),
        (["doctor", "digits", "--device", "cpu"], "Use device=…."),
        (["classifier", "train", "images", "--epochs", 5], "Use epochs=…."),
        (["classifier", "train", "images", "--size=64"], "Use size=…."),
    ],
)
def test_an_old_name_is_refused_with_the_new_one(refused, arguments, new):
    assert refused(*arguments).endswith(new)


def test_debug_shows_the_traceback_of_an_old_name(shell):
    code, _, err = shell("sample", "x", "--eta", "1", "--debug")
    assert code == 1
    assert err.splitlines()[-1].endswith("--eta has a new name. Use eta=….")
