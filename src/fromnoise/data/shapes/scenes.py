"""Synthetic scenes by chance: where the named things stand, how large, in which light."""

from collections.abc import Sequence

import numpy as np

from fromnoise.data.shapes.rays import BALLS, GRID, Camera, Rays, Thing, cast
from fromnoise.data.shapes.rendering import Light, Scene, to_linear

COLOURS: dict[str, tuple[int, int, int]] = {  # sRGB
    "gray": (105, 105, 110),
    "red": (205, 40, 40),
    "blue": (45, 80, 215),
    "green": (35, 140, 45),
    "brown": (135, 80, 35),
    "purple": (145, 50, 200),
    "cyan": (45, 200, 205),
    "yellow": (245, 215, 45),
}
SHAPES = tuple(BALLS)
NAMES = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)
LEAST_VISIBLE = 0.55  # of each thing's outline
LEAST_AREA = 0.025  # of the square of the image's shorter side, for each thing
_WORKSPACE = 2.5  # largest distance of a centre from the middle of the floor
_MARGIN = 0.96  # of the way to the edge of the image


def random_scene(
    names: Sequence[str], size: tuple[int, int], rng: np.random.Generator
) -> tuple[Scene, Rays]:
    """A scene with one thing of each name in which all are clearly visible, and its rays.

    Every thing lies within the image, at least LEAST_VISIBLE of its outline is not hidden, and
    that covers at least LEAST_AREA · min(H, W)² pixels. Scenes without this are drawn again.
    """
    while True:
        scene = _draw(names, rng)
        if not _apart(scene.things) or not _within(scene):
            continue
        rays = cast(scene.things, scene.camera, size)
        enough = rays.seen >= LEAST_AREA * min(size) ** 2 * GRID**2
        if np.all(enough & (rays.visible >= LEAST_VISIBLE)):
            return scene, rays


def _draw(names: Sequence[str], rng: np.random.Generator) -> Scene:
    camera = Camera(
        elevation=np.deg2rad(rng.uniform(31, 39)),
        distance=rng.uniform(11.4, 12.6),
        aim=(rng.uniform(-0.15, 0.15), rng.uniform(0.5, 0.8)),
        field=0.27,
    )
    around, above = np.deg2rad(rng.uniform(-75, -15)), np.deg2rad(rng.uniform(48, 62))
    direction = np.array(
        [np.sin(around) * np.cos(above), -np.cos(around) * np.cos(above), np.sin(above)]
    )
    strength = rng.uniform(0.94, 1.06)
    light = Light(
        direction=direction,
        radius=rng.uniform(0.05, 0.11),
        key=0.85 * strength,
        fill=0.22 * strength,
        ambient=0.28 * strength,
    )
    floor = to_linear(np.array(rng.uniform(0.70, 0.74) + rng.uniform(-0.008, 0.008, 3)))
    return Scene(tuple(_thing(name, rng) for name in names), camera, light, floor)


def _thing(name: str, rng: np.random.Generator) -> Thing:
    colour, shape = name.split()
    away, around = _WORKSPACE * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
    shade = np.array(COLOURS[colour]) / 255 * rng.uniform(0.95, 1.05)
    half = rng.uniform(0.75, 1.1)
    return Thing(
        shape=shape,
        colour=to_linear(np.clip(shade, 0, 1)),
        x=away * np.cos(around),
        y=away * np.sin(around),
        half=half * (0.85 if shape == "cube" else 1),  # a cube's diagonal is longer than its side
        turn=rng.uniform(0, np.pi / 2),
        gloss=rng.choice([0.05, 0.5]),  # rubber or metal
    )


def _apart(things: Sequence[Thing]) -> bool:
    """Whether no two of them touch, seen from above and in circles."""
    radius = [thing.half * (np.sqrt(2) if thing.shape == "cube" else 1) for thing in things]
    return all(
        np.hypot(a.x - b.x, a.y - b.y) > 1.1 * (radius[i] + radius[j])
        for i, a in enumerate(things)
        for j, b in enumerate(things[:i])
    )


def _within(scene: Scene) -> bool:
    corners = np.concatenate([thing.corners for thing in scene.things])
    return bool(np.abs(scene.camera.project(corners)).max() < _MARGIN)
