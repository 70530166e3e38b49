"""Casting rays with numpy at cubes, spheres and cylinders that stand on a floor.

A unit ball over some of the three axes is a slab (one axis), an endless round bar (two) or a
sphere (three), and each of the shapes is where such balls overlap. So one quadratic equation is
all the geometry there is. Coordinates: x to the right, y away from the camera, z up; the floor is
z = 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

BALLS: dict[str, tuple[tuple[int, ...], ...]] = {
    "cube": ((0,), (1,), (2,)),
    "sphere": ((0, 1, 2),),
    "cylinder": ((0, 1), (2,)),
}
FLOOR = -1  # in `Rays.ids`
GRID = 4  # rays a pixel and side
_TINY = np.float32(1e-12)

Vector = Sequence[Any] | np.ndarray  # x, y and z, each float32 of any shape
Box = tuple[slice, slice]  # rows and columns of rays


@dataclass(frozen=True, eq=False)
class Thing:
    """One object that stands on the floor."""

    shape: str  # a key of BALLS
    colour: np.ndarray  # (3,) linear RGB in 0..1
    x: float
    y: float
    half: float  # half of its width and height
    turn: float  # radians about z
    gloss: float  # strength of the highlight, 0..1

    @cached_property
    def centre(self) -> np.ndarray:
        """(3,) float32"""
        return np.array([self.x, self.y, self.half], dtype=np.float32)

    @cached_property
    def axes(self) -> np.ndarray:
        """(3, 3) float32: its own x, y and z as rows."""
        c, s = np.cos(self.turn), np.sin(self.turn)
        return np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]], dtype=np.float32)

    @cached_property
    def corners(self) -> np.ndarray:
        """(8, 3): of the box around it."""
        signs = np.stack(np.meshgrid(*[(-1, 1)] * 3), axis=-1).reshape(8, 3)
        return self.centre + self.half * (signs @ self.axes)

    def inward(self, vector: Vector) -> list[np.ndarray]:
        """A vector in its own axes, and in units of `half`."""
        x, y, z = vector
        (c, s, _), scale = self.axes[0], np.float32(1 / self.half)
        return [(c * x + s * y) * scale, (c * y - s * x) * scale, z * scale]


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole that looks at a point of the floor."""

    elevation: float  # radians above the floor
    distance: float  # to that point
    aim: tuple[float, float]  # the point, x and y
    field: float  # tangent of half the angle that the image's shorter side sees

    @cached_property
    def axes(self) -> np.ndarray:
        """(3, 3) float32: right, down and forward as rows."""
        c, s = np.cos(self.elevation), np.sin(self.elevation)
        return np.array([[1, 0, 0], [0, -s, -c], [0, c, -s]], dtype=np.float32)

    @cached_property
    def eye(self) -> np.ndarray:
        """(3,) float32"""
        return np.array([*self.aim, 0], dtype=np.float32) - np.float32(self.distance) * self.axes[2]

    def project(self, points: np.ndarray) -> np.ndarray:
        """(n, 3) → (n, 2): right and down of the centre; ±1 is the edge of the shorter side."""
        right, down, forward = self.axes @ (points - self.eye).T
        return np.stack([right, down], axis=-1) / (forward * self.field)[:, None]

    def box(self, points: np.ndarray, size: tuple[int, int]) -> Box:
        """The rays of an image of `size` around points (n, 3), a pixel more on each side."""
        middle = np.multiply(size, GRID / 2)
        at = middle + self.project(points)[:, ::-1] * middle.min()
        first = np.clip(at.min(axis=0) - GRID, 0, 2 * middle).astype(int)
        last = np.clip(at.max(axis=0) + GRID, 0, 2 * middle).astype(int)
        return slice(first[0], last[0]), slice(first[1], last[1])


@dataclass(frozen=True, eq=False)
class Rays:
    """What each ray meets first. Arrays are (GRID·H, GRID·W)."""

    direction: Vector  # not of unit length
    distance: np.ndarray  # float32, in lengths of `direction`
    ids: np.ndarray  # int8: the number of the thing, or FLOOR
    outlines: np.ndarray  # (things,): rays that would meet each of them if it stood alone

    @property
    def seen(self) -> np.ndarray:
        """Rays that meet each thing first: (things,)."""
        return np.bincount(self.ids.ravel() - FLOOR, minlength=len(self.outlines) + 1)[1:]

    @property
    def visible(self) -> np.ndarray:
        """How much of each thing's outline no other hides: (things,) in 0..1."""
        return self.seen / np.maximum(self.outlines, 1)


def cast(things: Sequence[Thing], camera: Camera, size: tuple[int, int]) -> Rays:
    """Follows GRID² rays through each pixel of an image of `size` = (H, W)."""
    step = 2 * camera.field / (GRID * min(size))
    down, right = (
        (np.arange(GRID * n, dtype=np.float32) + np.float32((1 - GRID * n) / 2)) * np.float32(step)
        for n in size
    )
    across, along, forward = camera.axes
    direction = [
        across[k] * right + (along[k] * down + forward[k])[:, None]  # (GRID·H, GRID·W)
        for k in range(3)
    ]
    # A ray that rises meets the floor so far away that all of it looks the same.
    distance = -camera.eye[2] / np.minimum(direction[2], np.float32(-1e-3))
    ids = np.full(distance.shape, FLOOR, dtype=np.int8)
    outlines = []
    for i, thing in enumerate(things):
        box = camera.box(thing.corners, size)
        enter, leave, _ = through(thing, camera.eye, [d[box] for d in direction])
        met = enter < leave
        outlines.append(met.sum())
        nearer = met & (enter < distance[box])
        distance[box][nearer] = enter[nearer]
        ids[box][nearer] = i
    return Rays(direction, distance, ids, np.array(outlines))


def through(
    thing: Thing, origin: Vector, direction: Vector
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where rays o + t·d enter and leave a thing, and which of its balls they enter last.

    A ray that misses it leaves before it enters.
    """
    o = thing.inward([p - c for p, c in zip(origin, thing.centre, strict=True)])
    d = thing.inward(direction)
    first, *others = BALLS[thing.shape]
    enter, leave = _through_ball(o, d, first)
    last = np.zeros(enter.shape, dtype=np.int8)
    for number, axes in enumerate(others, start=1):
        other_enter, other_leave = _through_ball(o, d, axes)
        last[other_enter > enter] = number
        enter, leave = np.maximum(enter, other_enter), np.minimum(leave, other_leave)
    return enter, leave, last


def blocked(thing: Thing, origin: Vector, direction: Vector) -> np.ndarray:
    """Whether a thing is in the way of rays from points outside it."""
    enter, leave, _ = through(thing, origin, direction)
    return (enter < leave) & (leave > 0)


def dot(a: Vector, b: Vector) -> np.ndarray:
    """Scalar products of vectors."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _through_ball(o: Vector, d: Vector, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The two t with |o + t·d|² = 1 over some axes; (∞, −∞) where there are none."""
    a = sum(d[k] * d[k] for k in axes) + _TINY  # a ray along the surface: far away, not 0/0
    b = sum(o[k] * d[k] for k in axes)
    c = sum(o[k] * o[k] for k in axes) - np.float32(1)
    square = b * b - a * c
    root = np.sqrt(np.maximum(square, 0))
    met = square > 0
    return np.where(met, (-b - root) / a, np.inf), np.where(met, (root - b) / a, -np.inf)
