"""The SVG charts of the report show points where the numbers are."""

import re

import numpy as np
import pytest

from fromnoise.report.formatting import facts, interval, number, setting
from fromnoise.report.records import Interval
from fromnoise.report.svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axes,
    Line,
    Point,
    format_tick,
    line_chart,
    point_chart,
    ticks,
)

hypothesis = pytest.importorskip("hypothesis")
given, st = hypothesis.given, hypothesis.strategies

POSITIVE = st.floats(1e-12, 1e12)


def points_of(svg, css="line"):
    [path] = re.findall(rf'<path class="{css}[^"]*" d="M([^"]*)"', svg)
    return np.array([pair.split(",") for pair in path.split("L")], dtype=float)


def drawn_ticks(svg, anchor):
    found = re.findall(rf'x="([\d.]+)" y="([\d.]+)" text-anchor="{anchor}">([^<]*)<', svg)
    return {name: (float(x), float(y)) for x, y, name in found}


@given(POSITIVE, st.floats(1.001, 1e6), st.booleans())
def test_ticks_are_few_round_and_inside(low, ratio, log):
    found = ticks(low, low * ratio, log=log)
    assert 1 <= len(found) <= 7
    assert found == sorted(set(found))
    assert all(low * 0.999999 <= tick <= low * ratio * 1.000001 for tick in found)
    if log and ratio >= 10:
        mantissas = {round(float(f"{tick:e}".split("e")[0]), 6) for tick in found}
        assert mantissas <= {1, 2, 3, 5}


@pytest.mark.parametrize("log", [False, True])
def test_a_curve_and_its_ticks_are_on_the_same_scale(log):
    x = np.array([1.0, 10, 100, 1000])
    svg = line_chart([Line("a", x, x**-0.5, "run1")], Axes("x", log_x=log, log_y=log), title="T")
    points = points_of(svg)
    assert points.shape == (4, 2)
    assert (points[0, 0], points[-1, 0]) == (LEFT, WIDTH - RIGHT)
    assert (points[:, 1] >= TOP).all()
    assert (points[:, 1] <= HEIGHT - BOTTOM).all()
    middle, end = drawn_ticks(svg, "middle"), drawn_ticks(svg, "end")
    assert middle["1,000"][0] == points[-1, 0]
    if log:
        np.testing.assert_allclose(np.diff(points[:, 0]), (WIDTH - RIGHT - LEFT) / 3, atol=0.11)
        assert end["0.1"][1] - 4 == pytest.approx(points[2, 1], abs=0.11)
    else:
        assert end["0"][1] - 4 == HEIGHT - BOTTOM


def test_a_long_curve_is_thinned_and_keeps_its_peaks():
    x = np.arange(1.0, 50_001)
    y = 1 + 0.001 * np.sin(x)
    y[12_345], y[33_333] = 9, 0.5
    svg = line_chart([Line("a", x, y, "run1")], Axes("x"), title="T")
    points = points_of(svg)
    assert len(points) < 1000
    assert len(svg) < 30_000
    width = WIDTH - RIGHT - LEFT
    for index, end in ((12_345, points[:, 1].argmin()), (33_333, points[:, 1].argmax())):
        assert points[end, 0] == pytest.approx(LEFT + width * index / 50_000, abs=0.6)


def test_one_point_is_a_dot_and_an_empty_chart_is_empty():
    one = Line("a", np.array([5.0]), np.array([2.0]), "run1")
    none = Line("b", np.empty(0), np.empty(0), "run2")
    for log in (False, True):
        svg = line_chart([one, none], Axes("x", log, log), title="T")
        assert svg.count("<circle") == 1
        assert "nan" not in svg
    assert line_chart([none], Axes("x"), title="T") == ""
    zero = Line("a", np.array([0.0, 1.0]), np.array([0.0, 0.0]), "run1")
    assert "nan" not in line_chart([zero], Axes("x"), title="T")


def test_points_have_intervals_and_filled_ones_are_joined():
    points = [
        Point("5", 0.1, 30, 28, 33, "run1"),
        Point("50", 1.0, 10, 9, 12, "run1"),
        Point("25", 0.7, 40, 40, 40, "run1", filled=False),
    ]
    svg = point_chart(points, Axes("seconds", log_x=True), title="<T>")
    [front] = re.findall(r'class="line thin joined" d="M([^"]*)"', svg)
    dots = re.findall(r'<circle class="dot run1( hollow)?" cx="([\d.]+)" cy="([\d.]+)"', svg)
    assert front == f"{dots[0][1]},{dots[0][2]}L{dots[1][1]},{dots[1][2]}"
    assert [hollow for hollow, _, _ in dots] == ["", "", " hollow"]
    whiskers = re.findall(r'class="line thin run1" d="M([\d.]+),([\d.]+)V([\d.]+)"', svg)
    for (_, _, y), (_, low, high) in zip(dots[:2], whiskers[:2], strict=True):
        assert float(low) > float(y) > float(high)
    assert "&lt;T&gt;" in svg


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
