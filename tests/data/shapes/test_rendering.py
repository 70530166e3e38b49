import numpy as np
import pytest

from fromnoise.data.shapes import rendering as scenes
from fromnoise.data.shapes.rendering import (
    BALLS,
    COLOURS,
    FLOOR,
    GRID,
    MIN_AREA,
    MIN_VISIBLE,
    NAMES,
    Camera,
    Light,
    Scene,
    Solid,
    cast,
    intersect,
    normals,
    occludes,
    random_scene,
    shade,
    to_linear,
    to_srgb,
)

INSIDE = {  # an independent definition of the shapes
    "cube": lambda x, y, z: np.maximum(np.maximum(abs(x), abs(y)), abs(z)) < 1,
    "sphere": lambda x, y, z: x * x + y * y + z * z < 1,
    "cylinder": lambda x, y, z: (np.hypot(x, y) < 1) & (abs(z) < 1),
}


def solid(shape: str, x: float = 0.3, y: float = -0.2, **options) -> Solid:
    defaults = {"half_size": 0.8, "rotation": 0.4, "gloss": 0.3}
    defaults |= {"colour": np.array([0.8, 0.1, 0.1])}
    return Solid(shape=shape, x=x, y=y, **(defaults | options))


def is_inside(a: Solid, points: np.ndarray) -> np.ndarray:  # (..., 3) -> (...)
    x, y, z = np.moveaxis(points - [a.x, a.y, a.half_size], -1, 0) / a.half_size
    c, s = np.cos(a.rotation), np.sin(a.rotation)
    return INSIDE[a.shape](c * x + s * y, c * y - s * x, z)


def rays(count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Origins around a solid, and unit directions roughly towards it: (3, count) each."""
    rng = np.random.default_rng(0)
    origin = rng.normal(size=(3, count))
    origin = (4 * origin / np.linalg.norm(origin, axis=0)).astype(np.float32)
    way = rng.uniform(-1, 1, (3, count)) - origin + [[0.3], [-0.2], [0.8]]
    return origin, (way / np.linalg.norm(way, axis=0)).astype(np.float32)


def some_scene(names=("red cube", "blue sphere", "yellow cylinder"), size=(32, 32), seed=0):
    return random_scene(names, size, np.random.default_rng(seed))


@pytest.mark.parametrize("shape", BALLS)
def test_rays_enter_and_leave_where_small_steps_do(shape):
    a, (origin, direction) = solid(shape), rays()
    t = np.arange(0, 8, 0.005)
    inside = is_inside(a, (origin[..., None] + direction[..., None] * t).transpose(1, 2, 0))
    enter, leave = intersect(a, origin, direction)
    met = enter < leave
    assert 100 < met.sum() < 390
    short = met & (leave - enter < 0.02)  # shorter than a few steps
    np.testing.assert_array_equal(met[~short], inside.any(axis=1)[~short])
    clear = met & ~short
    np.testing.assert_allclose(enter[clear], t[inside.argmax(axis=1)][clear], atol=0.006)
    np.testing.assert_allclose(
        leave[clear], t[-1 - inside[:, ::-1].argmax(axis=1)][clear], atol=0.006
    )


@pytest.mark.parametrize("shape", BALLS)
@pytest.mark.parametrize("axis", range(3))
def test_rays_along_an_axis_divide_by_nothing(shape, axis):
    a = solid(shape, 0, 0, rotation=0)
    way = np.zeros((3, 2), np.float32)
    way[axis] = 1
    origin = -3 * way + [[0], [0], [0.8]]
    origin[(axis + 1) % 3, 1] += 2  # the second passes by
    enter, leave = intersect(a, origin.astype(np.float32), way)
    np.testing.assert_allclose([enter[0], leave[0]], [2.2, 3.8], atol=1e-5)
    assert not enter[1] < leave[1]


def test_what_lies_behind_blocks_nothing():
    a = solid("cube", 0, 0)
    origin, right = np.float32([[3], [0], [0.5]]), np.float32([[1], [0], [0]])
    assert occludes(a, origin, -right)
    assert not occludes(a, origin, right)


@pytest.mark.parametrize("shape", BALLS)
def test_normals_are_unit_and_point_out(shape):
    a, (origin, direction) = solid(shape), rays()
    enter, leave = intersect(a, origin, direction)
    at = enter + 0.02 < leave
    origin, direction = origin[:, at], direction[:, at]
    point = origin + enter[at] * direction
    normal = normals(a, point)
    np.testing.assert_allclose(np.linalg.norm(normal, axis=0), 1, atol=1e-3)
    assert (np.sum(normal * direction, axis=0) < 0).all()
    assert not is_inside(a, (point + 0.002 * normal).T).any()
    assert is_inside(a, (point - 0.002 * normal).T).mean() > 0.99  # except at the edges


@pytest.mark.parametrize("size", [(20, 20), (16, 40), (40, 16)])
def test_the_camera_projects_points_to_the_rays_that_meet_them(size):
    camera = Camera(elevation=0.6, distance=12, aim=(0.1, 0.5), field=0.27)
    found = cast((), camera, size)
    assert (found.ids == FLOOR).all()
    near = found.distance < 100  # not in the sky
    points = camera.eye + found.distance[near] * found.direction[:, near]
    np.testing.assert_allclose(points[2], 0, atol=1e-4)
    at = (camera.project(points).T * min(size) + size[::-1]) * GRID / 2
    row, column = np.nonzero(near)
    np.testing.assert_allclose(at, np.stack([column, row], -1) + 0.5, atol=1e-2)


def test_the_nearest_solid_hides_the_others_in_any_order():
    camera = Camera(elevation=0.6, distance=12, aim=(0, 0), field=0.27)
    front, back = solid("sphere", 0, -1), solid("cube", 0, 1.5)
    for solids, number in (((front, back), 0), ((back, front), 1)):
        found = cast(solids, camera, (32, 32))
        assert found.visible[number] == found.outline[number]
        assert 0 < found.visible[1 - number] < found.outline[1 - number]


def test_shadows_fall_away_from_the_lamp_and_are_soft():
    camera = Camera(elevation=1.2, distance=12, aim=(0, 0), field=0.27)
    way = np.array([-0.6, -0.3, 0.74])
    light = Light(way / np.linalg.norm(way), radius=0.1, key=0.9, fill=0.2, ambient=0.3)
    floor = np.full(3, 0.5)
    empty, full = (
        shade(Scene(solids, camera, light, floor), cast(solids, camera, (64, 64))).astype(int)
        for solids in ((), (solid("cylinder", 0, 0),))
    )

    def darker(x: float, y: float) -> int:
        column, row = (camera.project(np.array([[x], [y], [0]]))[:, 0] + 1) * 32
        return int((empty - full)[int(row), int(column)].mean())

    assert darker(1.0, 0.5) > 60
    assert 3 < darker(-1.2, -0.6) < 25  # less of the sky, but no shadow
    assert darker(2.8, -2.5) < 3
    row = (empty - full)[int((camera.project(np.array([[0], [0.5], [0]]))[1, 0] + 1) * 32), 40:, 0]
    assert ((row > 10) & (row < 60)).sum() >= 2  # neither in the light nor in the dark


def test_srgb_goes_both_ways():
    values = np.linspace(0, 1, 256)
    np.testing.assert_allclose(to_srgb(to_linear(values)), values, atol=1e-6)
    assert to_linear(np.array(0.5)) == pytest.approx(0.2140, abs=1e-4)


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (24, 48)])
def test_everything_named_is_clearly_visible(size):
    rng = np.random.default_rng(5)
    hidden = 0
    for seed in range(40):
        names = rng.choice(NAMES, 1 + seed % 3, replace=False)
        scene, found = some_scene(names, size, seed)
        assert [a.shape for a in scene.solids] == [name.split()[1] for name in names]
        for i, a in enumerate(scene.solids):
            alone = (cast([a], scene.camera, size).ids == 0).sum()
            seen = (found.ids == i).sum()
            assert seen >= MIN_VISIBLE * alone
            assert seen >= MIN_AREA * min(size) ** 2 * GRID**2
            hidden += bool(seen < alone)
        edge = np.concatenate([found.ids[0], found.ids[-1], found.ids[:, 0], found.ids[:, -1]])
        assert (edge == FLOOR).all()
    assert hidden > 5  # there is something to limit


def test_nothing_is_too_small(monkeypatch):
    monkeypatch.setattr(scenes, "MIN_AREA", 0.1)  # the usual limit is met by nearly all
    for seed in range(10):
        _, found = some_scene(("red cube", "blue sphere"), (32, 32), seed)
        assert min(found.visible) >= 0.1 * (32 * GRID) ** 2


@pytest.mark.slow
def test_colours_are_distinct_at_32_pixels():
    rng = np.random.default_rng(6)
    palette = np.array(list(COLOURS.values()))
    right = []
    for seed in range(60):
        names = rng.choice(NAMES, 3, replace=False)
        scene, found = some_scene(names, (32, 32), seed)
        image = shade(scene, found).astype(float)
        pixels = found.ids.reshape(32, GRID, 32, GRID)
        for i, name in enumerate(names):
            mean = image[(pixels == i).any(axis=(1, 3))].mean(axis=0)  # with its blurred edge
            nearest = np.square(palette - mean).sum(axis=1).argmin()
            right.append(list(COLOURS)[nearest] == name.split()[0])
    assert np.mean(right) >= 0.95


def test_a_scene_is_a_function_of_its_randomness():
    same = [shade(*some_scene(seed=3)) for _ in range(2)]
    np.testing.assert_array_equal(*same)
    assert same[0].shape == (32, 32, 3)
    assert same[0].dtype == np.uint8
    assert (shade(*some_scene(seed=4)) != same[0]).any()


def test_pictures_do_not_change_between_versions():
    """Sets that were rendered before are compared with new ones."""
    image = shade(*some_scene(seed=3))
    expected = [[150, 135, 69], [50, 88, 235], [125, 143, 255], [62, 95, 236]]
    np.testing.assert_allclose(image[16, 10:22:3], expected, rtol=0, atol=1)
    assert image.mean(dtype=float) == pytest.approx(427937 / image.size, abs=0.01)
