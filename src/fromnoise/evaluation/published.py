"""Published results, to be shown beside a result of the same protocol and nowhere else."""

from typing import Any, NamedTuple

WEIGHTS = "6726825d"  # how the SHA-256 of the published Inception weights begins


class Published(NamedTuple):
    """One row of a paper's table."""

    system: str
    source: str  # of the training images, which are the reference too
    count: int  # generated images
    conditional: bool
    fid: float
    inception_score: float | None
    how: str  # it was sampled


HEUN = "35 evaluations of Heun, the least of three draws"
RESULTS = (
    Published("Ho et al. 2020", "cifar10", 50_000, False, 3.17, 9.46, "1,000 ancestral steps"),
    Published(
        "Nichol and Dhariwal 2021, linear", "cifar10", 50_000, False, 2.90, None, "T = 4,000"
    ),
    Published(
        "Karras et al. 2022",
        "cifar10",
        50_000,
        False,
        1.97,
        None,
        HEUN,
    ),
    Published(
        "Karras et al. 2022",
        "cifar10",
        50_000,
        True,
        1.79,
        None,
        HEUN,
    ),
)


def published_beside(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The results whose protocol is that of `metrics.json`: data, split, count, features, EMA.

    How they were sampled differs and is said with each.
    """
    generated, reference, extractor = (record[k] for k in ("generated", "reference", "extractor"))
    if extractor["name"] != "inception" or not extractor["weights"].startswith(WEIGHTS):
        return []
    if generated.get("weights") != "ema" or "fid" not in record["scores"]:
        return []
    return [
        result._asdict()
        for result in RESULTS
        if (f"{result.source}, train", 50_000, [3, 32, 32])
        == (reference["what"], reference["count"], reference.get("shape"))
        and result.count == generated["count"]
        and result.conditional == generated.get("labels", "").startswith("those")
    ]
