"""Cast rays at cubes, spheres and cylinders on a floor, with numpy.

A unit ball over one axis is a slab, over two axes an infinite cylinder, over three axes a sphere.
Each shape is an intersection of such balls, so one quadratic equation describes all geometry.
Coordinates: x to the right, y away from the camera, z up; the floor is z = 0.
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
GRID = 4  # rays per pixel and axis
_TINY = np.float32(1e-12)

Vector = Sequence[Any] | np.ndarray  # x, y and z, each float32 of any shape
Box = tuple[slice, slice]  # rows and columns of rays


@dataclass(frozen=True, eq=False)
class Solid:
    """One object on the floor."""

    shape: str  # a key of BALLS
    colour: np.ndarray  # (3,) linear RGB in 0..1
    x: float
    y: float
    half_size: float  # half of its width and height
    rotation: float  # radians about z
    gloss: float  # strength of the highlight, 0..1

    @cached_property
    def centre(self) -> np.ndarray:
        """The centre: (3,) float32."""
        return np.array([self.x, self.y, self.half_size], dtype=np.float32)

    @cached_property
    def axes(self) -> np.ndarray:
        """The local x, y and z axes as rows: (3, 3) float32."""
        c, s = np.cos(self.rotation), np.sin(self.rotation)
        return np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]], dtype=np.float32)

    @cached_property
    def corners(self) -> np.ndarray:
        """The corners of the bounding box: (8, 3)."""
        signs = np.stack(np.meshgrid(*[(-1, 1)] * 3), axis=-1).reshape(8, 3)
        return self.centre + self.half_size * (signs @ self.axes)

    def to_local(self, vector: Vector) -> list[np.ndarray]:
        """Convert a vector to the local axes, in units of `half_size`."""
        x, y, z = vector
        (c, s, _), scale = self.axes[0], np.float32(1 / self.half_size)
        return [(c * x + s * y) * scale, (c * y - s * x) * scale, z * scale]


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera that looks at a point on the floor."""

    elevation: float  # radians above the floor
    distance: float  # to that point
    aim: tuple[float, float]  # the point, x and y
    field: float  # tangent of half the viewing angle of the image's shorter side

    @cached_property
    def axes(self) -> np.ndarray:
        """The directions right, down and forward as rows: (3, 3) float32."""
        c, s = np.cos(self.elevation), np.sin(self.elevation)
        return np.array([[1, 0, 0], [0, -s, -c], [0, c, -s]], dtype=np.float32)

    @cached_property
    def eye(self) -> np.ndarray:
        """The position: (3,) float32."""
        return np.array([*self.aim, 0], dtype=np.float32) - np.float32(self.distance) * self.axes[2]

    def project(self, points: np.ndarray) -> np.ndarray:
        """Project (n, 3) to (n, 2): right and down; ±1 is the edge of the image's shorter side."""
        right, down, forward = self.axes @ (points - self.eye).T
        return np.stack([right, down], axis=-1) / (forward * self.field)[:, None]

    def box(self, points: np.ndarray, size: tuple[int, int]) -> Box:
        """Return the rays of an image of `size` around points (n, 3), with a margin of a pixel."""
        middle = np.multiply(size, GRID / 2)
        position = middle + self.project(points)[:, ::-1] * middle.min()
        first = np.clip(position.min(axis=0) - GRID, 0, 2 * middle).astype(int)
        last = np.clip(position.max(axis=0) + GRID, 0, 2 * middle).astype(int)
        return slice(first[0], last[0]), slice(first[1], last[1])


@dataclass(frozen=True, eq=False)
class Rays:
    """The first object that each ray hits. Arrays are (GRID·H, GRID·W)."""

    direction: Vector  # not of unit length
    distance: np.ndarray  # float32, in lengths of `direction`
    ids: np.ndarray  # int8: the index of the solid, or FLOOR
    outline_rays: np.ndarray  # (solids,): rays that would hit each solid if it were alone

    @property
    def visible_rays(self) -> np.ndarray:
        """The number of rays that hit each solid first: (solids,)."""
        return np.bincount(self.ids.ravel() - FLOOR, minlength=len(self.outline_rays) + 1)[1:]

    @property
    def visible_fraction(self) -> np.ndarray:
        """The fraction of each solid's outline that is not hidden: (solids,) in 0..1."""
        return self.visible_rays / np.maximum(self.outline_rays, 1)


def cast(solids: Sequence[Solid], camera: Camera, size: tuple[int, int]) -> Rays:
    """Cast GRID² rays per pixel of an image of `size` = (H, W)."""
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
    # A ray above the horizon hits the floor so far away that its colour is constant.
    distance = -camera.eye[2] / np.minimum(direction[2], np.float32(-1e-3))
    ids = np.full(distance.shape, FLOOR, dtype=np.int8)
    outline_rays = []
    for i, solid in enumerate(solids):
        box = camera.box(solid.corners, size)
        enter, leave, _ = intersect(solid, camera.eye, [d[box] for d in direction])
        hit = enter < leave
        outline_rays.append(hit.sum())
        nearer = hit & (enter < distance[box])
        distance[box][nearer] = enter[nearer]
        ids[box][nearer] = i
    return Rays(direction, distance, ids, np.array(outline_rays))


def intersect(
    solid: Solid, origin: Vector, direction: Vector
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return t at which rays o + t·d enter and leave a solid, and the ball that they enter last.

    A ray that misses the solid leaves before it enters.
    """
    o = solid.to_local([p - c for p, c in zip(origin, solid.centre, strict=True)])
    d = solid.to_local(direction)
    first, *others = BALLS[solid.shape]
    enter, leave = _intersect_ball(o, d, first)
    last = np.zeros(enter.shape, dtype=np.int8)
    for number, axes in enumerate(others, start=1):
        other_enter, other_leave = _intersect_ball(o, d, axes)
        last[other_enter > enter] = number
        enter, leave = np.maximum(enter, other_enter), np.minimum(leave, other_leave)
    return enter, leave, last


def occludes(solid: Solid, origin: Vector, direction: Vector) -> np.ndarray:
    """Return whether a solid blocks rays that start outside it."""
    enter, leave, _ = intersect(solid, origin, direction)
    return (enter < leave) & (leave > 0)


def dot(a: Vector, b: Vector) -> np.ndarray:
    """Return the scalar products of vectors."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _intersect_ball(o: Vector, d: Vector, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the two t with |o + t·d|² = 1 over some axes; (∞, −∞) without a solution."""
    a = sum(d[k] * d[k] for k in axes) + _TINY  # a ray parallel to the surface: far away, not 0/0
    b = sum(o[k] * d[k] for k in axes)
    c = sum(o[k] * o[k] for k in axes) - np.float32(1)
    square = b * b - a * c
    root = np.sqrt(np.maximum(square, 0))
    hit = square > 0
    return np.where(hit, (-b - root) / a, np.inf), np.where(hit, (root - b) / a, -np.inf)
