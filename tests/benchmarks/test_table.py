"""The page has what the results have; figures against such as were computed by hand."""

import json
import platform
from pathlib import Path

import pytest
import report
import table
from race import Measured

FIGURES = {
    "machine": "a machine",
    "versions": {"fromnoise": {"torch": "2.11"}, "peers": {"torch": "2.12", "other": "0.1"}},
    "works": {
        "a step": {
            "ours": {
                "how": "bf16",
                "images": 8,
                "images_per_second": [40.0, 30.0, 80.0],
                "peak_gib": 1.234,
            },
            "theirs": {
                "how": "fp32",
                "images": 8,
                "images_per_second": [10.0, 15.0, 16.0],
                "peak_gib": 2.0,
            },
        }
    },
}
TABLE = """\
| a step | how | images/s | fromnoise is faster by | memory |
|---|---|---|---|---|
| ours | bf16 | 40 (30 to 80) |  | 1.23 GiB |
| theirs | fp32 | 15 (10 to 16) | 4 (2 to 5) × | 2.00 GiB |

Measured on a machine; fromnoise with torch 2.11; peers with torch 2.12, other 0.1."""


def test_the_page_is_made_of_the_results_that_are_kept():
    page = table.PAGE.read_text(encoding="utf-8")
    assert "<!-- data_feed -->" in page
    assert page == table.page_with_tables(page, table.RESULTS), "python benchmarks/table.py"


def test_a_race_by_hand():
    """The ratios are 4, 2 and 5: their median is not that of the medians, 40/15."""
    assert table.of_file(FIGURES) == TABLE


@pytest.mark.parametrize("inside", ["", "\nwhat was there\n| before |\n\n"])
def test_only_what_stands_between_the_markers_is_written(tmp_path, inside):
    (tmp_path / "step.json").write_text(json.dumps(FIGURES))
    page = f"# Title\n\nbefore\n\n<!-- step -->\n{inside}<!-- end of step -->\n\nafter\n"
    made = table.page_with_tables(page, tmp_path)
    filled = f"<!-- step -->\n\n{TABLE}\n\n<!-- end of step -->"
    assert made == f"# Title\n\nbefore\n\n{filled}\n\nafter\n"
    assert table.page_with_tables(made, tmp_path) == made


def test_two_tables_do_not_run_into_each_other(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.json").write_text(json.dumps({**FIGURES, "machine": name}))
    page = "<!-- one -->\n<!-- end of one -->\nkept\n<!-- two -->\n<!-- end of two -->\n"
    made = table.page_with_tables(page, tmp_path)
    assert made.index("on one;") < made.index("kept") < made.index("on two;")


def test_a_marker_without_an_end_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no <!-- end of two --> after"):
        table.page_with_tables("<!-- two -->\nthe rest of the page", tmp_path)


def test_a_table_without_results_says_that_nothing_was_measured(tmp_path):
    made = table.page_with_tables("<!-- one -->\n| old |\n<!-- end of one -->", tmp_path)
    assert made == "<!-- one -->\n\nNot measured.\n\n<!-- end of one -->"


def test_the_floor_is_not_outrun_but_taken_longer_than():
    """It takes 1/4, 1/2 and 1/5 of the time: 4, 2 and 5 times as long."""
    rates = {"ours": [10.0, 15.0, 16.0], "floor": [40.0, 30.0, 80.0]}
    works = {
        name: {"how": "so", "images_per_second": figures, "peak_gib": 1}
        for name, figures in rates.items()
    }
    row = table.of_work("a step", works).splitlines()[3]
    assert row == "| floor | so | 40 (30 to 80) | takes 4 (2 to 5) × as long | 1.00 GiB |"


def test_what_is_to_be_said_of_a_work_stands_below_its_table():
    figures = {**FIGURES, "works": {**FIGURES["works"], "b": FIGURES["works"]["a step"]}}
    made = table.of_file({**figures, "notes": {"a step": "It is fast."}})
    of_a, said, of_b, _ = made.split("\n\n")
    assert (of_a.split(" | ")[0], said, of_b.split(" | ")[0]) == ("| a step", "It is fast.", "| b")


@pytest.mark.parametrize(
    ("figure", "text"),
    [(151339.9, "151,340"), (100, "100"), (99.96, "100"), (32.46, "32.5"), (1, "1"),
     (0.17891, "0.179"), (0.00012345, "0.000123")],
)  # fmt: skip
def test_three_digits_count(figure, text):
    assert table.short(figure) == text


def test_a_single_figure_has_no_range():
    assert table.spread([2.5]) == "2.5"
    assert table.spread([1.0, 4.0]) == "2.5 (1 to 4)"


def test_the_share_of_what_is_done_every_so_often():
    """6 s after every 100 steps of 2 s: 6/206 of the time."""
    one = {"every": 100, "step_seconds": [2.0, 1.0, 9.0], "seconds": [6.0, 60.0, 5.0]}
    assert table.share(one) == pytest.approx(6 / 206)
    row = table.of_file({"machine": "m", "shares": {"saved": one}}).splitlines()[2]
    assert row == "| saved | 2 (1 to 9) s | 6 (5 to 60) s | 100 steps | 2.9 % |"


# ---- what is saved ------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path, monkeypatch):
    """The folder that is written into instead of benchmarks/results."""
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def test_a_race_is_saved_as_it_is_read(results, monkeypatch):
    monkeypatch.setattr(report, "machine", lambda device: "a machine")
    monkeypatch.setattr(report, "versions", lambda: FIGURES["versions"])
    measured = {
        "ours": Measured("bf16", 8, [0.2, 8 / 30, 0.1], 1.234),
        "theirs": Measured("fp32", 8, [0.8, 8 / 15, 0.5], 2.0),
    }
    report.save_race("step", {"a step": measured})
    assert json.loads((results / "step.json").read_text()) == FIGURES
    page = table.page_with_tables("<!-- step -->\n<!-- end of step -->", results)
    assert TABLE in page


def test_works_measured_again_leave_the_others_as_they_are(results, monkeypatch):
    monkeypatch.setattr(report, "machine", lambda device: "a machine")
    monkeypatch.setattr(report, "versions", lambda: {"fromnoise": {"torch": "2.11"}})
    slow, fast = ({"ours": Measured("so", 8, [s], 1.0)} for s in (2.0, 1.0))

    def kept() -> dict:
        return json.loads((results / "step.json").read_text())

    report.save_race("step", {"a": slow, "b": slow}, notes={"a": "slow"}, merge=True)
    report.save_race("step", {"b": fast}, notes={"b": "fast"}, merge=True)
    rates = {work: one["ours"]["images_per_second"] for work, one in kept()["works"].items()}
    assert rates == {"a": [4.0], "b": [8.0]}
    assert kept()["notes"] == {"a": "slow", "b": "fast"}

    before = kept()
    monkeypatch.setattr(report, "machine", lambda device: "another machine")
    with pytest.raises(ValueError, match=r"step\.json was measured with another machine, so"):
        report.save_race("step", {"b": slow}, merge=True)
    assert kept() == before
    report.save_race("step", {"b": slow})  # without the others it has a machine of its own
    assert list(kept()["works"]) == ["b"]


@pytest.mark.slow
def test_versions_of_both_environments_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "PEERS_PYTHON", tmp_path / "none")
    assert report.versions().keys() == {"fromnoise"}
    monkeypatch.setattr(report, "PEERS_PYTHON", Path(report.sys.executable))
    found = report.versions()
    assert {"python", "torch", "torchvision"} <= found["peers"].keys()
    assert found["peers"]["torch"] == found["fromnoise"]["torch"]


def test_figures_of_a_gpu_lie_beside_those_of_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "machine", lambda device: f"a {device}")
    measured = {"ours": Measured("so", 1, [1.0], 0.5)}
    for device in ("cpu", "cuda:1"):
        report.save_race("step", {"a": measured}, device=device, merge=True)
    kept = {file.name: json.loads(file.read_text())["machine"] for file in tmp_path.iterdir()}
    assert kept == {"step.json": "a cpu", "step_cuda.json": "a cuda:1"}


def test_a_contest_by_hand():
    trained = {"how": "by hand", "parameters": 1234, "batch_size": 2, "steps": 10, "seconds": 4.0}
    ours = {"value": 1.5, "low": 1.25, "high": 2.0}
    theirs = {"value": 6.0, "low": 5.0, "high": 7.0}
    with_help = {"value": 3.0, "low": 2.5, "high": 4.0}
    figures = {
        "machine": "a machine",
        "minutes": 30,
        "recipe": "digits",
        "training_images": 60_000,
        "held_out_images": 10_000,
        "real_images": {"value": 0.5, "low": 0.25, "high": 0.75},
        "training": {"fromnoise": trained, "other": {**trained, "steps": 20},
                     "other, helped": trained},
        "drawings": [
            {
                "drawn": "in as much time",
                "num": 2000,
                "seconds": 10.0,
                "fromnoise": {"count": 2000, "seconds": 10.0, "steps": 25, "sampler": "heun",
                              "frechet_distance": ours},
                "other": {"count": 1500, "seconds": 2000.0, "steps": 2, "sampler": "ddim",
                          "frechet_distance": theirs},
                "other, helped": {"count": 2000, "seconds": 10.5, "steps": 9, "sampler": "dpm++",
                                  "frechet_distance": with_help},
            }
        ],
    }  # fmt: skip
    assert (
        table.of_file(figures)
        == """\
| 30 minutes each; 2,000 images in as much time, own samplers | parameters \
| trained on | sampled in | Fréchet distance |
|---|---|---|---|---|
| fromnoise | 1,234 | 20 images, 5 per second | 25 steps of heun, 10 s | 1.50 (1.25 to 2.00) |
| other | 1,234 | 40 images, 10 per second | 2 steps of ddim, 2,000 s (over the limit) \
| 6.00 (5.00 to 7.00) of 1,500 images |
| other, helped | 1,234 | 20 images, 5 per second | 9 steps of dpm++, 10 s \
| 3.00 (2.50 to 4.00) |

The distance of fromnoise is 0.25 × the smallest one of the other programs, and 0.5 × the \
smallest one of the helped programs.

The distances are to 60,000 training images. That of 10,000 held-out real images is \
0.50 (0.25 to 0.75). The recipe of fromnoise is `digits`.

fromnoise: by hand.

other: by hand.

other, helped: by hand.

Measured on a machine."""
    )


def test_choices_by_hand():
    comes_to = {"value": 3.0, "low": 2.0, "high": 4.0}
    figures = {
        "machine": "a machine",
        "recipe": "digits",
        "minutes": 4,
        "num": 40,
        "training_images": 1797,
        "held_out_images": 100,
        "real_images": {"value": 1.0, "low": 0.5, "high": 1.5},
        "choices": {"schedule: x": {"how": "x", "steps": 1500, "frechet_distance": comes_to}},
    }
    assert (
        table.of_file(figures)
        == """\
| `digits`, 4 minutes | steps | Fréchet distance |
|---|---|---|
| schedule: x | 1,500 | 3.00 (2.00 to 4.00) |

40 images each. The distances are to 1,797 training images. That of 100 held-out real images is \
1.00 (0.50 to 1.50).

Measured on a machine."""
    )


def test_a_processor_is_named_so_that_generations_differ():
    x86 = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\nflags\t\t: fpu "
    x86 += "avx512_bf16\n\nprocessor\t: 1\ncpu family\t: 6\nmodel\t\t: 1\nmodel name\t: other\n"
    assert report.processor(x86) == ("AMD EPYC (family 25, model 17)", ["avx512_bf16"])
    arm = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd bf16\nCPU part\t: 0xd40\n"
    for elsewhere in (arm, ""):
        assert report.processor(elsewhere) == (platform.processor(), [])
