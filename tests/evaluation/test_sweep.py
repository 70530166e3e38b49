"""Quality against cost: the front, the best, what is written, and a real sweep by command."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fromnoise
from fromnoise.config.errors import ConfigError
from fromnoise.config.migration import migrate_extractor
from fromnoise.curves import save_png, sweep_axes
from fromnoise.data import DataError, open_images
from fromnoise.evaluation import features, images, sweep, time_search
from fromnoise.evaluation.features import Against
from fromnoise.evaluation.images import Drawing
from fromnoise.evaluation.intervals import Interval
from fromnoise.evaluation.records import Row
from fromnoise.evaluation.sweep import best, front, read_rows, relative_distance, table
from fromnoise.model.sampling import with_guidance


def row(seconds: float, fid: float, margin: float = 0.0, sampler: str = "ddim", steps: int = 1):
    score = Interval(fid, fid - margin, fid + margin)
    return Row(sampler=sampler, steps=steps, seconds_per_image=seconds, fid=score)


def test_the_front_is_what_no_other_beats_in_both():
    rows = [row(1, 9), row(2, 5), row(2, 6), row(3, 5), row(4, 1), row(0.5, 20), row(9, 1)]
    assert front(rows) == [True, True, False, False, True, True, False]


def test_equals_are_on_the_front_together():
    assert front([row(1, 1), row(1, 1)]) == [True, True]


def test_the_best_is_the_fastest_that_is_not_worse_than_the_interval_of_the_nearest():
    rows = [row(1, 9), row(2, 5.4), row(3, 5.6), row(8, 5, margin=0.5)]
    assert best(rows) == rows[1]
    assert best(rows[:1]) == rows[0]


def test_the_best_of_rows_that_differ_in_their_times_is_the_nearest():
    searched = row(2.1, 4, steps=6).model_copy(update={"timesteps": [9, 8, 7, 6, 5, 4]})
    rows = [row(2, 5, steps=6), searched, row(3, 3.9, margin=2, steps=8)]
    assert best(rows) == searched
    rows[0] = row(2, 4.1, sampler="heun", steps=6)
    assert best(rows) == rows[0]


def test_the_table_has_the_fastest_first_and_the_front_bold():
    rows = [row(2, 5, steps=20), row(1, 9, steps=10), row(3, 7, steps=30)]
    real = {"what": "digits, train", "count": 1797}
    said = table(rows, {"extractor": {"name": "pixels"}, "count": 1000, "reference": real})
    heads = [line.split("|")[1].strip() for line in said.splitlines()[:5]]
    assert heads == ["sampler and steps", "---", "**ddim 10**", "**ddim 20**", "ddim 30"]
    times = [line.split("|")[4].strip() for line in said.splitlines()[2:5]]
    assert times == ["", "1 [1, 1]", ""]  # of rows from before there were blocks
    assert "1,000 images per row, timed once; 1,797 real images: digits, train." in said


def test_how_many_times_as_far_as_the_nearest_by_the_same_seeds():
    near, far = np.linspace(4, 6, 20), 1.5 * np.linspace(4, 6, 20)
    rows = [
        row(seconds, fid).model_copy(update={"left_out": blocks.tolist()})
        for seconds, fid, blocks in ((1, 7.5, far), (2, 5, near))
    ]
    assert relative_distance(rows[0], rows)[:] == pytest.approx((1.5, 1.5, 1.5))
    shuffled = rows[0].model_copy(update={"left_out": far[::-1].tolist()})
    found = relative_distance(shuffled, [shuffled, rows[1]])
    assert found.low < 1.2 < 1.8 < found.high


def test_a_distance_of_0_or_less_does_not_break_the_picture(tmp_path):
    lines = {"ddim": [(5, 1, 9, -1, 19), (10, 2, -0.1, -0.3, 0.1)], "ddpm": [(5, 3, 5, 4, 6)]}
    for some in (lines, {"ddim": lines["ddim"][1:]}):
        axes = sweep_axes(some, [(1, 9), (2, -0.1)])
        save_png(axes, tmp_path / "x.png", title="t", y_label="d")
        with Image.open(tmp_path / "x.png") as png:
            assert png.width > 800


QUICK = ("--extractor", "pixels", "--num", 66)


def test_a_sweep_from_end_to_end(cli, run, tmp_path):
    code, out, err = cli(
        *("sweep", run, *QUICK, "--samplers", "ddpm,ddim", "--steps", "2,5,2"),
        *("--save-best", tmp_path / "best.safetensors", "precision=fp32"),
    )
    assert code == 0, err
    step = fromnoise.load(run).spec.step
    folder = run / "evaluation" / f"sweep-{step:06d}-fp32-pixels-66"
    written = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    ways = [(r["sampler"], r["steps"]) for r in written["rows"]]
    assert ways == [("ddpm", 2), ("ddpm", 5), ("ddim", 2), ("ddim", 5)]
    assert written["count"] == 66
    assert written["reference"]["what"] == "digits, train"
    assert any(r["on_front"] for r in written["rows"])
    assert (folder / "sweep.png").is_file()
    assert (folder / "sweep.md").read_text(encoding="utf-8") in out

    # the same numbers as an evaluation of the same seeds in the same way
    how = [*QUICK, "--metrics", "fid", "--sampler", "ddim", "--steps", 5, "--out", tmp_path / "one"]
    how += ["precision=fp32"]
    assert [config["precision"] for config in written["sampling"]] == ["fp32"] * 4
    assert cli("evaluate", run, *how).code == 0
    alone = json.loads((tmp_path / "one" / "metrics.json").read_text(encoding="utf-8"))
    assert written["rows"][3]["fid"] == pytest.approx(alone["scores"]["fid"], rel=1e-6)

    # the model that was written samples in the best way when nothing is said
    chosen = min(
        (r for r in written["rows"] if r["fid"]["value"] <= smallest(written)["fid"]["high"]),
        key=lambda r: r["seconds_per_image"],
    )
    plan = fromnoise.load(tmp_path / "best.safetensors").spec.sampling
    assert (plan.sampler.name, plan.steps) == (chosen["sampler"], chosen["steps"])


def test_an_interrupted_sweep_goes_on_where_it_stopped(cli, run, monkeypatch):
    drawn, generate_images = [], images.generate_images

    def stopped(model, num, config, **options):
        drawn.append((config.sampler.name, config.steps))
        if len(drawn) == 3:
            raise MemoryError("stopped")
        return generate_images(model, num, config, **options)

    monkeypatch.setattr(images, "generate_images", stopped)
    command = ("sweep", run, *QUICK, "--samplers", "ddpm,ddim", "--steps", "1,2")
    assert cli(*command).code == 1
    [folder] = (run / "evaluation").iterdir()
    before = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    assert [len(before["rows"]), before["complete"]] == [2, False]
    code, out, err = cli(*command)
    assert code == 0, err
    after = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    assert drawn == [("ddpm", 1), ("ddpm", 2), ("ddim", 1), ("ddim", 1), ("ddim", 2)]
    assert [(r["sampler"], r["steps"]) for r in after["rows"]] == [*drawn[:2], *drawn[3:]]
    assert [figures(r) for r in after["rows"][:2]] == [figures(r) for r in before["rows"]]
    assert after["complete"]
    assert {key: after[key] for key in before if key not in ("rows", "complete", "date")} == {
        key: before[key] for key in before if key not in ("rows", "complete", "date")
    }
    # what is done is not done again, and the best can still be asked for
    again = cli(*command, "--save-best", run / "best.safetensors")
    assert again.code == 0
    assert len(drawn) == 5
    assert again.out.splitlines()[:6] == out.splitlines()[:6]
    assert (run / "best.safetensors").is_file()


def figures(row: dict) -> tuple:
    return (
        row["seconds_per_image"],
        row["fid"],
        row["left_out"],
    )  # and not whether it is on the front by now


EVALUATIONS = Path(__file__).parents[1] / "stored" / "plain" / "evaluation"
STORED = EVALUATIONS / "sweep-000011-fp32-pixels-80"


def test_a_sweep_of_an_earlier_version_is_read_where_the_facts_are_equal(tmp_path):
    file = json.loads((STORED / "sweep.json").read_text(encoding="utf-8"))
    assert {"ways", "precision"} <= set(file)  # the names of that version
    facts = {key: file[key] for key in ("versions", "model", "weights", "step", "device")}
    facts |= {key: file[key] for key in ("count", "batch_size", "reference", "extractor")}
    facts["sampling"] = [
        {
            "sampler": sampler,
            "steps": steps,
            "timesteps": "leading",
            "clamp": True,
            "guidance": 1.0,
            "guidance_interval": None,
            "guidance_rescale": 0.0,
            "precision": "fp32",
        }
        for sampler in ({"name": "ddpm", "variance": "small"}, {"name": "ddim", "eta": 0.0})
        for steps in (2, 5)
    ]
    rows = read_rows(STORED / "sweep.json", facts)
    assert [(row.sampler, row.steps) for row in rows] == [
        ("ddpm", 2),
        ("ddpm", 5),
        ("ddim", 2),
        ("ddim", 5),
    ]
    for row, stored in zip(rows, file["rows"], strict=True):
        assert figures(dict(row) | {"fid": row.fid._asdict()}) == figures(stored)
    facts["sampling"][0]["timesteps"] = "trailing"
    with pytest.raises(
        ConfigError, match=r"has a sweep with another sampling\. Give another --out"
    ):
        read_rows(STORED / "sweep.json", facts)


@pytest.fixture(scope="module")
def swept(finished_run, tmp_path_factory):
    """A run and its sweep, not to be written to."""
    home = tmp_path_factory.mktemp("swept")
    shutil.copytree(finished_run, home / "run")
    sweep.sweep_to_folder(
        *(home / "run", Against(extractor="pixels"), Drawing()),
        samplers=["ddim"],
        steps=[1],
        num=66,
        out=home / "sweep",
    )
    return home


def test_todays_facts_have_the_names_that_an_earlier_sweep_is_migrated_to(swept):
    facts, file = (
        json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
        for folder in (swept / "sweep", STORED)
    )
    assert set(facts) - {"sampling"} <= set(file)
    assert set(facts["sampling"][0]) == {*file["ways"][0], "precision", "timesteps"} - {"spacing"}
    assert migrate_extractor(file["extractor"]) == facts["extractor"]
    assert migrate_extractor({"name": "judge", "width": 512})["name"] == "classifier"


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (["--steps", "1,2"], "sampling"),
        (["--samplers", "ddpm"], "sampling"),
        (["--num", "67"], "count"),
        (["--batch-size", "7"], "batch_size"),
        (["--weights", "raw"], "model, weights"),
        (["eta=0.5"], "sampling"),
        (["precision=bf16"], "sampling"),
        (["--reference", "other.npz"], "reference"),
    ],
)
def test_another_sweep_is_refused_before_anything_is_drawn(
    cli, swept, monkeypatch, change, differs
):
    monkeypatch.chdir(swept)
    np.savez("other.npz", images=open_images("digits").images[:100, 0])
    same = ["--samplers", "ddim", "--steps", "1", *QUICK, "--out", "sweep"]
    files = {file.name: file.read_bytes() for file in (swept / "sweep").iterdir()}
    assert cli("sweep", "run", *same).code == 0
    monkeypatch.setattr(images, "generate_images", None)
    monkeypatch.setattr(features, "extract_features", None)
    monkeypatch.setattr(images, "reference_of", None)
    code, _, err = cli("sweep", "run", *same, *change)
    assert (code, len(err.splitlines())) == (2, 1)
    assert f"/sweep has a sweep with another {differs}. Give another --out" in err
    assert files == {file.name: file.read_bytes() for file in (swept / "sweep").iterdir()}


# ---- searched times -----------------------------------------------------------------------------

SEARCH = (*QUICK, "--search-times", "--steps", "3,5")


@pytest.fixture
def few_trajectories(monkeypatch):
    """A search of milliseconds."""
    monkeypatch.setattr(time_search, "GRID", 10)
    for module in (time_search, sweep):
        monkeypatch.setattr(module, "TRAJECTORIES", 4)


@pytest.mark.slow
def test_a_sweep_with_searched_times_resumes_without_another_search(
    cli, run, tmp_path, monkeypatch, few_trajectories
):
    drawn, searches, generate_images = [], [], images.generate_images

    def stopped(model, num, config, **options):
        drawn.append((config.sampler.name, config.steps, config.timesteps))
        if len(drawn) in (1, 4):
            raise MemoryError("stopped")
        return generate_images(model, num, config, **options)

    def counted(*arguments, **options):
        searches.append(time_search.search_times(*arguments, **options))
        return searches[-1]

    monkeypatch.setattr(images, "generate_images", stopped)
    monkeypatch.setattr(sweep, "search_times", counted)
    command = ("sweep", run, *SEARCH, "--samplers", "ddim,heun", "precision=fp32")
    assert cli(*command).code == 1
    [folder] = (run / "evaluation").iterdir()
    before = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    assert [before["rows"], before["complete"]] == [[], False]
    found = {each["steps"]: each["timesteps"] for each in before["search"]["found"]}
    assert {steps: (len(of), of[0]) for steps, of in found.items()} == {3: (3, 100), 5: (5, 100)}
    candidates = before["search"]["candidates"]
    assert candidates == list(range(100, 0, -10))
    assert set(found[5]) < set(candidates)
    assert cli(*command).code == 1
    file = tmp_path / "best.safetensors"
    code, out, err = cli(*command, "--save-best", file)
    assert code == 0, err
    assert len(searches) == 1
    after = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    assert after["search"] == before["search"]
    rows = [(row["sampler"], row["steps"], row["timesteps"]) for row in after["rows"]]
    assert rows == [(s, n, of) for s in ("ddim", "heun") for n in (3, 5) for of in ([], found[n])]
    assert [config["timesteps"] for config in after["sampling"]] == [
        times if times else "trailing" for _, _, times in rows
    ]
    assert "ddim 5, searched times" in out
    assert f"Searched times, 5 steps: {', '.join(map(str, found[5]))}." in out
    assert (folder / "sweep.md").read_text(encoding="utf-8") in out
    assert (folder / "sweep.png").is_file()
    config = fromnoise.load(file).spec.sampling
    times = () if config.timesteps == "trailing" else config.timesteps
    assert (config.sampler.name, config.steps, list(times)) in rows
    assert cli("report", run, "--out", tmp_path / "report.html").code == 0
    assert "heun, searched times" in (tmp_path / "report.html").read_text(encoding="utf-8")
    # another search, or none, is another sweep
    for change in ("--steps=3,4", "--samplers=ddim"):
        code, _, err = cli(*command, change)
        assert (code, len(err.splitlines())) == (2, 1)
        assert "has a sweep with another sampling" in err
    assert len(searches) == 1
    plain = [each for each in command if each != "--search-times"]
    code, _, err = cli(*plain, "--out", folder)
    assert code == 2
    assert "has a sweep with another sampling" in err


@pytest.mark.slow
def test_the_best_row_brings_its_times_into_the_model(
    cli, run, tmp_path, monkeypatch, few_trajectories
):
    monkeypatch.setattr(sweep, "best", lambda rows: rows[-1])
    file = tmp_path / "best.safetensors"
    assert cli("sweep", run, *SEARCH, "--save-best", file, "--out", tmp_path / "out").code == 0
    written = json.loads((tmp_path / "out" / "sweep.json").read_text(encoding="utf-8"))
    model = fromnoise.load(file)
    assert model.spec.sampling.steps == 5
    assert list(model.spec.sampling.timesteps) == written["rows"][-1]["timesteps"]
    # such a model is swept by the rule
    again = ("sweep", file, *SEARCH, "--out", tmp_path / "again", "--reference", "train")
    np.savez(tmp_path / "plain.npz", images=open_images("digits").images[:100, 0])
    assert cli(*again[:-1], tmp_path / "plain.npz").code == 0
    repeated = json.loads((tmp_path / "again" / "sweep.json").read_text(encoding="utf-8"))
    assert repeated["sampling"] == written["sampling"]
    assert repeated["search"] == written["search"]


def test_a_search_is_by_seeds_and_labels_and_guidance(tiny_tree, tmp_path, monkeypatch):
    monkeypatch.setattr(time_search, "TRAJECTORIES", 6)
    tree = copy.deepcopy(tiny_tree) | {"data": {"source": "digits", "labels": True}}
    tree["training"]["steps"] = 1
    model = fromnoise.load(fromnoise.train(tree, out=tmp_path / "run").folder)
    torch.manual_seed(0)
    for parameter in model.denoiser.parameters():
        parameter.normal_(std=0.2)  # what one step trained hardly depends on the labels
    config = model.sampling_config(conditional=True, guidance=4.0, precision="fp32")
    cond = torch.eye(10)[:6]

    def costs(config=config, cond=cond, first_seed=3):
        return time_search.mean_costs(model, config, [100, 50, 25, 10], cond, first_seed)

    first = costs()
    for other in ({"config": with_guidance(config, 1.0)}, {"cond": -cond}, {"first_seed": 4}):
        assert not torch.allclose(costs(**other), first, rtol=1e-3)
    monkeypatch.setattr(time_search, "NUMBERS", 4 * 2 * 64 * 4)  # in batches of 4 and 2
    torch.testing.assert_close(costs(), first, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps", "5,61"], "--steps 61 is too many: --search-times chooses from 60 times."),
        (["--samplers", "ddim,ddpm"], "without noise, and ddpm adds some. Use --samplers ddim, eu"),
        (["--samplers", "dpm++sde"], "without noise, and dpm++sde adds some. Use --samplers ddim"),
        (
            ["eta=0.5"],
            "--search-times is for steps without noise, and eta = 0.5 adds some. Use eta",
        ),
        (["--samplers", "heun", "churn=3"], "and churn = 3 adds some. Use churn=0."),
        (["timesteps=[9,5,1]"], "timesteps is a list, but a sweep sets the steps. Name a rule."),
        (None, "--search-times needs --steps. Give them, as in --steps 4,6,8."),
    ],
    ids=str,
)
def test_what_cannot_be_searched_is_one_line_and_writes_nothing(cli, run, arguments, said):
    line = [*QUICK, "--search-times"] if arguments is None else [*SEARCH, *arguments]
    code, _, err = cli("sweep", run, *line)
    assert (code, len(err.splitlines())) == (2, 1)
    assert said in err
    assert not (run / "evaluation").exists()


def test_a_file_that_is_no_sweep_is_one_line(tmp_path):
    for content in ("[]", "{}"):
        (tmp_path / "sweep.json").write_text(content)
        with pytest.raises(ConfigError, match="a sweep with another count"):
            read_rows(tmp_path / "sweep.json", {"count": 1})
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(DataError, match=r"sweep\.json is not valid JSON"):
        read_rows(tmp_path / "sweep.json", {"count": 1})


def test_without_labels_to_ask_for_no_scale_is_swept_and_the_models_own_stays(
    cli, tiny_tree, tmp_path
):
    tree = copy.deepcopy(tiny_tree) | {"data": {"source": "digits", "labels": True}}
    tree["training"]["steps"] = 1
    tree["sampling"] = {**tree.get("sampling", {}), "guidance": 3.0}
    run = fromnoise.train(tree, out=tmp_path / "run").folder
    np.savez(tmp_path / "plain.npz", images=open_images("digits").images[:100, 0])
    line = ["sweep", run, *QUICK, "--samplers", "ddim", "--steps", "1", "--out", tmp_path / "out"]
    plain, best_file = ("--reference", tmp_path / "plain.npz"), tmp_path / "best.safetensors"
    code, _, err = cli(*line, *plain, "--guidance", "1,2")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "lack the labels of the model. Remove --guidance, or use --reference train." in err
    assert not (tmp_path / "out").exists()
    assert cli(*line, *plain, "--save-best", best_file).code == 0
    [row] = json.loads((tmp_path / "out" / "sweep.json").read_text())["rows"]
    assert row["guidance"] == 1
    assert fromnoise.load(best_file).spec.sampling.guidance == 3


def smallest(written: dict) -> dict:
    return min(written["rows"], key=lambda r: r["fid"]["value"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps", "5,200"], "steps = 200 is out of range. Use 1 to T = 100."),
        (["--steps", "5,x"], "--steps '5,x' is unreadable. Write 5,10,20."),
        (["--samplers", "ddim,dpm"], "sampling.sampler"),
        (["--guidance", "1,2"], "lack the labels of the model. Remove --guidance"),
        (["eta=0.5"], "eta is an option of ddim, not of ddpm"),
        (["steps=5"], "steps has no effect: a sweep sets it. Use --steps."),
        (["--precision", "fp32"], "--precision has a new name. Use precision=…."),
        (["--num", "50"], "50 images are fewer than the 64 features of pixels"),
        (
            ["--save-best", "best.txt"],
            "--save-best best.txt is not a model file. Name it FILE.safetensors.",
        ),
        (["--save-best", "made.safetensors"], "made.safetensors exists. Give a new name."),
    ],
)
def test_bad_wishes_are_one_line_and_write_nothing(cli, run, arguments, said, monkeypatch):
    monkeypatch.chdir(run)
    (run / "made.safetensors").touch()
    code, _, err = cli("sweep", run, *QUICK, *arguments)
    assert code == 2
    assert said in err
    assert len(err.splitlines()) == 1
    assert not (run / "evaluation").exists()
