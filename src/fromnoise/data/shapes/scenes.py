"""Draw random scenes: the positions and sizes of named solids, the camera and the light."""

from collections.abc import Sequence

import numpy as np

from fromnoise.data.shapes.rendering import (
    BALLS,
    GRID,
    Camera,
    Light,
    Rays,
    Scene,
    Solid,
    cast,
    to_linear,
)

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
MIN_VISIBLE = 0.55  # fraction of each solid's outline
MIN_AREA = 0.025  # per solid, as a fraction of the square of the image's shorter side
_WORKSPACE = 2.5  # maximum distance of a solid from the centre of the floor
_MARGIN = 0.96  # maximum distance from the image centre; 1 is the edge


def random_scene(
    names: Sequence[str], size: tuple[int, int], rng: np.random.Generator
) -> tuple[Scene, Rays]:
    """Draw a scene with one clearly visible solid per name, and cast its rays.

    Every solid is inside the image. At least MIN_VISIBLE of its outline is not hidden, and this
    part covers at least MIN_AREA · min(H, W)² pixels. Other scenes are drawn again.
    """
    while True:
        scene = _draw_scene(names, rng)
        if not _apart(scene.solids) or not _inside(scene):
            continue
        rays = cast(scene.solids, scene.camera, size)
        enough = rays.visible >= MIN_AREA * min(size) ** 2 * GRID**2
        if np.all(enough & (rays.visible >= MIN_VISIBLE * rays.outline)):
            return scene, rays


def _draw_scene(names: Sequence[str], rng: np.random.Generator) -> Scene:
    camera = Camera(
        elevation=np.deg2rad(rng.uniform(31, 39)),
        distance=rng.uniform(11.4, 12.6),
        aim=(rng.uniform(-0.15, 0.15), rng.uniform(0.5, 0.8)),
        field=0.27,
    )
    azimuth, height = np.deg2rad(rng.uniform(-75, -15)), np.deg2rad(rng.uniform(48, 62))
    direction = np.array(
        [np.sin(azimuth) * np.cos(height), -np.cos(azimuth) * np.cos(height), np.sin(height)]
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
    return Scene(tuple(_draw_solid(name, rng) for name in names), camera, light, floor)


def _draw_solid(name: str, rng: np.random.Generator) -> Solid:
    colour, shape = name.split()
    distance, angle = _WORKSPACE * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
    shade = np.array(COLOURS[colour]) / 255 * rng.uniform(0.95, 1.05)
    half_size = rng.uniform(0.75, 1.1)
    if shape == "cube":  # its diagonal is longer than its side
        half_size *= 0.85
    return Solid(
        shape=shape,
        colour=to_linear(np.clip(shade, 0, 1)),
        x=distance * np.cos(angle),
        y=distance * np.sin(angle),
        half_size=half_size,
        rotation=rng.uniform(0, np.pi / 2),
        gloss=rng.choice([0.05, 0.5]),  # rubber or metal
    )


def _apart(solids: Sequence[Solid]) -> bool:
    """Return whether the circles around the solids, seen from above, do not touch."""
    radius = [solid.half_size * (np.sqrt(2) if solid.shape == "cube" else 1) for solid in solids]
    return all(
        np.hypot(a.x - b.x, a.y - b.y) > 1.1 * (radius[i] + radius[j])
        for i, a in enumerate(solids)
        for j, b in enumerate(solids[:i])
    )


def _inside(scene: Scene) -> bool:
    corners = np.concatenate([solid.corners for solid in scene.solids], axis=1)
    return bool(np.abs(scene.camera.project(corners)).max() < _MARGIN)
