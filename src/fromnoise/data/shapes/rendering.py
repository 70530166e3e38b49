"""Draw random scenes of cubes, spheres and cylinders on a floor; render them by casting rays.

A unit ball over one axis is a slab, over two axes an infinite cylinder, over three axes a sphere.
Each shape is an intersection of such balls, so one quadratic equation describes all geometry.
The lamp is a disc, and each ray of a pixel uses another point of it, so shadows are soft. Light is
linear until the last step, the conversion to sRGB.

Coordinates: x to the right, y away from the camera, z up; the floor is z = 0. Vectors are (3, …).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import NamedTuple

import numpy as np

BALLS: dict[str, tuple[tuple[int, ...], ...]] = {
    "cube": ((0,), (1,), (2,)),
    "sphere": ((0, 1, 2),),
    "cylinder": ((0, 1), (2,)),
}
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
FLOOR = -1  # in `Rays.ids`
GRID = 4  # rays per pixel and axis
_REACH = 8.0  # distance at which the floor's light is halfway between maximum and minimum
_FAR = 0.25  # fraction of the floor's light at the horizon
_SHARPNESS = 48  # of a highlight
_TINY = np.float32(1e-12)


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
        """The centre: (3, 1) float32."""
        return np.array([[self.x], [self.y], [self.half_size]], dtype=np.float32)

    @cached_property
    def corners(self) -> np.ndarray:
        """The corners of the bounding box: (3, 8)."""
        signs = np.array(list(product((-1, 1), repeat=3))).T
        return self.centre + self.half_size * _turn(signs, self.rotation)

    def to_local(self, vectors: np.ndarray) -> np.ndarray:
        """Convert vectors to the local axes, in units of `half_size`."""
        return _turn(vectors, -self.rotation) * np.float32(1 / self.half_size)


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
        """The position: (3, 1) float32."""
        aim = np.array([*self.aim, 0], dtype=np.float32)
        return (aim - np.float32(self.distance) * self.axes[2])[:, None]

    def project(self, points: np.ndarray) -> np.ndarray:
        """Project (3, n) to (2, n): right and down; ±1 is the edge of the image's shorter side."""
        right, down, forward = self.axes @ (points - self.eye)
        return np.stack([right, down]) / (forward * self.field)


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
        """Directions to points of the lamp, on Vogel's spiral: (3, GRID²) float32, unit."""
        k = np.arange(GRID * GRID)
        radius, angle = self.radius * np.sqrt((k + 0.5) / len(k)), k * np.pi * (3 - np.sqrt(5))
        side = np.cross(self.direction, [0, 0, 1])
        side /= np.linalg.norm(side)
        plane = np.stack([side, np.cross(side, self.direction)])
        points = self.direction + (radius * np.stack([np.cos(angle), np.sin(angle)])).T @ plane
        return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32).T


@dataclass(frozen=True, eq=False)
class Scene:
    """The solids, the camera, the light and the floor."""

    solids: Sequence[Solid]
    camera: Camera
    light: Light
    floor: np.ndarray  # (3,) linear RGB in 0..1


class Rays(NamedTuple):
    """The first object that each ray hits. Arrays end in (GRID·H, GRID·W)."""

    direction: np.ndarray  # (3, …), not of unit length
    distance: np.ndarray  # float32, in lengths of `direction`
    ids: np.ndarray  # int8: the index of the solid, or FLOOR
    visible: np.ndarray  # (solids,): rays that hit each solid first
    outline: np.ndarray  # (solids,): rays that would hit each solid if it were alone


def cast(solids: Sequence[Solid], camera: Camera, size: tuple[int, int]) -> Rays:
    """Cast GRID² rays per pixel of an image of `size` = (H, W)."""
    step = np.float32(2 * camera.field / (GRID * min(size)))
    down, right = (
        (np.arange(GRID * n, dtype=np.float32) + np.float32((1 - GRID * n) / 2)) * step
        for n in size
    )
    across, along, forward = camera.axes[..., None, None]
    direction = across * right + (along * down[:, None] + forward)
    # A ray above the horizon hits the floor so far away that its colour is constant.
    distance = -camera.eye[2] / np.minimum(direction[2], np.float32(-1e-3))
    ids = np.full(distance.shape, FLOOR, dtype=np.int8)
    outline = []
    for i, solid in enumerate(solids):
        enter, leave = intersect(solid, camera.eye[..., None], direction)
        hit = enter < leave
        outline.append(hit.sum())
        nearer = hit & (enter < distance)
        distance[nearer] = enter[nearer]
        ids[nearer] = i
    visible = [(ids == i).sum() for i in range(len(solids))]
    return Rays(direction, distance, ids, np.array(visible), np.array(outline))


@np.errstate(invalid="ignore")
def intersect(
    solid: Solid, origin: np.ndarray, direction: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return t at which rays o + t·d enter and leave a solid.

    For each ball: |o + t·d|² = 1 over its axes. A ray that misses one has NaN, and one that misses
    the solid between its balls leaves before it enters: `enter < leave` is false for both.
    """
    centre = solid.centre.reshape(3, *[1] * (origin.ndim - 1))
    o, d = solid.to_local(origin - centre), solid.to_local(direction)
    enter, leave = np.array(-np.inf, np.float32), np.array(np.inf, np.float32)
    for axes in BALLS[solid.shape]:
        a = sum(d[k] * d[k] for k in axes) + _TINY  # parallel to the surface: far away, not 0/0
        b = sum(o[k] * d[k] for k in axes)
        c = sum(o[k] * o[k] for k in axes) - np.float32(1)
        root = np.sqrt(b * b - a * c)
        enter, leave = np.maximum(enter, (-b - root) / a), np.minimum(leave, (root - b) / a)
    return enter, leave


def occludes(solid: Solid, origin: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Return whether a solid blocks rays that start outside it."""
    enter, leave = intersect(solid, origin, direction)
    return (enter < leave) & (leave > 0)


def shade(scene: Scene, rays: Rays) -> np.ndarray:
    """Render `rays` = `cast(scene.solids, scene.camera, (H, W))` as uint8 (H, W, 3)."""
    height, width = (n // GRID for n in rays.ids.shape)
    lamp = np.tile(scene.light.points.reshape(3, GRID, GRID), (1, height, width)).reshape(3, -1)
    direction = rays.direction.reshape(3, -1)
    point = scene.camera.eye + rays.distance.ravel() * direction
    colour = _floor(scene, point, lamp)  # of every ray: faster than a choice
    for i, solid in enumerate(scene.solids):
        at = np.flatnonzero(rays.ids == i)
        colour[at] = _surface(scene, solid, direction[:, at], point[:, at], lamp[:, at])
    linear = colour.reshape(height, GRID, width, GRID, 3).mean(axis=(1, 3))
    return np.rint(255 * to_srgb(np.clip(linear, 0, 1))).astype(np.uint8)


def to_srgb(linear: np.ndarray) -> np.ndarray:
    """Convert linear light to sRGB, both 0..1 (IEC 61966-2-1)."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def to_linear(srgb: np.ndarray) -> np.ndarray:
    """Convert sRGB to linear light, both 0..1 (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _floor(scene: Scene, point: np.ndarray, lamp: np.ndarray) -> np.ndarray:
    """Return the linear light (n, 3) of points of the floor."""
    light, (x, y, _) = scene.light, point
    point = np.stack([x, y, np.zeros_like(x)])
    up = np.array([[0], [0], [1]], dtype=np.float32)
    open_sky, lit = np.ones_like(x), np.ones(x.shape, dtype=bool)
    for solid in scene.solids:
        open_sky *= 1 - _occlusion(solid, point, up)
        lit &= ~occludes(solid, point, lamp)
    facing_camera = -scene.camera.axes[2, 2]
    strength = light.key * lit * lamp[2] + open_sky * (light.fill * facing_camera + light.ambient)
    reach = (x * x + np.square(np.maximum(y, 0) * 1.4)) / _REACH**2
    strength *= _FAR + (1 - _FAR) / (1 + reach)
    return strength[:, None] * scene.floor.astype(np.float32)


def _surface(
    scene: Scene, solid: Solid, direction: np.ndarray, point: np.ndarray, lamp: np.ndarray
) -> np.ndarray:
    """Return the linear light (n, 3) of points of a solid that rays in these directions hit."""
    light, normal = scene.light, normals(solid, point)
    lit, open_sky = np.ones(normal[2].shape, dtype=bool), 0.6 + 0.4 * normal[2]
    for other in scene.solids:
        if other is not solid:  # it shades only its own side that faces away
            lit &= ~occludes(other, point, lamp)
            open_sky *= 1 - _occlusion(other, point, normal)
    diffuse = lit * np.maximum(_dot(normal, lamp), 0)
    strength = (
        light.key * diffuse
        + light.fill * np.maximum(_dot(normal, -scene.camera.axes[2][:, None]), 0)
        + light.ambient * open_sky
    )
    # Blinn's highlight: the normal and the direction midway between eye and lamp.
    midway = lamp - direction / np.sqrt(_dot(direction, direction))
    shine = np.maximum(_dot(normal, midway), 0) / np.sqrt(_dot(midway, midway))
    highlight = solid.gloss * light.key * np.where(diffuse > 0, shine**_SHARPNESS, 0)
    return strength[:, None] * solid.colour.astype(np.float32) + highlight[:, None]


def normals(solid: Solid, points: np.ndarray) -> np.ndarray:
    """Return the unit normals at points of a solid's surface: both (3, n).

    The point is on the ball over whose axes its local coordinates are the longest. The normal of a
    unit ball over some axes is the point, restricted to these axes.
    """
    local = solid.to_local(points - solid.centre)
    balls = np.array([[k in axes for k in range(3)] for axes in BALLS[solid.shape]], np.float32)
    on = np.argmax([sum(local[k] * local[k] for k in axes) for axes in BALLS[solid.shape]], axis=0)
    return _turn(local * balls[on].T, solid.rotation)


def _turn(vectors: np.ndarray, angle: float) -> np.ndarray:
    """Rotate vectors about z by an angle in radians."""
    x, y, z = vectors
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return np.stack([c * x - s * y, s * x + c * y, z])


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=0)


def _occlusion(solid: Solid, point: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Return the fraction of the sky that a sphere of the solid's size hides: cos θ · r²/d² ≤ 1."""
    offset = solid.centre - point
    square = _dot(offset, offset)
    facing = np.maximum(_dot(normal, offset), 0)
    return np.minimum(facing * solid.half_size**2 / (square * np.sqrt(square)), 1)


def random_scene(
    names: Sequence[str], size: tuple[int, int], rng: np.random.Generator
) -> tuple[Scene, Rays]:
    """Draw a scene with one clearly visible solid per name, and cast its rays.

    Every solid is inside the image. At least MIN_VISIBLE of its outline is not hidden, and this
    part covers at least MIN_AREA · min(H, W)² pixels. Other scenes are drawn again.
    """
    while True:
        scene = _draw_scene(names, rng)
        corners = np.concatenate([solid.corners for solid in scene.solids], axis=1)
        inside = np.abs(scene.camera.project(corners)).max() < _MARGIN
        if not inside or not _apart(scene.solids):
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
