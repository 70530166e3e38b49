"""Render a scene: compute the light of a lamp and of a room at the points that rays hit.

The lamp is a disc, and each ray of a pixel uses another point of it, so shadows are soft. Light is
linear until the last step, the conversion to sRGB.
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
    Solid,
    Vector,
    dot,
    intersect,
    occludes,
)

_REACH = 8.0  # distance at which the floor's light is halfway between maximum and minimum
_FAR = 0.25  # fraction of the floor's light at the horizon
_SHARPNESS = 48  # of a highlight


@dataclass(frozen=True, eq=False)
class Light:
    """A distant lamp, which casts shadows, and the light of the room, which casts none."""

    direction: np.ndarray  # (3,) unit, towards the lamp
    radius: float  # of the lamp, as the tangent of its angle; softens the shadows
    key: float  # strength of the lamp
    fill: float  # strength of the light from the camera
    ambient: float  # strength of the light from all sides

    @cached_property
    def points(self) -> np.ndarray:
        """Directions to points of the lamp, on Vogel's spiral: (GRID², 3) float32, unit."""
        k = np.arange(GRID * GRID)
        radius, angle = self.radius * np.sqrt((k + 0.5) / len(k)), k * np.pi * (3 - np.sqrt(5))
        side = np.cross(self.direction, [0, 0, 1])
        side /= np.linalg.norm(side)
        plane = np.stack([side, np.cross(side, self.direction)])
        points = self.direction + (radius * np.stack([np.cos(angle), np.sin(angle)])).T @ plane
        return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Scene:
    """The solids, the camera, the light and the floor."""

    solids: Sequence[Solid]
    camera: Camera
    light: Light
    floor: np.ndarray  # (3,) linear RGB in 0..1


def shade(scene: Scene, rays: Rays) -> np.ndarray:
    """Render `rays` = `cast(scene.solids, scene.camera, (H, W))` as uint8 (H, W, 3)."""
    height, width = (n // GRID for n in rays.ids.shape)
    lamp = [np.tile(p.reshape(GRID, GRID), (height, width)) for p in scene.light.points.T]
    colour = _floor(scene, rays, lamp, (height, width))  # (GRID·H, GRID·W, 3)
    for i, solid in enumerate(scene.solids):
        box = scene.camera.box(solid.corners, (height, width))
        at = np.nonzero(rays.ids[box] == i)
        direction = [d[box][at] for d in rays.direction]
        point = [
            e + rays.distance[box][at] * d for e, d in zip(scene.camera.eye, direction, strict=True)
        ]
        colour[box][at] = _surface(scene, solid, direction, point, [d[box][at] for d in lamp])
    linear = colour.reshape(height, GRID, width, GRID, 3).mean(axis=(1, 3))
    return np.rint(255 * to_srgb(np.clip(linear, 0, 1))).astype(np.uint8)


def to_srgb(linear: np.ndarray) -> np.ndarray:
    """Convert linear light to sRGB, both 0..1 (IEC 61966-2-1)."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def to_linear(srgb: np.ndarray) -> np.ndarray:
    """Convert sRGB to linear light, both 0..1 (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _floor(scene: Scene, rays: Rays, lamp: Vector, size: tuple[int, int]) -> np.ndarray:
    """Return the linear light (GRID·H, GRID·W, 3) of the floor along every ray."""
    eye, light = scene.camera.eye, scene.light
    x, y = (eye[k] + rays.distance * rays.direction[k] for k in (0, 1))
    open_sky, lit = np.ones_like(x), np.ones(x.shape, dtype=bool)
    for solid in scene.solids:
        open_sky *= 1 - _occlusion(solid, [x, y, np.float32(0)], [0, 0, np.float32(1)])
        box = scene.camera.box(_shadow_corners(solid, light), size)
        ground = [x[box], y[box], np.float32(0)]
        lit[box] &= ~occludes(solid, ground, [d[box] for d in lamp])
    facing_camera = -scene.camera.axes[2, 2]
    strength = light.key * lit * lamp[2] + open_sky * (light.fill * facing_camera + light.ambient)
    reach = (x * x + np.square(np.maximum(y, 0) * 1.4)) / _REACH**2
    strength *= _FAR + (1 - _FAR) / (1 + reach)
    return strength[..., None] * scene.floor.astype(np.float32)


def _surface(
    scene: Scene, solid: Solid, direction: Vector, point: Vector, lamp: Vector
) -> np.ndarray:
    """Return the linear light (n, 3) of points of a solid that rays in these directions hit."""
    light = scene.light
    normal = _normal(solid, scene.camera.eye, direction, point)
    lit, open_sky = np.ones(normal[2].shape, dtype=bool), 0.6 + 0.4 * normal[2]
    for other in scene.solids:
        if other is not solid:  # it shades only its own side that faces away
            lit &= ~occludes(other, point, lamp)
            open_sky *= 1 - _occlusion(other, point, normal)
    diffuse = lit * np.maximum(dot(normal, lamp), 0)
    strength = (
        light.key * diffuse
        + light.fill * np.maximum(dot(normal, -scene.camera.axes[2]), 0)
        + light.ambient * open_sky
    )
    # Blinn's highlight: the normal and the direction midway between eye and lamp.
    length = np.sqrt(dot(direction, direction))
    midway = [to_lamp - d / length for to_lamp, d in zip(lamp, direction, strict=True)]
    shine = np.maximum(dot(normal, midway), 0) / np.sqrt(dot(midway, midway))
    highlight = solid.gloss * light.key * np.where(diffuse > 0, shine**_SHARPNESS, 0)
    return strength[:, None] * solid.colour.astype(np.float32) + highlight[:, None]


def _normal(solid: Solid, eye: np.ndarray, direction: Vector, point: Vector) -> list[np.ndarray]:
    """Return unit normals. For a unit ball over some axes: the point, restricted to these axes."""
    _, _, last = intersect(solid, eye, direction)
    local = solid.to_local([p - c for p, c in zip(point, solid.centre, strict=True)])
    own = [np.zeros_like(p) for p in local]
    for number, axes in enumerate(BALLS[solid.shape]):
        for k in axes:
            own[k] = np.where(last == number, local[k], own[k])
    c, s, _ = solid.axes[0]
    return [c * own[0] - s * own[1], s * own[0] + c * own[1], own[2]]


def _occlusion(solid: Solid, point: Vector, normal: Vector) -> np.ndarray:
    """Return the fraction of the sky that a sphere of the solid's size hides: cos θ · r²/d² ≤ 1."""
    offset = [c - p for c, p in zip(solid.centre, point, strict=True)]
    square = dot(offset, offset)
    facing = np.maximum(dot(normal, offset), 0)
    return np.minimum(facing * solid.half_size**2 / (square * np.sqrt(square)), 1)


def _shadow_corners(solid: Solid, light: Light) -> np.ndarray:
    """Project the corners of the bounding box from each lamp point to the floor: (8·GRID², 3)."""
    slope = light.points / light.points[:, 2:]
    return (solid.corners - solid.corners[:, 2:] * slope[:, None]).reshape(-1, 3)
