"""The charts of the report show points where the numbers are, in the colours of the page."""

import re

import numpy as np
import pytest

from fromnoise.curves import COLOURS, Curve, bits_axes, draw, format_tick, sweep_axes, to_svg
from fromnoise.evaluation.intervals import Interval
from fromnoise.evaluation.records import Sweep
from fromnoise.report.charts import css_class, sweep_chart, training_charts
from fromnoise.report.formatting import facts, interval, number, setting
from fromnoise.report.report import HERE


def paths_of(svg, variable="--run1"):
    """Return the points of each path in a colour of the page."""
    found = re.findall(rf'<path d="([^"]*)" style="[^"]*var\({variable}\)', svg)
    return [np.array(re.findall(r"[ML] (\S+) (\S+)", path), dtype=float) for path in found]


def ticks_of(svg):
    """Return text → (x, y) of the labels of the axes."""
    found = re.findall(r'<text[^>]* x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)</text>', svg)
    return {name: (float(x), float(y)) for x, y, name in found}


@pytest.mark.parametrize("log", [False, True])
def test_a_curve_and_its_ticks_are_on_the_same_scale(log):
    x = np.array([1.0, 10, 100, 1000])
    svg = to_svg(draw([Curve(x, x**-0.5, COLOURS[0])], "x", log_x=log, log_y=log), "T")
    [points] = paths_of(svg)
    ticks = ticks_of(svg)
    assert len(points) == 4
    assert ticks["1,000"][0] == pytest.approx(points[-1, 0], abs=0.02)
    if log:
        np.testing.assert_allclose(np.diff(points, axis=0), [points[1] - points[0]] * 3, atol=0.02)
        assert {"1", "10", "100", "0.1"} <= ticks.keys()
        assert ticks["10"][0] == pytest.approx(points[1, 0], abs=0.02)
    else:
        assert "0" in ticks


@pytest.mark.parametrize(
    ("low", "high", "log"), [(1, 1e5, True), (0.9, 1.1, True), (9, 30, True), (0, 7, False)]
)
def test_ticks_are_few_and_round(low, high, log):
    y = np.array([low, high], dtype=float)
    svg = to_svg(draw([Curve(np.array([1.0, 2]), y, COLOURS[0])], "x", log_y=log), "T")
    of_y = [name for name, (x, _) in ticks_of(svg).items() if x < 40]
    assert 2 <= len(of_y) <= 8
    assert all(len(name) <= 5 for name in of_y)


def test_a_long_curve_is_thinned_and_keeps_its_peaks():
    x = np.arange(1.0, 50_001)
    y = 1 + 0.001 * np.sin(x)
    y[12_345], y[33_333] = 9, 0.5
    svg = to_svg(draw([Curve(x, y, COLOURS[0])], "x"), "T")
    [points] = paths_of(svg)
    assert len(svg) < 60_000
    left, right = points[0, 0], points[-1, 0]
    for index, end in ((12_345, points[:, 1].argmin()), (33_333, points[:, 1].argmax())):
        assert points[end, 0] == pytest.approx(left + (right - left) * index / 50_000, abs=0.6)


def test_a_chart_without_values_is_left_out_and_one_point_is_a_dot():
    one = Curve(np.array([5.0]), np.array([2.0]), COLOURS[0])
    for log in (False, True):
        svg = to_svg(draw([one], "x", log_x=log, log_y=log), "T")
        assert "<use" in svg
        assert "nan" not in svg
    zero = Curve(np.array([0.0, 1.0]), np.zeros(2), COLOURS[0])
    assert "nan" not in to_svg(draw([zero], "x"), "T")
    assert training_charts([]) == []
    assert sweep_chart(Sweep(rows=[])).svg == ""


def test_points_have_intervals_and_the_front_is_grey():
    lines = {"ddim": [(5, 0.1, 30, 28, 33), (50, 1.0, 10, 9, 12)], "ddpm": [(25, 0.7, 40, 0, 41)]}
    svg = to_svg(sweep_axes(lines, [(0.1, 30), (1.0, 10)]), "<T>")
    paths = sorted(paths_of(svg), key=lambda path: np.ptp(path[:, 0]))
    curve, whiskers = paths.pop(), sorted(paths, key=lambda path: path[0, 0])
    assert curve[0, 1] < curve[1, 1]  # y counts from the top
    for point, ends in zip(curve, whiskers, strict=True):
        assert ends[:, 0] == pytest.approx(point[0], abs=0.02)
        assert ends[:, 1].max() > point[1] > ends[:, 1].min()
    assert {"5", "50", "25"} <= ticks_of(svg).keys()
    assert any(len(path) == 3 for path in paths_of(svg, "--quiet"))  # right, then down
    assert 'aria-label="&lt;T&gt;"' in svg


def test_bits_are_steps_over_the_ranges_of_t():
    curve = [(1, 1, 0.1, 0.05, 0.15), (2, 10, 0.04, 0.03, 0.05), (11, 100, 0.01, 0.009, 0.011)]
    svg = to_svg(bits_axes(curve, COLOURS[0]), "T")
    line = min((path for path in paths_of(svg) if len(path) > 2), key=len)
    heights = np.unique(line[:, 1])
    assert len(heights) == 2
    y = {name: y for name, (_, y) in ticks_of(svg).items()}
    per_decade = y["0.01"] - y["0.1"]
    assert np.ptp(heights) == pytest.approx(per_decade * np.log10(4), rel=0.01)


def test_every_colour_follows_the_page():
    curves = [Curve(np.array([1.0, 2]), np.array([1.0, 2]), colour) for colour in COLOURS]
    svg = to_svg(draw(curves, "x"), "T")
    assert re.findall(r"#[0-9a-f]{6}\b", svg) == []
    style = (HERE / "style.css").read_text(encoding="utf-8")
    light, dark = style.split("prefers-color-scheme: dark")
    for variable in set(re.findall(r"var\((--\w+)\)", svg)) - {"--run1"}:  # that is --accent
        assert f"{variable}: " in light
        assert f"{variable}: " in dark
    assert f".{css_class(COLOURS[1])} {{" in style


def test_numbers_are_formatted():
    assert [format_tick(v) for v in (0.05, 1500, 20_000, 3e-5, 2_500_000)] == [
        "0.05",
        "1,500",
        "20k",
        "3e-05",
        "2.5M",
    ]
    assert [number(v) for v in (3.0, 1234.5678, 0.00012346, 12345.6)] == [
        "3",
        "1,235",
        "0.0001235",
        "12,346",
    ]
    assert interval(Interval(value=12.3456, low=12.1, high=12.623)) == ("12.35", "12.10", "12.62")
    assert interval(Interval(value=0, low=0, high=0)) == ("0", "0", "0")
    assert interval(Interval(value=2.5)) == ("2.5", "", "")
    assert interval(Interval()) == ("", "", "")
    assert setting([1, [True, None]]) == "[1, [true, null]]"
    assert facts({"a": {"name": "ddim", "eta": 0.0}, "b": None, "c": 3}) == "name ddim, eta 0, c 3"
