"""The report shows everything in a run folder and names damaged files."""

import base64
import copy
import io
import json
import re
import shutil
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import fromnoise
from fromnoise.config.errors import ConfigError
from fromnoise.curves import series
from fromnoise.data.labels import one_label_each
from fromnoise.report.formatting import inline_grid
from fromnoise.report.report import write_report
from fromnoise.report.run_folder import read_run, sample_trajectory, short_names

STORED = Path(__file__).parents[1] / "stored"  # written by an earlier version, see write.sh
BITS = ("total", "L_T", "middle", "L_0")
HOSTILE = "<script>alert(1)</script>&\"'"


def interval(value, half):
    return {"value": value, "low": value - half, "high": value + half}


METRICS = {
    "date": "2026-01-02T03:04:05+00:00",
    "complete": False,
    "generated": {"what": "model", "count": 1234, "sampling": {"steps": 5}, "labels": HOSTILE},
    "reference": {"what": "digits, train", "count": 1797},
    "extractor": {"name": "classifier", "width": 64},
    "scores": {
        "fid": interval(12.345678, 0.4321),
        "kid": interval(0.00123456, 0.0001),
        "recall": interval(0.75, 0.0125),
        "of_tomorrow": interval(0.5, 0.25),
    },
    "marks": [f"a mark {HOSTILE}"],
    "missing": {"is": "no classes"},
    "published": [{"system": "Ho et al.", "fid": 3.17, "inception_score": None}],
    "copies": {
        "verdict": "No copies.",
        "exact_copies": 3,
        "held_out": {"exact": 1},
        "sheet": "copies.png",
        "rows": [1],
    },
    "bits": {
        "total": interval(3.25, 0.0625),
        "L_T": 0.0001,
        "curve": [
            {"first": 1, "last": 1, "per_step": 0.04, "low": 0.03, "high": 0.05},
            {"first": 2, "last": 100, "per_step": 0.002, "low": 0.001, "high": 0.003},
        ],
    },
    "a key of tomorrow": [1, 2],
}
SWEEP = {
    "extractor": "classifier",
    "count": 500,
    "rows": [
        {
            "sampler": sampler,
            "steps": steps,
            "guidance": 1.5,
            "seconds_per_image": steps / 512,
            "fid": interval(fid, 0.5),
            "on_front": front,
        }
        for sampler, steps, fid, front in (("ddim", 5, 30, True), ("ddpm", 5, 60, False))
    ],
}
LABELS = {
    "date": "2026-01-03T00:00:00+00:00",
    "classifier": {
        "kind": "labels",
        "num_held_out": 321,
        "held_out": {"f1": 0.875, "recall": None},
    },
    "results": [
        {
            "prompts": HOSTILE,
            "guidance": 2.0,
            "num_images": 77,
            "scores": {
                "f1": interval(0.625, 0.125),
                "extra": {"value": None, "low": None, "high": None},
            },
            "per_label": {HOSTILE: {"asked": 9, "precision": interval(0.5, 0.25)}},
        }
    ],
}


def write_evaluations(run: Path) -> None:
    for name, file, content in (
        ("metrics-1", "metrics.json", METRICS),
        ("sweep-1", "sweep.json", SWEEP),
        ("labels-1", "scores.json", LABELS),
    ):
        folder = run / "evaluation" / name
        folder.mkdir(parents=True)
        (folder / file).write_text(json.dumps(content))
    Image.new("RGB", (30, 20), "red").save(run / "evaluation" / "metrics-1" / "copies.png")


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny_tree):
    """Return a folder with two runs: `a`, and a copy with another recipe and a hostile name."""
    home = tmp_path_factory.mktemp("report")
    tree = copy.deepcopy(tiny_tree) | {"data": {"source": "digits", "labels": True}}
    tree["training"] |= {"preview_every": 3, "preview_images": 10}
    tree["sampling"]["guidance"] = 2.0
    run = fromnoise.train(tree, out=home / "a").folder
    write_evaluations(run)
    other = shutil.copytree(run, home / "<b>&\"'")
    recipe = yaml.safe_load((other / "recipe.yaml").read_text())
    recipe["training"]["learning_rate"] = 0.25
    recipe["diffusion"]["schedule"] = {"name": "linear"}
    (other / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return home


@pytest.fixture(scope="module")
def page(home):
    """Return a page of both runs."""
    return write_report([home / "a", home / "<b>&\"'"], home / "both.html")


@pytest.fixture
def bare(tmp_path, tiny):
    """Return a run folder with only a recipe."""
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tiny))
    return folder


class Page(HTMLParser):
    """The tags, attributes and text of a page. Fails if an element is not closed."""

    VOID = ("meta", "img", "input", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("style", "script"):
            self.text += data


def section(html: str, name: str) -> str:
    return re.search(rf'<section id="{name}">(.*?)</section>', html, re.DOTALL)[1]


def data_of(html: str) -> list[float]:
    return [float(v) for v in re.findall(r'<data value="([^"]*)">', html)]


def rows_of(html: str) -> list[list[str]]:
    """Return the text of each cell of each row."""
    rows = []
    for row in re.findall(r"<tr.*?</tr>", html, re.DOTALL):
        cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)
        rows.append([" ".join(unescape(re.sub(r"<[^>]+>", "", c)).split()) for c in cells])
    return rows


# ---- content -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_numbers_equal_those_of_the_records(page):
    html = page.read_text()
    metrics = section(html, "metrics")
    for key, score in METRICS["scores"].items():
        row = re.search(rf'<tr data-score="{key}">(.*?)</tr>', metrics, re.DOTALL)[1]
        assert data_of(row) == [score["value"], score["low"], score["high"]] * 2
    assert ["Fréchet distance ↓", *["12.35 [11.91, 12.78]"] * 2] in rows_of(metrics)
    assert ["KID ↓", *["0.00123 [0.00113, 0.00133]"] * 2] in rows_of(metrics)
    assert ["bits/dim ↓", *["3.25 [3.19, 3.31]"] * 2] in rows_of(metrics)
    assert ["of these LT", *["0.0001"] * 2] in rows_of(metrics)
    assert ["Inception Score ↑", "–", "–"] in rows_of(metrics)
    assert ["generated", *["model, 1,234 images"] * 2] in rows_of(metrics)
    assert "Inception Score is missing: no classes" in metrics
    assert "Published, same protocol: system Ho et al., fid 3.17</li>" in metrics
    assert "This evaluation is incomplete." in metrics

    sweep = section(html, "sweep")
    numbers = [v for r in SWEEP["rows"] for v in (*r["fid"].values(), r["seconds_per_image"])]
    assert data_of(sweep) == numbers * 2
    [_, first, second, *_] = rows_of(sweep)
    assert first == ["ddim ●", "5", "1.5", "30.0 [29.5, 30.5]", "0.00977"]
    assert second[0] == "ddpm"

    labels = section(html, "labels")
    assert data_of(labels)[:6] == [0.625, 0.5, 0.75, 0.5, 0.25, 0.75]
    assert [HOSTILE, "2", "77", "–", "–", "–", "0.625 [0.500, 0.750]", "–", "–"] in rows_of(labels)
    assert "The classifier on 321 held-out real images: f1 0.875." in labels

    copies = section(html, "copies")
    assert "No copies." in copies
    assert ["exact copies", "3"] in rows_of(copies)
    assert ["held out", "exact 1"] in rows_of(copies)
    assert copies.count("<img") == 2


def test_scores_that_an_earlier_version_stored_are_shown(tmp_path):
    runs = [shutil.copytree(STORED / name, tmp_path / name) for name in ("plain", "classes")]
    html = write_report(runs, tmp_path / "page.html").read_text()
    records = [json.loads(file.read_text()) for file in tmp_path.glob("*/evaluation/*/*.json")]
    assert len(records) == 5
    sections = {name: data_of(section(html, name)) for name in ("metrics", "labels", "sweep")}
    for record in records:
        bits = record.get("bits", {})
        for name, scores in {
            "metrics": [*record.get("scores", {}).values(), *(bits[k] for k in BITS if k in bits)],
            "labels": [row["scores"]["exact_match"] for row in record.get("results", [])],
            "sweep": [row["fid"] for row in record.get("rows", [])],
        }.items():
            assert {value for score in scores for value in score.values()} <= set(sections[name])
    rows = {row[0]: row[1:] for row in rows_of(section(html, "metrics"))}
    assert sorted(rows["features"]) == ["", "classifier", "pixels"]
    assert "timesteps trailing" in html
    assert "spacing" not in section(html, "metrics")
    labels = section(html, "labels")
    assert labels.count('<td data-score="exact_match">') == 2
    assert "The classifier on 180 held-out real images: accuracy 0.9778." in labels
    assert labels.count("<img") == 2


def test_differences_are_the_keys_that_differ(page):
    rows = {row[0]: row[1:] for row in rows_of(section(page.read_text(), "differences"))[1:]}
    assert rows == {
        "diffusion.schedule.name": ["cosine", "linear"],
        "diffusion.schedule.offset": ["0.008", "–"],
        "diffusion.schedule.beta_max": ["0.999", "–"],
        "diffusion.schedule.beta_1": ["–", "0.0001"],
        "diffusion.schedule.beta_T": ["–", "0.02"],
        "training.learning_rate": ["0.001", "0.25"],
    }


def test_the_recipe_is_complete(page, home):
    rows = {row[0]: row[1] for row in rows_of(section(page.read_text(), "recipe"))[1:]}
    recipe = read_run(home / "a", "a").recipe
    assert set(recipe) <= set(rows)
    assert rows["data.background"] == "[255, 255, 255]"
    assert rows["training.milestone_every"] == "null"
    assert rows["data.labels"] == "true"


def test_names_are_escaped(page):
    html = page.read_text()
    parsed = Page(html)
    assert [tag for tag, _ in parsed.tags].count("script") == 1
    assert "b" not in {tag for tag, _ in parsed.tags}
    assert parsed.text.count(f"a mark {HOSTILE}") == 2
    assert "a and <b>&\"'" in parsed.text
    assert not any(key.startswith("on") for _, attributes in parsed.tags for key in attributes)


def test_the_page_is_self_contained(page):
    parsed = Page(page.read_text())
    addresses = [a[key] for _, a in parsed.tags for key in ("src", "href") if key in a]
    assert len(addresses) > 100
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in addresses)
    assert {"link", "iframe", "object", "base"}.isdisjoint(tag for tag, _ in parsed.tags)
    assert "url(" not in page.read_text()
    assert "@import" not in page.read_text()
    images = [attributes for tag, attributes in parsed.tags if tag == "img"]
    assert all(image["alt"] for image in images)


def test_every_link_leads_to_a_section(page):
    parsed = Page(page.read_text())
    ids = {
        attributes["id"]
        for tag, attributes in parsed.tags
        if tag == "section" and "id" in attributes
    }
    assert {a["href"][1:] for tag, a in parsed.tags if tag == "a"} == ids
    assert len(ids) == 11


def test_samples_equal_those_of_the_model(home):
    model = fromnoise.load(home / "a")
    trajectory = sample_trajectory(home / "a")
    cond = torch.from_numpy(one_label_each(model.spec.label_names, 16))
    expected = model.sample(range(16), cond=cond, sampler="ddim", steps=25, eta=0.0).numpy()
    np.testing.assert_array_equal(trajectory.images, expected)
    assert trajectory.captions == [str(i % 10) for i in range(16)]

    timesteps, x, x0 = zip(*trajectory.stages, strict=True)
    assert (timesteps[0], timesteps[-1], len(timesteps)) == (100, 0, 10)
    np.testing.assert_array_equal(x[-1], expected[:2])
    np.testing.assert_array_equal(x0[-1], expected[:2])
    noise = fromnoise.model.model.to_uint8(model.start(range(2))).numpy()
    np.testing.assert_array_equal(x[0], noise)
    steps = {step.t: step for step in model.denoise(range(16), cond=cond, steps=25)}
    for i, t in enumerate(timesteps[:-1]):
        predicted = fromnoise.model.model.to_uint8(steps[t].x0[:2]).numpy()
        np.testing.assert_array_equal(x0[i], predicted)


def test_previews_equal_those_of_the_run(page, home):
    html = section(page.read_text(), "previews")
    found = re.findall(r'src="data:image/png;base64,([^"]*)".*?data-step="(\d+)"', html)
    assert [step for _, step in found] == ["3", "6"] * 2
    for png, step in found[:2]:
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))
        with np.load(home / "a" / "previews" / f"00000{step}.npz") as arrays:
            np.testing.assert_array_equal(pixels[:8, 9:17, 0], arrays["EMA"][1, 0])
            np.testing.assert_array_equal(pixels[9:17, :8, 0], arrays["EMA"][8, 0])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_an_inline_grid_has_every_pixel_once_and_transparent_gaps(channels):
    images = np.random.default_rng(0).integers(0, 256, (5, channels, 6, 8), np.uint8)
    grid = inline_grid(images, columns=3)
    png = base64.b64decode(grid.src.partition(",")[2])
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    kept = 3 if channels >= 3 else 1
    assert pixels.shape == (13, 26, kept + 1)
    assert (grid.width, grid.height) == (260, 130)
    for i, image in enumerate(images[:, :kept]):
        y, x = 7 * (i // 3), 9 * (i % 3)
        cell = pixels[y : y + 6, x : x + 8]
        np.testing.assert_array_equal(cell[..., :kept], image.transpose(1, 2, 0))
        assert (cell[..., kept] == 255).all()
    assert (pixels[..., kept] == 255).sum() == 5 * 6 * 8


def test_only_distances_in_inception_features_are_called_fid(bare):
    for extractor, name in (("inception", "FID"), ("classifier", "Fréchet distance")):
        content = METRICS | {"extractor": {"name": extractor, "weights": ""}}
        for folder, file, record in (
            ("set", "metrics.json", content),
            ("sweep", "sweep.json", SWEEP | {"extractor": {"name": extractor}}),
        ):
            (bare / "evaluation" / folder).mkdir(parents=True, exist_ok=True)
            (bare / "evaluation" / folder / file).write_text(json.dumps(record))
        html = write_report([bare]).read_text()
        assert [f"{name} ↓", "12.35 [11.91, 12.78]"] in rows_of(section(html, "metrics"))
        assert rows_of(section(html, "sweep"))[0][3] == f"{name} ↓"
        assert (f"{name} against time" in html) == (name in html)


def test_scores_during_training_are_drawn(bare):
    scores = [{"extractor": "pixels", "num_images": 640, "fid": interval(f, 0.01)} for f in (2, 1)]
    rows = [{"step": 10 * i, "evaluation": score} for i, score in enumerate(scores, start=1)]
    rows.append({"step": 30, "evaluation": {"fid": "damaged"}})
    (bare / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = section(write_report([bare]).read_text(), "training")
    assert "Fréchet distance during training" in training
    assert "640 images, features: pixels. Bars are 95 % intervals." in training
    assert len(re.findall(r"<use [^>]*var\(--run1\)", training)) == 2


def test_scores_of_older_logs_are_those_of_the_classifier(bare):
    score = {"extractor": "judge", "num_images": 64, "fid": interval(2, 0.5)}
    (bare / "log.jsonl").write_text(json.dumps({"step": 5, "evaluation": score}))
    assert read_run(bare, "bare").scores() == [(5, 2, 1.5, 2.5, "classifier", 64)]


def test_different_counts_are_not_reported_as_different_features(home, bare):
    for name, count in (("1", 1234), ("2", 999)):
        folder = bare / "evaluation" / name
        folder.mkdir(parents=True)
        content = METRICS | {"generated": {"count": count}}
        (folder / "metrics.json").write_text(json.dumps(content))
    metrics = section(write_report([bare]).read_text(), "metrics")
    assert "The numbers of generated images differ" in metrics
    assert "Features or reference images differ" not in metrics


def test_a_record_of_bits_only_does_not_change_other_columns(bare):
    of_inception = METRICS | {"extractor": {"name": "inception", "weights": ""}}
    alone = {"generated": {"what": "none"}, "bits": {"total": {"value": 3.25}}}
    for folder, content in (("set", of_inception), ("bits", alone)):
        (bare / "evaluation" / folder).mkdir(parents=True)
        (bare / "evaluation" / folder / "metrics.json").write_text(json.dumps(content))
    html = section(write_report([bare]).read_text(), "metrics")
    assert "FID ↓" in [row[0] for row in rows_of(html)]
    assert "differ between these columns" not in html
    assert "The numbers of generated images differ" not in html
    assert "3.25" in html


# ---- missing or damaged files -------------------------------------------------------------------


def test_a_run_with_only_a_recipe(bare):
    html = write_report([bare]).read_text()
    assert "sampling failed: " in html
    assert "has no checkpoint" in html
    assert "log.jsonl is missing" in html
    assert "There are no previews" in html
    assert "There is no evaluation" in html
    assert "<img" not in html
    assert 'id="differences"' not in html
    Page(html)


def test_samples_that_are_nan_are_a_problem_of_the_run(home, nan_seeds):
    html = write_report([home / "a"], home / "nan.html").read_text()
    assert "sampling failed: 2 of 16 images are NaN or infinite, of seeds 5, 6." in html
    assert "12.35" in section(html, "metrics")


def test_damaged_files_are_named_and_the_rest_is_shown(home, bare, tmp_path):
    run = bare
    rows = [{"step": s, "loss": 0.5 + s, "learning_rate": 1e-3} for s in (1, 2, 4)]
    odd = ['{"step": 3, "lo', "[1]", '{"step": "4"}', '{"step": 5, "loss": NaN}', "", "\xff"]
    odd += ['{"step": 6, "loss": "much"}', '{"step": 7, "loss": 1' + "0" * 400 + "}"]
    lines = [json.dumps(row) for row in rows] + odd
    (run / "log.jsonl").write_text("\n".join(lines), encoding="latin-1")
    (run / "previews").mkdir()
    (run / "previews" / "000001.npz").write_bytes(b"PK no more")
    np.savez(run / "previews" / "000002.npz", raw=np.zeros(3))
    np.savez(run / "previews" / "000003.npz", EMA=np.zeros((2, 1, 8, 8), np.uint8))
    write_evaluations(run)
    evaluation = run / "evaluation"
    (evaluation / "metrics-1" / "copies.png").write_bytes(b"\x89PNG and no more")
    for name, text in {
        "cut": '{"scores": {"fid": {"val',
        "list": "[1, 2]",
        "words": '{"scores": {"fid": {"value": "low"}}}',
    }.items():
        (evaluation / name).mkdir()
        (evaluation / name / "metrics.json").write_text(text)
    html = unescape(write_report([run]).read_text())
    for message in (
        "log.jsonl: 4 of 11 lines cannot be read: 4, 5, 6, 9",
        "previews/000001.npz cannot be read: ",
        "previews/000002.npz cannot be read: ",
        "evaluation/cut/metrics.json is not valid JSON: ",
        "evaluation/list/metrics.json cannot be shown: it: ",
        "evaluation/words/metrics.json cannot be shown: scores.fid.value: ",
        "evaluation/metrics-1/copies.png cannot be shown: ",
    ):
        assert f'<p class="problem">{message}' in html
    assert html.count('class="problem"') == 8  # and that there is no checkpoint
    assert 'data-step="3"' in html
    assert '<data value="12.345678">12.35</data>' in html
    losses = series(read_run(run, "run").rows, "loss")
    np.testing.assert_array_equal(losses, [[1, 2, 4], [1.5, 2.5, 4.5]])


def test_an_invalid_recipe_is_shown_as_written(bare):
    (bare / "recipe.yaml").write_text("data: {source: digits, tomorrow: 3}\nmade: today\n")
    html = unescape(write_report([bare]).read_text())
    assert "recipe.yaml is shown as written: " in html
    assert ["data.tomorrow", "3"] in rows_of(section(html, "recipe"))
    (bare / "recipe.yaml").write_text("data: [")
    assert "is not valid YAML" in write_report([bare]).read_text()


def test_invalid_arguments_give_a_one_line_error(bare, tmp_path, cli):
    for arguments, message in (
        ([tmp_path], f"{tmp_path} is not a run: it has no recipe.yaml. Give a folder that"),
        ([bare, tmp_path / "gone"], "gone is not a run: it has no recipe.yaml"),
        ([bare, bare], "a run is given twice. Give each run once."),
        ([bare, "--out", tmp_path], f"{tmp_path} is a folder. Give --out a file"),
        ([bare, "--out", tmp_path / "x.png"], "x.png. Give a file name that ends in .html."),
    ):
        code, out, err = cli("report", *arguments)
        assert (code, out) == (2, "")
        [line] = err.splitlines()
        assert line.startswith("error: ")
        assert message in line
    assert not [*tmp_path.rglob("*.html"), *tmp_path.rglob("x.png")]


def test_the_command_prints_the_path_of_the_page(bare, tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli("report", "bare") == (0, f"{bare / 'report.html'}\n", "")
    assert cli("report", "bare", "--out", "new/page.html").out == f"{tmp_path}/new/page.html\n"
    assert not list(tmp_path.rglob(".writing-*"))


def test_a_failed_write_leaves_the_old_page(bare, monkeypatch):
    page = write_report([bare])
    before = page.read_text()

    def fail(path):
        raise OSError("the disk is full")

    monkeypatch.setattr("fromnoise.checkpoints.fsync", fail)
    with pytest.raises(OSError, match="full"):
        write_report([bare])
    assert page.read_text() == before


def test_short_names_are_unique(tmp_path):
    folders = [tmp_path / part for part in ("x/run", "y/run")]
    assert short_names(folders) == ["x/run", "y/run"]
    assert short_names(folders[:1]) == ["run"]
    with pytest.raises(ConfigError, match="twice"):
        short_names([tmp_path / "x", tmp_path / "y" / ".." / "x"])


def test_many_large_previews_are_reduced(bare):
    (bare / "previews").mkdir()
    for step in range(1, 31):
        images = np.full((8, 3, 64, 64), step, np.uint8)
        np.savez_compressed(bare / "previews" / f"{step:06d}.npz", EMA=images)
    previews = read_run(bare, "bare").previews
    assert (previews[0].step, previews[-1].step) == (1, 30)
    assert sum(preview.images.size for preview in previews) <= 2 * 2**20
    assert len(previews) >= 8
    assert len(previews[0].images) >= 4


# ---- in a browser -------------------------------------------------------------------------------


@pytest.fixture
def opened(browser, page):
    """Return opened(width=390), which opens the page in a browser. Console messages are errors."""
    messages, requests, contexts = [], [], []

    def call(*, width=1280, dark=False):
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light"
        )
        context.set_default_timeout(300_000)  # a busy machine is no failure
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: messages.append(message.text))
        tab.on("pageerror", lambda error: messages.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(page.as_uri())
        return tab

    yield call
    for context in contexts:
        context.close()
    assert messages == []
    assert [url for url in requests if not url.startswith("data:")] == [page.as_uri()] * len(
        contexts
    )


def test_every_image_and_section_is_there(opened):
    tab = opened()
    widths = tab.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(widths) > 100
    assert min(widths) > 0
    assert tab.locator("main > section > h2").all_inner_texts() == [
        "Differences",
        "Samples from the same noise",
        "Denoising",
        "Training",
        "Previews over time",
        "Metrics",
        "Label scores",
        "Closest copies",
        "Sampler sweep",
        "Recipe",
        "Environment",
    ]
    boxes = [chart.bounding_box() for chart in tab.locator("svg").all()]
    assert len(boxes) == 10  # loss, two by noise level, rate, speed, gradient; bits and sweep twice
    assert all(box is not None and box["width"] > 300 and box["height"] > 100 for box in boxes)


def test_the_slider_changes_the_preview(opened):
    tab = opened()
    previews = tab.locator(".previews").first
    slider, images = previews.locator("input"), previews.locator("img")
    assert [image.is_visible() for image in images.all()] == [False, True]
    slider.press("Home")
    assert [image.is_visible() for image in images.all()] == [True, False]
    assert previews.locator("output").inner_text() == "3"
    assert slider.get_attribute("aria-valuetext") == "step 3"
    others = tab.locator(".previews").nth(1).locator("img").all()
    assert [image.is_visible() for image in others] == [False, True]
    slider.press("End")
    assert [image.is_visible() for image in images.all()] == [False, True]


@pytest.mark.slow
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_screen(opened, width):
    tab = opened(width=width)
    tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    wide, there = tab.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert there == width
    assert wide <= there


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_text_has_enough_contrast(opened, contrasts, dark):
    tab = opened(dark=dark)
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) < 3 * 64) == dark
    found = tab.evaluate(contrasts)
    assert len(found) > 300
    assert min(found)[0] >= 4.5, min(found)
