"""Synthetic pictures: the light of a lamp and of a room on what rays meet.

The lamp is round, so its shadows are soft: each of the rays of a pixel sees another point of it.
Light is linear until the last step, which is sRGB.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fromnoise.data.shapes.rays import (
    BALLS,
    GRID,
    Camera,
    Rays,
    Thing,
    Vector,
    blocked,
    dot,
    through,
)

_REACH = 8.0  # distance at which the floor's light is halfway from its most to its least
_FAR = 0.25  # of the floor's light, towards the horizon
_SHARPNESS = 48  # of a highlight


@dataclass(frozen=True, eq=False)
class Light:
    """A lamp far away, which throws shadows, and the light of the room, which throws none."""

    direction: np.ndarray  # (3,) unit, towards the lamp
    radius: float  # of the lamp, as the tangent of its angle: how soft the shadows are
    key: float  # strength of the lamp
    fill: float  # of the light that comes from the camera
    ambient: float  # of the light that comes from all sides

    @cached_property
    def points(self) -> np.ndarray:
        """(GRID², 3) float32 unit: towards points of the lamp, on Vogel's spiral."""
        k = np.arange(GRID * GRID)
        radius, angle = self.radius * np.sqrt((k + 0.5) / len(k)), k * np.pi * (3 - np.sqrt(5))
        side = np.cross(self.direction, [0, 0, 1])
        side /= np.linalg.norm(side)
        plane = np.stack([side, np.cross(side, self.direction)])
        points = self.direction + (radius * np.stack([np.cos(angle), np.sin(angle)])).T @ plane
        return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Scene:
    """What is to be seen, from where, and in which light."""

    things: Sequence[Thing]
    camera: Camera
    light: Light
    floor: np.ndarray  # (3,) linear RGB in 0..1


def shade(scene: Scene, rays: Rays) -> np.ndarray:
    """The picture of `cast(scene.things, scene.camera, (H, W))`: uint8 (H, W, 3)."""
    height, width = (n // GRID for n in rays.ids.shape)
    lamp = [np.tile(p.reshape(GRID, GRID), (height, width)) for p in scene.light.points.T]
    colour = _floor(scene, rays, lamp, (height, width))  # (GRID·H, GRID·W, 3)
    for i, thing in enumerate(scene.things):
        box = scene.camera.box(thing.corners, (height, width))
        at = np.nonzero(rays.ids[box] == i)
        direction = [d[box][at] for d in rays.direction]
        point = [
            e + rays.distance[box][at] * d for e, d in zip(scene.camera.eye, direction, strict=True)
        ]
        colour[box][at] = _surface(scene, thing, direction, point, [d[box][at] for d in lamp])
    linear = colour.reshape(height, GRID, width, GRID, 3).mean(axis=(1, 3))
    return np.rint(255 * to_srgb(np.clip(linear, 0, 1))).astype(np.uint8)


def to_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light → sRGB, both 0..1 (IEC 61966-2-1)."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def to_linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB → linear light, both 0..1 (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _floor(scene: Scene, rays: Rays, lamp: Vector, size: tuple[int, int]) -> np.ndarray:
    """Linear light (GRID·H, GRID·W, 3) of the floor along every ray, things or not."""
    eye, light = scene.camera.eye, scene.light
    x, y = (eye[k] + rays.distance * rays.direction[k] for k in (0, 1))
    open_sky, lit = np.ones_like(x), np.ones(x.shape, dtype=bool)
    for thing in scene.things:
        open_sky *= 1 - _taken(thing, [x, y, np.float32(0)], [0, 0, np.float32(1)])
        box = scene.camera.box(_shadow(thing, light), size)
        ground = [x[box], y[box], np.float32(0)]
        lit[box] &= ~blocked(thing, ground, [d[box] for d in lamp])
    facing_camera = -scene.camera.axes[2, 2]
    strength = light.key * lit * lamp[2] + open_sky * (light.fill * facing_camera + light.ambient)
    reach = (x * x + np.square(np.maximum(y, 0) * 1.4)) / _REACH**2
    strength *= _FAR + (1 - _FAR) / (1 + reach)
    return strength[..., None] * scene.floor.astype(np.float32)


def _surface(
    scene: Scene, thing: Thing, direction: Vector, point: Vector, lamp: Vector
) -> np.ndarray:
    """Linear light (n, 3) of points of a thing that rays in these directions meet."""
    light = scene.light
    normal = _normal(thing, scene.camera.eye, direction, point)
    lit, open_sky = np.ones(normal[2].shape, dtype=bool), 0.6 + 0.4 * normal[2]
    for other in scene.things:
        if other is not thing:  # it shades itself only where it is turned away
            lit &= ~blocked(other, point, lamp)
            open_sky *= 1 - _taken(other, point, normal)
    diffuse = lit * np.maximum(dot(normal, lamp), 0)
    strength = (
        light.key * diffuse
        + light.fill * np.maximum(dot(normal, -scene.camera.axes[2]), 0)
        + light.ambient * open_sky
    )
    # Blinn's highlight: the normal against the direction midway between eye and lamp.
    length = np.sqrt(dot(direction, direction))
    midway = [way - d / length for way, d in zip(lamp, direction, strict=True)]
    shine = np.maximum(dot(normal, midway), 0) / np.sqrt(dot(midway, midway))
    highlight = thing.gloss * light.key * np.where(diffuse > 0, shine**_SHARPNESS, 0)
    return strength[:, None] * thing.colour.astype(np.float32) + highlight[:, None]


def _normal(thing: Thing, eye: np.ndarray, direction: Vector, point: Vector) -> list[np.ndarray]:
    """Unit normals: of a unit ball over some axes, the point itself on these axes."""
    _, _, last = through(thing, eye, direction)
    local = thing.inward([p - c for p, c in zip(point, thing.centre, strict=True)])
    own = [np.zeros_like(p) for p in local]
    for number, axes in enumerate(BALLS[thing.shape]):
        for k in axes:
            own[k] = np.where(last == number, local[k], own[k])
    c, s, _ = thing.axes[0]
    return [c * own[0] - s * own[1], s * own[0] + c * own[1], own[2]]


def _taken(thing: Thing, point: Vector, normal: Vector) -> np.ndarray:
    """The part of the sky that a sphere of a thing's size hides from points: cos θ · r²/d² ≤ 1."""
    way = [c - p for c, p in zip(thing.centre, point, strict=True)]
    square = dot(way, way)
    facing = np.maximum(dot(normal, way), 0)
    return np.minimum(facing * thing.half**2 / (square * np.sqrt(square)), 1)


def _shadow(thing: Thing, light: Light) -> np.ndarray:
    """(8·GRID², 3): the corners of its box, thrown on the floor by each point of the lamp."""
    slope = light.points / light.points[:, 2:]
    return (thing.corners - thing.corners[:, 2:] * slope[:, None]).reshape(-1, 3)
