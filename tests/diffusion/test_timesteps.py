import math
from itertools import pairwise

import pytest

from fromnoise.diffusion import SCHEDULES, TIMESTEPS, NoiseSchedule, sampling_timesteps

hypothesis = pytest.importorskip("hypothesis")
given, st = hypothesis.given, hypothesis.strategies

NAMED = sorted(SCHEDULES.keys() - {"custom"})


def some_schedule(name: str, T: int) -> NoiseSchedule:
    return NoiseSchedule.named(name, T, **({"beta": 0.01} if name == "constant" else {}))


@given(
    data=st.data(),
    T=st.integers(25, 2000),
    name=st.sampled_from(NAMED),
    timesteps=st.sampled_from(sorted(TIMESTEPS)),
)
def test_times_fall_strictly_within_1_to_T_and_end_as_their_rule_says(data, T, name, timesteps):
    steps = data.draw(st.integers(1, T))
    times = sampling_timesteps(some_schedule(name, T), steps, timesteps)
    assert len(times) == steps
    assert all(type(t) is int and 1 <= t <= T for t in times)
    assert all(t > s for t, s in pairwise(times))
    if timesteps not in ("leading", "karras80"):
        assert times[0] == T
    if timesteps == "leading" or (timesteps != "trailing" and steps > 1):
        assert times[-1] == 1


@given(data=st.data(), T=st.integers(1, 2000))
def test_times_are_evenly_spaced(data, T):
    schedule = NoiseSchedule.named("cosine", T)
    steps = data.draw(st.integers(1, T))
    for i, t in enumerate(reversed(sampling_timesteps(schedule, steps, "leading"))):
        assert t == 1 + i * (T // steps)
    for i, t in enumerate(sampling_timesteps(schedule, steps, "trailing")):
        assert abs(t - (T - i * T / steps)) <= 0.5
    for i, t in enumerate(sampling_timesteps(schedule, steps, "linspace")):
        assert abs(t - (T - i * (T - 1) / max(steps - 1, 1))) <= 0.5 + 1e-9


@pytest.mark.parametrize("timesteps", TIMESTEPS)
def test_all_steps_are_all_times(schedule, timesteps):
    assert sampling_timesteps(schedule, 1000, timesteps) == list(range(1000, 0, -1))


@pytest.mark.parametrize(
    ("timesteps", "times"),
    [
        ("leading", [853, 711, 569, 427, 285, 143, 1]),
        ("trailing", [1000, 857, 714, 571, 429, 286, 143]),
        ("linspace", [1000, 834, 667, 500, 334, 168, 1]),
        ("quadratic", [1000, 695, 445, 251, 112, 29, 1]),  # 1 + 999 (i/6)²
    ],
)
def test_seven_steps_of_a_thousand(schedule, timesteps, times):
    assert sampling_timesteps(schedule, 7, timesteps) == times


def evenness(values: list[float]) -> float:
    """The largest distance between neighbours, by the smallest."""
    steps = [abs(a - b) for a, b in pairwise(values)]
    return max(steps) / min(steps)


# a straight line of 10,000 betas: neighbours are so near that rounding to a time costs little
FINE = NoiseSchedule.named("linear_rescaled", 10_000)


def test_log_snr_is_even_in_the_logarithm_of_the_ratio():
    a = [FINE.alpha_bar[t].item() for t in sampling_timesteps(FINE, 20, "log_snr")]
    assert evenness([math.log(a / (1 - a)) for a in a]) < 1.2
    assert evenness(sampling_timesteps(FINE, 20, "log_snr")) > 5


def test_karras_is_even_in_the_seventh_root_of_the_noise():
    a = [FINE.alpha_bar[t].item() for t in sampling_timesteps(FINE, 20, "karras")]
    assert evenness([((1 - a) / a) ** (1 / 14) for a in a]) < 1.2


@given(data=st.data(), T=st.integers(25, 2000), name=st.sampled_from(NAMED))
def test_karras80_begins_nearest_to_80_and_goes_on_as_karras_would_from_there(data, T, name):
    schedule = some_schedule(name, T)
    noise = ((1 - schedule.alpha_bar[1:]) / schedule.alpha_bar[1:]).sqrt()
    first = T if noise[-1] <= 80 else int((noise - 80).abs().argmin()) + 1
    shorter = NoiseSchedule(1 - schedule.alpha_bar[1 : first + 1] / schedule.alpha_bar[:first])
    steps = data.draw(st.integers(1, T))
    times = sampling_timesteps(schedule, steps, "karras80")
    if steps <= first:
        assert times == sampling_timesteps(shorter, steps, "karras")
    else:
        assert times == list(range(steps, 0, -1))


@pytest.mark.parametrize("zero", [False, True])
def test_karras80_leaves_out_most_of_what_karras_spends_with_cosine(zero):
    schedule = NoiseSchedule.named("cosine", 1000, zero_terminal_snr=zero)
    noise = ((1 - schedule.alpha_bar) / schedule.alpha_bar).sqrt()
    times = sampling_timesteps(schedule, 50, "karras")
    assert times[:20] == list(range(1000, 980, -1))
    times = sampling_timesteps(schedule, 50, "karras80")
    assert (times[0], times[-1]) == (int((noise - 80).abs().argmin()), 1)
    assert times[5] < times[0] - 5


@pytest.mark.parametrize("timesteps", ["log_snr", "karras"])
@pytest.mark.parametrize("steps", [1, 2, 7, 999, 1000])
def test_without_any_image_at_T_the_rule_begins_after_it(timesteps, steps):
    schedule = NoiseSchedule.named("linear", 1000, zero_terminal_snr=True)
    times = sampling_timesteps(schedule, steps, timesteps)
    assert times[0] == 1000
    assert len(times) == steps
    shorter = NoiseSchedule(1 - schedule.alpha_bar[1:-1] / schedule.alpha_bar[:-2])
    if 1 < steps < 999:
        assert times[1:] == sampling_timesteps(shorter, steps, timesteps)[1:]


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_an_impossible_number_of_steps_is_refused(schedule, steps):
    with pytest.raises(ValueError, match=f"between 1 and T = 1000, not {steps}"):
        sampling_timesteps(schedule, steps)


def test_listed_times_are_those_that_are_visited(schedule):
    assert sampling_timesteps(schedule, 3, (1000, 740, 1)) == [1000, 740, 1]
    assert sampling_timesteps(schedule, 2, [9, 8]) == [9, 8]


@pytest.mark.parametrize("times", [[1001, 1], [5, 0], [5, 5], [5, 6], []], ids=str)
def test_listed_times_that_do_not_fall_within_1_to_T_are_refused(schedule, times):
    with pytest.raises(ValueError, match=r"timesteps (must fall|lists 0 times)"):
        sampling_timesteps(schedule, 2, times)
    with pytest.raises(ValueError, match="timesteps lists 2 times, but steps = 3"):
        sampling_timesteps(schedule, 3, [9, 8])


def test_an_unknown_rule_is_refused(schedule):
    with pytest.raises(ValueError, match="timesteps 'trail' is unknown; known: leading, trailing"):
        sampling_timesteps(schedule, 5, "trail")
