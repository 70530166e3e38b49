"""Non-leaky augmentation: transform images at random, and tell the network how.

Karras et al. 2022 (arXiv:2206.00364), appendix F.2. The parameters of the transformation are
further columns of the network's condition. With zeros, as in sampling, the network draws images
that are not transformed: the transformations do not leak into the samples.

The parameters of an image are a_0 … a_7; those of a transformation that it does not get are 0:

    x_flip       a_0 ∈ {0, 1}          mirror left and right                    column a_0
    y_flip       a_1 ∈ {0, 1}          mirror top and bottom                    column a_1
    scaling      a_2 ~ N(0, 1)         by 2^(a_2/5)                             column a_2
    rotation     a_3 ~ U(−π, π)        by the angle a_3                         cos a_3 − 1, sin a_3
    anisotropy   a_4 ~ U(−π, π),       by 2^(a_5/5) in the direction a_4,       a_5 cos 2a_4,
                 a_5 ~ N(0, 1)         by 2^(−a_5/5) across it                  a_5 sin 2a_4
    translation  a_6, a_7 ~ N(0, 1)    by a_6 · W/8 and a_7 · H/8               a_6, a_7

The columns determine the transformation. For that the angle of anisotropy is doubled, where the
paper has a_5 cos a_4 and a_5 sin a_4: the direction a_4 + π is a_4, so stretching along a_4 and
compressing along it would have the same columns. The paper mirrors half of the images left and
right; here that is a transformation like the others.
"""

import math
from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fromnoise.rng import BatchDraws

COLUMNS: dict[str, tuple[str, ...]] = {
    "x_flip": ("x_flip",),
    "y_flip": ("y_flip",),
    "scaling": ("scaling",),
    "rotation": ("rotation, cos - 1", "rotation, sin"),
    "anisotropy": ("anisotropy, cos", "anisotropy, sin"),
    "translation": ("translation, x", "translation, y"),
}
OWNER = np.array([0, 1, 2, 3, 4, 4, 5, 5])  # the transformation of each parameter
SCALE = 0.2 * math.log(2)  # of one standard deviation, as a logarithm
SHIFT = 1 / 8  # of the side
SMALLEST = 8  # pixels; the filter is 6 wide
LOBES = 3  # of the filter, on each side


def columns_of(names: Collection[str]) -> tuple[str, ...]:
    """Return the names of the columns of some transformations, in the order of `COLUMNS`."""
    return tuple(column for name, own in COLUMNS.items() if name in names for column in own)


def parameters(draws: BatchDraws, p: float, names: Collection[str]) -> np.ndarray:
    """Return a_0 … a_7 of each image, float64 (B, 8).

    Each transformation of `names` is applied with probability p, independently. Its parameters do
    not depend on the other transformations.
    """
    u = draws.uniform("augment", 14)
    coins, flips, angles, normal = u[:, :6], u[:, 6:8], u[:, 8:10], u[:, 10:]
    # two of each two (Box and Muller 1958)
    radius, turn = np.sqrt(-2 * np.log1p(-normal[:, ::2])), 2 * np.pi * normal[:, 1::2]
    (a2, a6), (a5, a7) = (radius * np.cos(turn)).T, (radius * np.sin(turn)).T
    a3, a4 = (np.pi * (2 * angles - 1)).T
    a = np.stack([*(flips < 0.5).T, a2, a3, a4, a5, a6, a7], axis=1)
    applied = (coins < p) & np.array([name in names for name in COLUMNS])
    return np.where(applied[:, OWNER], a, 0.0)


def condition(a: np.ndarray, names: Collection[str]) -> Tensor:
    """Return the columns of the parameters (B, 8), in the order of `columns_of`: float32 (B, A)."""
    a0, a1, a2, a3, a4, a5, a6, a7 = a.T
    of = {
        "x_flip": [a0],
        "y_flip": [a1],
        "scaling": [a2],
        "rotation": [np.cos(a3) - 1, np.sin(a3)],
        "anisotropy": [a5 * np.cos(2 * a4), a5 * np.sin(2 * a4)],
        "translation": [a6, a7],
    }
    columns = [column for name, own in of.items() if name in names for column in own]
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))


def matrices(a: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return where a point of the image goes, without the flips: float64 (B, 3, 3).

    Scaled, then rotated, then stretched, then shifted. A point is (x, y, 1), in pixels from the
    centre of the image, x to the right and y down. a: (B, 8). size: (H, W).
    """
    _, _, a2, a3, a4, a5, a6, a7 = a.T
    (height, width), zeros, ones = size, np.zeros(len(a)), np.ones(len(a))

    def each(*rows: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)

    scale, cos, sin = np.exp(SCALE * a2), np.cos(a3), np.sin(a3)
    turned = each((scale * cos, -scale * sin, zeros), (scale * sin, scale * cos, zeros))
    mean, half = np.cosh(SCALE * a5), np.sinh(SCALE * a5)  # of the two factors: e^x and e^−x
    cos, sin = half * np.cos(2 * a4), half * np.sin(2 * a4)
    stretched = each((mean + cos, sin), (sin, mean - cos)) @ turned
    stretched[:, :, 2] += SHIFT * np.stack([width * a6, height * a7], axis=-1)
    return np.concatenate([stretched, each((zeros, zeros, ones))], axis=1)


def resample(images: Tensor, matrix: np.ndarray, background: Tensor) -> Tensor:
    """Move each point of each image by the matrix of the image: (B, C, H, W) of the same type.

    The result is interpolated (bicubic) at twice its resolution, and then filtered and reduced to
    its own. Details that are too fine are filtered out, at any angle and down to half the size.

    images: uint8 (B, C, H, W), or floats in [−1, 1]. matrix: see `matrices`. background: outside of
    the image, (C,) of the same type. An image does not depend on the others.
    """
    height, width = images.shape[2:]
    margin = 2 * LOBES - 1  # pixels of the doubled image that the filter needs at each side
    # positions of the doubled image, in pixels from the centre
    x, y = (
        (torch.arange(-margin, 2 * side + margin) + 0.5) / 2 - side / 2 for side in (width, height)
    )
    x, y = x[None, None, :], y[None, :, None]
    back = torch.from_numpy(np.linalg.inv(matrix)).float()[..., None, None]
    (xx, xy, x0), (yx, yy, y0) = (back[:, row].unbind(1) for row in (0, 1))
    grid = torch.stack(
        [(xx * x + xy * y + x0) * (2 / width), (yx * x + yy * y + y0) * (2 / height)], dim=-1
    )  # of the image, whose edges are −1 and 1
    behind = background.float()[:, None, None]
    fine = F.grid_sample(images.float() - behind, grid, "bicubic", "zeros", align_corners=False)
    halved = _halved(_halved(fine, 3, width), 2, height) + behind
    if images.is_floating_point():
        return halved.clamp_(-1, 1)
    return halved.round_().clamp_(0, 255).to(torch.uint8)


def _halved(x: Tensor, dim: int, size: int) -> Tensor:
    """Filter a dimension, which has a margin for the filter, and return every second point.

    Lanczos's filter: sinc(d) sinc(d/3) of the distance d in pixels of the result. Its numbers are
    summed in a fixed order, so that a result does not depend on the batch.
    """
    taps = 4 * LOBES
    distance = (torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2) / 2
    weights = torch.sinc(distance) * torch.sinc(distance / LOBES)
    weights = (weights / weights.sum()).tolist()
    step: list[slice] = [slice(None)] * x.ndim
    total = torch.zeros(())
    for k, weight in enumerate(weights):
        step[dim] = slice(k, k + 2 * size - 1, 2)
        total = total + weight * x[tuple(step)]
    return total


def augment(images: Tensor, a: np.ndarray, background: np.ndarray) -> Tensor:
    """Transform each image by its parameters, in place: uint8 (B, C, H, W), or floats in [−1, 1].

    a: (B, 8). background: (C,) of the same type. An image whose parameters are 0 stays as it is,
    bit for bit, and a flip moves pixels without a change.
    """
    pixels = images.numpy()
    for column, dim in ((0, -1), (1, -2)):
        flipped = a[:, column] != 0
        pixels[flipped] = np.flip(pixels[flipped], axis=dim)
    moved = (a[:, [2, 3, 5, 6, 7]] != 0).any(axis=1)
    if moved.any():
        size = images.shape[2], images.shape[3]
        rows = torch.from_numpy(moved.nonzero()[0])
        images[rows] = resample(
            images[rows], matrices(a[moved], size), torch.from_numpy(background)
        )
    return images
