from typing import NamedTuple

import numpy as np
import pytest
import torch

from fromnoise.classifier.label_scores import SCORES, LabelPredictions, score_ratios, scores
from fromnoise.evaluation.intervals import Interval, score_with_intervals, scores_per_label

hypothesis = pytest.importorskip("hypothesis")
given, st = hypothesis.given, hypothesis.strategies

NAN = float("nan")


class Case(NamedTuple):
    predictions: LabelPredictions
    targets: np.ndarray
    condition: np.ndarray

    def take(self, images=slice(None), labels=slice(None)) -> "Case":
        predictions = LabelPredictions(*(part[images][:, labels] for part in self.predictions))
        return Case(predictions, self.targets[images][:, labels], self.condition[images])


@st.composite
def cases(draw) -> Case:
    """Draw few images and labels: many ties, many undefined scores."""
    n, k = draw(st.integers(1, 6)), draw(st.integers(1, 5))

    def array(values, dtype):
        return np.array(draw(st.lists(values, min_size=n * k, max_size=n * k)), dtype).reshape(n, k)

    probability = array(st.sampled_from([0, 0.25, 0.5, 1]), draw(st.sampled_from(["f4", "f8"])))
    targets = array(st.sampled_from([-1, 0, 1]), np.int8)
    condition = draw(st.lists(st.integers(-3, 2), min_size=n, max_size=n))
    return Case(
        LabelPredictions(probability, array(st.booleans(), bool)), targets, np.array(condition)
    )


def random_case(n: int, k: int, num_conditions: int, *, seed: int = 0) -> Case:
    """Return random targets for each condition and predictions that are right 4 times in 5."""
    rng = np.random.default_rng(seed)
    condition = rng.integers(num_conditions, size=n)
    targets = rng.choice([-1, 0, 1], size=(num_conditions, k), p=[0.5, 0.2, 0.3])[condition]
    right = rng.random((n, k)) < 0.8
    present = np.where(right, targets > 0, targets <= 0)
    probability = (present + rng.random((n, k))) / 2
    return Case(LabelPredictions(probability, present), targets.astype(np.int8), condition)


def one_label_case(present: np.ndarray, condition: np.ndarray, target: int = 1) -> Case:
    """One label with one target for all images; with target +1, `recall` is the share present."""
    flags = np.asarray(present, dtype=bool)[:, None]
    return Case(
        LabelPredictions(flags.astype(float), flags), np.full(flags.shape, target), condition
    )


def slow_scores(case: Case) -> dict[str, float]:
    hits = k = tp = fp = fn = labelled = exact = negated = extra = 0
    probability, present = (part.tolist() for part in case.predictions)
    for p, predicted, target in zip(probability, present, case.targets.tolist(), strict=True):
        labels = range(len(target))
        positive = {j for j in labels if target[j] == 1}
        negative = {j for j in labels if target[j] == -1}
        found = {j for j in labels if predicted[j]}
        hits += len(positive & set(sorted(labels, key=lambda j: (-p[j], j))[: len(positive)]))
        k += len(positive)
        tp += len(positive & found)
        fn += len(positive - found)
        fp += len(negative & found)
        if positive or negative:
            labelled += 1
            exact += positive <= found and not negative & found
        if negative:
            negated += 1
            extra += bool(negative & found)

    def share(a, b):
        return a / b if b else NAN

    return {
        "recall_at_k": share(hits, k),
        "precision": share(tp, tp + fp),
        "recall": share(tp, tp + fn),
        "f1": share(2 * tp, 2 * tp + fp + fn),
        "exact_match": share(exact, labelled),
        "extra": share(extra, negated),
    }


def slow_bootstrap(numerator, denominator, condition, resamples, *, seed) -> np.ndarray:
    """Run the two stages naively, one resampled condition after the other → (2.5 %, 97.5 %)."""
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(condition == c) for c in np.unique(condition)]
    drawn = []
    for _ in range(resamples):
        chosen = [members[i] for i in rng.integers(len(members), size=len(members))]
        images = np.concatenate([m[rng.integers(len(m), size=len(m))] for m in chosen])
        if denominator[images].sum():
            drawn.append(numerator[images].sum() / denominator[images].sum())
    return np.percentile(drawn, [2.5, 97.5])


# --- the scores


def test_a_case_counted_by_hand():
    case = Case(
        LabelPredictions(
            np.array([[0.9, 0.8, 0.1, 0.7], [0.2, 0.6, 0.9, 0.1], [0.9, 0.1, 0.9, 0.3]]),
            np.array([[1, 1, 0, 1], [0, 1, 1, 0], [1, 0, 1, 0]], dtype=bool),
        ),
        np.array([[1, 1, -1, -1], [1, 1, 0, -1], [0, -1, 1, -1]]),
        np.arange(3),
    )
    # Hits: both of {0, 1}; of {2, 1} only 1; of the tie of 0 and 2 the first, which is open.
    # Image 0: 2 TP, 1 FP. Image 1: 1 TP, 1 FN, as 2 is open. Image 2: 1 TP, as 0 is open.
    expected = {
        "recall_at_k": 3 / 5,
        "precision": 4 / 5,
        "recall": 4 / 5,
        "f1": 8 / 10,
        "exact_match": 1 / 3,
        "extra": 1 / 3,
    }
    assert scores(score_ratios(*case[:2])) == pytest.approx(expected)


@given(cases())
def test_the_scores_equal_a_slow_restatement(case):
    found = scores(score_ratios(*case[:2]))
    assert tuple(found) == SCORES
    assert found == pytest.approx(slow_scores(case), abs=0, nan_ok=True)
    intervals = score_with_intervals(*case, resamples=5)
    assert {name: i.value for name, i in intervals.items()} == pytest.approx(found, nan_ok=True)


def test_recall_at_k_is_that_of_torch_topk():
    (probability, _), targets, _ = case = random_case(200, 24, 32)
    hits = total = 0
    for p, target in zip(torch.from_numpy(probability), torch.from_numpy(targets), strict=True):
        k = int((target == 1).sum())
        hits += int((target[p.topk(k).indices] == 1).sum())
        total += k
    assert scores(score_ratios(*case[:2]))["recall_at_k"] == hits / total


def test_of_equally_probable_labels_the_lower_index_ranks_first():
    # Wide enough for a sort that is stable only on short rows; unsigned, because 0 − 1 would wrap.
    predictions = LabelPredictions(
        np.tile(np.array([0, 1], dtype=np.uint8), (1, 40)), np.ones((1, 80), bool)
    )
    first, last = np.zeros((2, 1, 80), dtype=np.int8)
    first[0, 1:40:2] = last[0, 41::2] = 1  # half of the 40 labels with probability 1
    for targets, hits in ((first, 20), (last, 0)):
        assert score_ratios(predictions, targets)["recall_at_k"][0] == hits


@given(cases(), st.randoms())
def test_neither_the_order_of_images_nor_the_names_of_conditions_matter(case, random):
    order = list(range(len(case.condition)))
    random.shuffle(order)
    moved = case.take(order)
    moved = moved._replace(condition=100 - 7 * moved.condition)
    for ours, theirs in zip(
        score_with_intervals(*case, resamples=5).values(),
        score_with_intervals(*moved, resamples=5).values(),
        strict=True,
    ):
        assert ours == pytest.approx(tuple(theirs), abs=0, nan_ok=True)


@given(cases(), st.randoms())
def test_the_order_of_labels_matters_to_ties_only(case, random):
    order = list(range(case.targets.shape[1]))
    random.shuffle(order)
    found, moved = (scores(score_ratios(*c[:2])) for c in (case, case.take(labels=order)))
    del found["recall_at_k"], moved["recall_at_k"]
    assert found == pytest.approx(moved, abs=0, nan_ok=True)


def test_open_labels_count_only_in_the_ranking():
    case = random_case(50, 6, 8)
    flipped = case.predictions.present ^ (case.targets == 0)
    other = LabelPredictions(case.predictions.probability, flipped)
    assert scores(score_ratios(other, case.targets)) == scores(score_ratios(*case[:2]))


def test_undefined_scores_are_nan_with_their_intervals():
    case = one_label_case([False, False], np.arange(2))
    found = score_with_intervals(*case)
    assert found["recall"].value == found["f1"].value == found["exact_match"].value == 0
    for name in ("precision", "extra"):
        assert np.isnan(found[name]).all()
    all_open = score_with_intervals(case.predictions, 0 * case.targets, case.condition)
    assert np.isnan(list(all_open.values())).all()


@given(cases())
def test_per_label_scores_are_the_scores_of_that_label_alone(case):
    rows = scores_per_label(*case, resamples=5)
    assert len(rows) == case.targets.shape[1]
    for j, row in enumerate(rows):
        alone = slow_scores(case.take(labels=[j]))
        values = {name: getattr(row, name).value for name in ("precision", "recall", "f1", "extra")}
        assert values == pytest.approx({name: alone[name] for name in values}, nan_ok=True)
        assert (row.asked, row.negated) == tuple(sum(case.targets[:, j] == v) for v in (1, -1))


def test_per_score_ratios_add_up_to_the_overall():
    case = random_case(300, 7, 20)
    overall, rows = scores(score_ratios(*case[:2])), scores_per_label(*case, resamples=5)
    positives = np.array([row.asked for row in rows])
    tp = positives * [row.recall.value for row in rows]
    seen = tp / [row.precision.value for row in rows]
    assert overall["recall"] == pytest.approx(tp.sum() / positives.sum())
    assert overall["precision"] == pytest.approx(tp.sum() / seen.sum())
    assert overall["f1"] == pytest.approx(2 * tp.sum() / (positives.sum() + seen.sum()))


def test_per_label_intervals_draw_each_kind_of_condition_as_often_as_it_was():
    case = random_case(200, 2, 20)
    for j, row in enumerate(scores_per_label(*case, resamples=20_000)):
        targets, present = case.targets[:, j], case.predictions.present[:, j]
        positives, negatives = (np.flatnonzero(targets == sign) for sign in (1, -1))
        for name, images, numerator in (
            ("recall", positives, present[positives]),
            ("extra", negatives, present[negatives]),
        ):
            one = np.ones(len(images))
            expected = slow_bootstrap(numerator, one, case.condition[images], 3000, seed=1)
            _, low, high = getattr(row, name)
            assert [low, high] == pytest.approx(expected, abs=0.07 * (expected[1] - expected[0]))


def test_a_label_with_target_1_in_one_condition_has_a_useful_interval():
    # Ten classes in turn, 100 images each: all images of the first class show it, and 7 others do.
    # In a resample without the first condition the precision would be 0.
    condition = np.repeat(np.arange(10), 100)
    targets = np.where(condition == 0, 1, -1)[:, None]
    present = (condition == 0)[:, None].copy()
    present[100:800:100] = True
    case = Case(LabelPredictions(present.astype(float), present), targets, condition)
    [row] = scores_per_label(*case)
    assert row.precision.value == pytest.approx(100 / 107)
    assert 0.85 < row.precision.low < 0.93 < row.precision.high < 1
    assert row.recall.value == 1
    assert row.recall.low > 0.95


# --- the intervals


def test_intervals_are_a_function_of_the_seed():
    case = random_case(100, 5, 10)
    assert score_with_intervals(*case) == score_with_intervals(*case)
    assert score_with_intervals(*case) != score_with_intervals(*case, seed=1)
    assert scores_per_label(*case) == scores_per_label(*case)
    assert scores_per_label(*case) != scores_per_label(*case, seed=1)


@pytest.mark.parametrize("condition", [np.zeros(60, dtype=int), np.arange(60)])
def test_one_stage_equals_scipys_bootstrap(condition):
    case = random_case(60, 5, 60)._replace(condition=condition)
    tp, seen = score_ratios(*case[:2])["precision"]
    expected = (
        pytest.importorskip("scipy.stats")
        .bootstrap(
            (tp, seen),
            lambda a, b, axis: a.sum(axis=axis) / b.sum(axis=axis),
            paired=True,
            method="percentile",
            n_resamples=9999,
            random_state=np.random.default_rng(1),
        )
        .confidence_interval
    )
    value, low, high = score_with_intervals(*case, resamples=9999)["precision"]
    width = expected.high - expected.low
    assert value == tp.sum() / seen.sum()
    assert [low, high] == pytest.approx([expected.low, expected.high], abs=0.03 * width)


def test_two_stages_equal_their_slow_restatement():
    sizes = [1, 2, 3, 10, 4, 1]
    condition = np.repeat([5, -1, 7, 0, 2, 9], sizes)
    case = random_case(len(condition), 4, len(condition))._replace(condition=condition)
    case.targets[1:12] = np.minimum(case.targets[1:12], 0)  # undefined in many resamples
    expected = slow_bootstrap(*score_ratios(*case[:2])["recall"], condition, 3000, seed=1)
    _, low, high = score_with_intervals(*case, resamples=20_000)["recall"]
    assert [low, high] == pytest.approx(expected, abs=0.05 * (expected[1] - expected[0]))


def test_the_spread_of_two_stages_has_a_closed_form():
    rng = np.random.default_rng(0)
    g, n = 60, 5  # conditions of n images: the variance of the resampled mean, given the images
    present = rng.random((g, n)) < rng.beta(2, 2, size=(g, 1))
    variance = present.mean(axis=1).var() / g + present.var(axis=1).mean() / (g * n)
    _, low, high = score_with_intervals(
        *one_label_case(present.ravel(), np.repeat(np.arange(g), n)), resamples=20_000
    )["recall"]
    assert high - low == pytest.approx(2 * 1.96 * variance**0.5, rel=0.04)


def coverage(num_conditions: int, num_images: int, alike: float, *, repeats: int = 300) -> float:
    """Return how often the interval of `recall` holds 0.6, the truth; alike: image correlation."""
    rng = np.random.default_rng(0)
    condition = np.repeat(np.arange(num_conditions), num_images)
    strength = 1 / alike - 1
    held = 0
    for seed in range(repeats):
        rate = rng.beta(0.6 * strength, 0.4 * strength, size=num_conditions)
        present = rng.random(len(condition)) < rate[condition]
        _, low, high = score_with_intervals(
            *one_label_case(present, condition), resamples=300, seed=seed
        )["recall"]
        held += low <= 0.6 <= high
    return held / repeats


@pytest.mark.slow
@pytest.mark.parametrize("num_images", [1, 4, 20])
def test_with_40_conditions_the_coverage_is_95_percent(num_images):
    assert coverage(40, num_images, 0.25) == pytest.approx(0.95, abs=0.04)


def test_without_a_condition_effect_the_coverage_is_higher():
    assert coverage(40, 4, 1e-6) >= 0.97


def test_with_few_conditions_the_coverage_is_lower_as_documented():
    assert coverage(5, 100, 0.25) == pytest.approx(0.87, abs=0.04)
    assert coverage(2, 100, 0.25) == pytest.approx(0.62, abs=0.06)


@pytest.mark.parametrize("alike", [0, 0.5, 1])
@pytest.mark.parametrize("rate", [0.05, 0.1, 0.17])  # 0.168 is the bound of 20 conditions
def test_no_event_excludes_the_truth_in_at_most_1_of_40_repeats(rate, alike):
    rng = np.random.default_rng(0)
    condition = np.repeat(np.arange(20), 5)
    repeats, missed = 500, 0
    for _ in range(repeats):
        # One draw per condition, which each image copies with probability `alike`.
        event, common = rng.random(100) < rate, (rng.random(20) < rate)[condition]
        event = np.where(rng.random(20)[condition] < alike, common, event)
        if not event.any():
            interval = score_with_intervals(
                *one_label_case(event, condition, target=-1), resamples=1
            )
            missed += interval["extra"].high < rate
    # With 100 independent images the bound would be 0.036, missed in 0.9²⁰ = 12 % of cases at 0.1.
    assert missed / repeats <= 0.025 + 3 * (0.025 / repeats) ** 0.5


@pytest.mark.parametrize(
    ("condition", "n"),
    [(np.zeros(12, dtype=int), 12), (np.arange(12) // 3, 4), (np.arange(12), 12)],
)
def test_without_spread_the_interval_is_clopper_pearsons(condition, n):
    stats = pytest.importorskip("scipy.stats")
    none = stats.binomtest(0, n).proportion_ci(0.95, method="exact")
    every = stats.binomtest(n, n).proportion_ci(0.95, method="exact")
    absent = score_with_intervals(*one_label_case(np.zeros(12), condition))
    present = score_with_intervals(*one_label_case(np.ones(12), condition))
    for name in ("recall", "f1", "exact_match"):
        assert absent[name] == pytest.approx((0, *none))
        assert present[name] == pytest.approx((1, *every))
    extra = score_with_intervals(*one_label_case(np.zeros(12), condition, target=-1))["extra"]
    assert extra == pytest.approx((0, *none))


def test_without_spread_only_conditions_with_targets_count():
    case = one_label_case(np.ones(12), np.arange(12) // 3)
    case.targets[6:] = 0
    bound = 0.025 ** (1 / 2)
    assert score_with_intervals(*case)["recall"] == pytest.approx((1, bound, 1))
    assert scores_per_label(*case)[0].recall == pytest.approx((1, bound, 1))
    case.targets[3:] = 0  # one of four conditions: the interval covers its other seeds
    assert score_with_intervals(*case)["recall"] == pytest.approx((1, 0.025 ** (1 / 3), 1))


def test_images_that_all_score_one_half_leave_room_on_both_sides():
    present = np.tile([True, False], (12, 1))
    predictions = LabelPredictions(present.astype(float), present)
    found = score_with_intervals(predictions, np.ones((12, 2)), np.arange(12))["recall"]
    alike = 0.025 ** (1 / 12)
    assert found == pytest.approx((0.5, alike / 2, 1 - alike / 2))
    assert isinstance(found, Interval)
