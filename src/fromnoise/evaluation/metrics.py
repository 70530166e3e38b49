"""Compute scores of generated images against real ones, each with a 95 % interval.

FID, KID, Inception Score, precision and recall equal those of torch-fidelity. The intervals are
additions. Each docstring names what they cover: other generated images, other real ones, or both.
"""

import math
from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fromnoise.evaluation.intervals import (
    Interval,
    jackknife_error,
    share_interval,
    student_interval,
)

BLOCKS = 20  # disjoint ranges of seeds, for the jackknife
NEIGHBOURS = 3  # of precision and recall, as in Kynkäänniemi et al. 2019
SPLITS = 10  # of the Inception Score, as published
SUBSETS, SUBSET_SIZE = 100, 1000  # of KID, as in torch-fidelity
HALVINGS, CANDIDATES = 10, 64  # of the interval of precision and recall
CHUNK = 4096  # features in float64 at a time
ROWS = 2000  # of a distance matrix at a time: 400 MB with 50,000 images


def frechet_distance(
    mean_a: np.ndarray,
    cov_a: np.ndarray,
    mean_b: np.ndarray,
    cov_b: np.ndarray,
    *,
    root_b: np.ndarray | None = None,
) -> float:
    """Return the squared Fréchet (2-Wasserstein) distance between two Gaussians.

    d² = |μ_a − μ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½)

    Dowson & Landau 1982; as a score of generated images Heusel et al. 2017, Eq. 6, where, as
    here, "distance" stands for its square.

    mean_a, mean_b: (D,). cov_a, cov_b: (D, D), symmetric and positive semi-definite, possibly
    singular. root_b: the matrix root of cov_b, if it is known. The distance is ≥ 0, in the squared
    unit of the features.
    Raises ValueError: the shapes do not match.
    """
    mean_a, cov_a, mean_b, cov_b = (
        np.asarray(of, dtype=np.float64) for of in (mean_a, cov_a, mean_b, cov_b)
    )
    d = mean_b.size
    if not mean_a.shape == mean_b.shape == (d,) or not cov_a.shape == cov_b.shape == (d, d):
        raise ValueError(
            f"the shapes {mean_a.shape}, {cov_a.shape}, {mean_b.shape}, {cov_b.shape} do not "
            "match. Give means (D,) and covariances (D, D) of one D."
        )
    # Σ_a Σ_b has the eigenvalues of Σ_b^½ Σ_a Σ_b^½, which is symmetric, so they are real, and the
    # trace of the matrix root is the sum of their roots.
    root_b = symmetric_root(cov_b) if root_b is None else root_b
    eigenvalues = np.linalg.eigvalsh(root_b @ cov_a @ root_b)
    trace_of_root = np.sqrt(eigenvalues.clip(min=0)).sum()
    squared = np.square(mean_a - mean_b).sum() + np.trace(cov_a) + np.trace(cov_b)
    return max(0.0, float(squared - 2 * trace_of_root))


def symmetric_root(matrix: np.ndarray) -> np.ndarray:
    """Return the root of a symmetric positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T  # rounding makes some values < 0


class Moments(NamedTuple):
    """The count, mean and scatter matrix of a set of features."""

    n: int  # features in the set
    mean: np.ndarray  # float64 (D,)
    scatter: np.ndarray  # float64 (D, D): Σ (x − mean)(x − mean)ᵀ

    @property
    def covariance(self) -> np.ndarray:
        """Return scatter/(n − 1), without bias: (D, D)."""
        return self.scatter / (self.n - 1)


def moments_of(features: np.ndarray) -> Moments:
    """Return the moments of features (N, D) of any real dtype, summed in float64.

    Raises ValueError: features are not (N, D) with N ≥ 2, or not all finite.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features have shape {features.shape}. Give (N, D) with N ≥ 2.")
    parts = (features[i : i + CHUNK] for i in range(0, len(features), CHUNK))
    return reduce(_merge_two, (_chunk_moments(part.astype(np.float64)) for part in parts))


def merge_moments(*parts: Moments) -> Moments:
    """Return the moments of the union of sets (Chan, Golub and LeVeque 1979, Eq. 2.1)."""
    return reduce(_merge_two, parts)


def subtract_moments(whole: Moments, part: Moments) -> Moments:
    """Return the moments of `whole` without its subset `part`: `merge_moments` inverted."""
    n = whole.n - part.n
    mean = whole.mean + (whole.mean - part.mean) * (part.n / n)
    shift = part.mean - mean
    scatter = whole.scatter - part.scatter - np.outer(shift, shift) * (n * part.n / whole.n)
    return Moments(n, mean, scatter)


def _chunk_moments(x: np.ndarray) -> Moments:
    mean = x.mean(axis=0)
    if not np.isfinite(mean).all():
        broken = int((~np.isfinite(x)).any(axis=1).sum())
        raise ValueError(f"{broken} of {len(x)} features are NaN or infinite. Check the extractor.")
    x -= mean
    return Moments(len(x), mean, x.T @ x)


def _merge_two(a: Moments, b: Moments) -> Moments:
    n, shift = a.n + b.n, b.mean - a.mean
    scatter = a.scatter + b.scatter + np.outer(shift, shift) * (a.n * b.n / n)
    return Moments(n, a.mean + shift * (b.n / n), scatter)


class FrechetScores(NamedTuple):
    """The scores of `frechet_scores`."""

    fid: Interval
    at_infinity: Interval  # FID∞
    left_out: np.ndarray  # float64 (G,): FID without each of the G blocks


def blocks_of(features: np.ndarray) -> list[Moments]:
    """Return the moments of the blocks of features (N, D): consecutive rows."""
    return [moments_of(block) for block in np.array_split(features, BLOCKS)]


def frechet_scores(
    blocks: Sequence[Moments], mean: np.ndarray, covariance: np.ndarray
) -> FrechetScores:
    """Return FID of N images, and FID∞, its limit for N → ∞.

    N images overstate the distance by about c/N (Chong & Forsyth 2020, arXiv:1911.07023). The
    jackknife leaves out each of G disjoint blocks in turn, and estimates that bias and the standard
    error (Efron & Stein 1981):

        FID∞ = G·FID − (G−1)·mean_g FID₍₋g₎,   se² = (G−1)/G · Σ_g (FID₍₋g₎ − mean)²

    The intervals are Student's with G−1 degrees of freedom, over other generated images; the real
    ones are fixed. That of FID covers the mean of N images, that of FID∞ the limit. On Gaussians
    with 3 to 100 images for each of D features, the simulated coverage is 94 to 98 %, and up to
    99 % if the distance is 0. With fewer images the bias is not c/N, and FID∞ is wrong. FID∞ of a
    distance near 0 can be negative; the interval of FID is cut at 0.

    blocks: the moments of G ≥ 2 disjoint sets of about equal size. mean, covariance: of the real
    images, (D,) and (D, D).
    """
    everything = merge_moments(*blocks)
    parts = [everything, *(subtract_moments(everything, block) for block in blocks)]
    root = symmetric_root(covariance)
    fid, *rest = (
        frechet_distance(of.mean, of.covariance, mean, covariance, root_b=root) for of in parts
    )
    left_out, G = np.array(rest), len(blocks)
    error = jackknife_error(left_out)
    unbiased = float(G * fid - (G - 1) * left_out.mean())
    of_n, at_infinity = (student_interval(value, error, G) for value in (fid, unbiased))
    return FrechetScores(of_n._replace(low=max(0.0, of_n.low)), at_infinity, left_out)


def ratio(a: tuple[float, np.ndarray], b: tuple[float, np.ndarray]) -> Interval:
    """Return a/b of two sets whose blocks are paired, as those of the same seeds.

    Common noise cancels: se(log a/b) is the jackknife's of log a₍₋g₎ − log b₍₋g₎, so the interval
    is narrower than those of a and b suggest. It is over other seeds, and covers the mean ratio of
    so many images, whose bias moves it towards 1. NaN if a distance is 0.

    a, b: the FID of each set, and its `left_out`.
    """
    (fid_a, left_a), (fid_b, left_b) = a, b
    if min(fid_a, fid_b, *left_a, *left_b) <= 0:
        return Interval()
    error = jackknife_error(np.log(left_a) - np.log(left_b))
    logs = student_interval(math.log(fid_a / fid_b), error, len(left_a))
    return Interval(*map(math.exp, logs))


def kernel_distance(generated: np.ndarray, real: np.ndarray) -> Interval:
    """Return KID: the squared MMD under the kernel k(x, y) = (x·y/D + 1)³, without bias.

    Bińkowski et al. 2018, arXiv:1801.01401; the mean over 100 subsets of 1,000 images, or of all
    images of a smaller set. The interval is over other images in both sets: Student's, with the
    jackknife's standard error of the same estimate from all images at once, plus that of the
    subsets.

    generated, real: float (N, D) and (M, D); N, M ≥ 2 · BLOCKS. The blocks of `generated` are
    consecutive rows; `real` may have any order.
    """
    from torch_fidelity import metric_kid

    result = metric_kid.kid_features_to_metric(
        torch.from_numpy(np.array(generated)),
        torch.from_numpy(np.array(real)),
        kid_subsets=SUBSETS,
        kid_subset_size=min(SUBSET_SIZE, len(generated), len(real)),
        verbose=False,
    )
    x, y = np.array_split(generated, BLOCKS), np.array_split(real[fixed_order(len(real))], BLOCKS)
    xx, yy, xy = _kernel_sums(x, x), _kernel_sums(y, y), _kernel_sums(x, y)

    def mmd(kept: np.ndarray) -> float:
        """Return MMD² of the blocks that are kept, without pairs of an image and itself."""
        n, m = (sum(len(blocks[i]) for i in kept) for blocks in (x, y))
        pairs = np.ix_(kept, kept)
        among = xx[pairs].sum() / (n * (n - 1)) + yy[pairs].sum() / (m * (m - 1))
        return float(among - 2 * xy[pairs].sum() / (n * m))

    everything = np.arange(BLOCKS)
    left_out = np.array([mmd(np.delete(everything, g)) for g in everything])
    of_subsets = result[metric_kid.KEY_METRIC_KID_STD] / math.sqrt(SUBSETS)
    error = math.hypot(jackknife_error(left_out), of_subsets)
    return student_interval(result[metric_kid.KEY_METRIC_KID_MEAN], error, BLOCKS)


def fixed_order(n: int) -> np.ndarray:
    """Return a fixed random order of n images, so that blocks are not the classes of a folder."""
    return np.random.default_rng(0).permutation(n)


def _kernel_sums(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> np.ndarray:
    """Return Σ k(x, y) over x in each block of a and y in each block of b, x ≠ y: (G, G)."""

    def total(x: np.ndarray, y: np.ndarray) -> float:
        k = (x @ y.T / x.shape[1] + 1) ** 3
        return k.sum(dtype=np.float64) - (np.trace(k, dtype=np.float64) if x is y else 0)

    return np.array([[total(x, y) for y in b] for x in a])


def inception_score(logits: np.ndarray) -> Interval:
    """Return IS: exp of the mean KL(p(y|x) ‖ p(y)), the mean over 10 splits.

    Salimans et al. 2016, arXiv:1606.03498. The interval is Student's over the splits.

    logits: float (N, K) of a classifier, N ≥ 10.
    """
    from torch_fidelity.metric_isc import isc_features_to_metric

    score = isc_features_to_metric(torch.from_numpy(logits), splits=SPLITS)
    error = score["inception_score_std"] / math.sqrt(SPLITS - 1)
    return student_interval(score["inception_score_mean"], error, SPLITS)


def precision_and_recall(generated: np.ndarray, real: np.ndarray) -> tuple[Interval, Interval]:
    """Return the share of generated images among the real ones, and of real among the generated.

    An image is among a set if it is no farther from one of its members than the third nearest other
    member is (Kynkäänniemi et al. 2019, arXiv:1904.06991). Both depend on the sizes of the sets.
    The intervals are over other generated and other real images, for sets of these sizes; see
    `_share_among`.

    generated, real: float (N, D) and (M, D); N, M ≥ 2 · BLOCKS.
    """
    x, y = torch.from_numpy(np.array(generated)), torch.from_numpy(np.array(real))
    return _share_among(x, y), _share_among(y, x)


def _share_among(points: Tensor, members: Tensor) -> Interval:
    """Return the share R of M points that lie in the balls of N members, with its interval.

    Given the members, R is a mean of M independent numbers; over other members it varies by V:

        var R = R (1−R) / M + V,   V = ¼ E [(R_1 − R_2)² − its part due to the points],

    R_1 and R_2 by the two halves of the members, each with the balls of its own, in 10 random
    halvings. The halves are independent, and V falls as 1/N. Neither a bootstrap nor the jackknife
    works here: the former has neighbours at distance 0, and the latter makes V two to nine times as
    large. The interval is Wilson's of the number of points that has this variance, with Student's
    quantile: V is mostly due to the few members whose balls have many points to themselves.

    Simulated with Gaussians in 2, 6 and 32 dimensions, sets of 200 and 600 and R of 0.2 to 0.99, it
    contains the mean R in 92 to 99 of 100 pairs of new sets.
    """
    m, n = len(points), len(members)
    orders = np.random.default_rng(0).permuted(np.tile(np.arange(n), (HALVINGS, 1)), axis=1)
    halves = torch.from_numpy(orders < n // 2)  # (HALVINGS, N)
    radii, radii_in_half = _radii(members, halves)
    among, alone = [], torch.zeros(n)  # alone: points in no other ball than that of a member
    difference, noise = torch.zeros(HALVINGS), torch.zeros(HALVINGS)
    for part in points.split(ROWS):
        apart = distances(part, members, rows=ROWS)
        inside = apart <= radii
        among.append(inside.any(dim=1))
        alone += inside[inside.sum(dim=1) == 1].sum(dim=0)
        for i, (half, radius) in enumerate(zip(halves, radii_in_half, strict=True)):
            inside = apart <= radius
            of_each = (inside & half).any(dim=1).int() - (inside & ~half).any(dim=1).int()
            difference[i] += of_each.sum()
            noise[i] += of_each.abs().sum()
    share = torch.cat(among).float().mean().item()
    variance = (difference.square() - noise).mean().item() / (4 * m * (m - 1))
    effective = float(alone.square().sum() ** 2 / alone.pow(4).sum()) if alone.any() else n
    # the spread of a share of 0 or 1 is not 0 either (Agresti & Coull 1998)
    smoothed = (share * m + 2) / (m + 4)
    spread = smoothed * (1 - smoothed)
    return share_interval(share, spread / (spread / m + max(variance, 0)), freedom=1 + effective)


def _radii(members: Tensor, halves: Tensor) -> tuple[Tensor, Tensor]:
    """Return each member's distance to the third nearest other one: (N,), in its half (·, N)."""
    radii, in_half = [], []
    for part, sides in zip(members.split(ROWS), halves.split(ROWS, dim=1), strict=True):
        to_all = distances(part, members, rows=ROWS)
        nearest = to_all.topk(min(CANDIDATES, len(members)), largest=False)
        radii.append(nearest.values[:, NEIGHBOURS])  # itself is the first
        same = halves[:, nearest.indices] == sides[:, :, None]  # (HALVINGS, part, CANDIDATES)
        third = (same.cumsum(dim=2) == NEIGHBOURS + 1).int().argmax(dim=2)
        in_half.append(nearest.values.gather(1, third.T).T)
    return torch.cat(radii), torch.cat(in_half, dim=1)


def distances(a: Tensor, b: Tensor, *, rows: int) -> Tensor:
    """Return Euclidean distances (…, N, M), computed for so many rows of b at a time."""
    return torch.cat([torch.cdist(a, part) for part in b.split(rows)], dim=-1)
