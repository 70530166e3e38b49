"""Our solvers of the reverse equations beside the schedulers of the diffusers library.

Both are fed the same predictions and the same noise; each goes on from its own last image, and they
agree at every step to 1e-5 of the largest value. Their times are ours less one.

Theirs look up σ/α in one float32 list, with 0 for the clean image at its end. As in
`test_against_diffusers.py` they get ours in float64: what is compared is the definitions. They
differ in this:

- Times. Of DPM-Solver++ and UniPC `leading` and `linspace` count one time more and leave the lowest
  one out; of Euler and Heun `linspace` falls between the times, where σ/α is interpolated. Only
  `trailing` is ours in all, so that is compared, and all of them step at our times.
- Euler and Heun work on x/α. They get x_T/α_T; with `trailing` and `linspace` their own beginning
  is σ_T/α_T times the noise, x_T less by the factor σ_T.
- `lower_order_final`, the first order at the end, is for fewer than 15 steps there; but with
  `final_sigmas_type` zero the very last step is of first order always, as ours is. UniPC's is for
  any number of steps, and so is ours.
- IPNDM has times and shares of noise of its own, sin(πt/2), and reads outputs as v. With our shares
  in their place all steps are ours but the last, for which it still adds up four ε̂.
"""

from functools import partial
from itertools import product

import pytest
import torch

from fromnoise.diffusion import SAMPLERS, NoiseSchedule, euler, heun, ipndm, sampling_timesteps

diffusers = pytest.importorskip("diffusers")

T = 1000
SHAPE = (2, 1, 4, 4)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
PREDICTION_TYPES = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
SECOND_ORDER = {"solver_order": 2, "final_sigmas_type": "zero"}
DPM = {**SECOND_ORDER, "solver_type": "midpoint"}
THEIRS = {
    "euler": (diffusers.EulerDiscreteScheduler, {"final_sigmas_type": "zero"}),
    "heun": (diffusers.HeunDiscreteScheduler, {}),
    "dpm++": (diffusers.DPMSolverMultistepScheduler, {**DPM, "algorithm_type": "dpmsolver++"}),
    "dpm++sde": (
        diffusers.DPMSolverMultistepScheduler,
        {**DPM, "algorithm_type": "sde-dpmsolver++"},
    ),
    "unipc": (
        diffusers.UniPCMultistepScheduler,
        {**SECOND_ORDER, "solver_type": "bh2", "predict_x0": True},
    ),
    "unipc3": (
        diffusers.UniPCMultistepScheduler,
        {**SECOND_ORDER, "solver_order": 3, "solver_type": "bh2", "predict_x0": True},
    ),
}
OURS = {**SAMPLERS, "unipc3": partial(SAMPLERS["unipc"], order=3)}
CLIPPED = {
    "heun": {"clip_sample": True},
    "dpm++": {"thresholding": True, "sample_max_value": 1.0},  # to [−s, s] with 1 ≤ s ≤ 1
    "dpm++sde": {"thresholding": True, "sample_max_value": 1.0},
    "unipc": {"thresholding": True, "sample_max_value": 1.0},
    "unipc3": {"thresholding": True, "sample_max_value": 1.0},
}

FREE = [
    *product((1, 2, 7, 20, 53), ["trailing"], PREDICTION_TYPES, [False]),
    *product([20], ["leading", "karras"], PREDICTION_TYPES, [False]),
    (1000, "trailing", "eps", False),  # with all times there is one timesteps
]
CLIPPING = [*product((7, 20, 53), ["trailing"], PREDICTION_TYPES, [True])]


@pytest.fixture(scope="module")
def noise(fixed_noise):
    return fixed_noise(*SHAPE)


def assert_close(got, expected, tolerance=1e-5, of=()):
    """`of` names the part of a test that this is."""
    assert got.shape == expected.shape
    off = (got - expected).abs().max()
    assert off <= tolerance * max(1, expected.abs().max()), of


def chains(*chosen):
    """Those of these chains that are of one prediction, for each prediction: one test each."""
    kinds = dict.fromkeys(kind for _, _, kind, _ in chosen)
    return pytest.mark.parametrize(
        "chains", [[c for c in chosen if c[2] == kind] for kind in kinds], ids=kinds
    )


def build(name, **options):
    scheduler, fixed = THEIRS[name]
    return scheduler(T, beta_start=1e-4, beta_end=0.02, **fixed, **options)


def interleaved(name, values):
    """As Heun's scheduler counts, two steps for one of ours except the last: a, b, b, c, c, d."""
    if name != "heun":
        return values
    return torch.cat([values[:1], values[1:-1].repeat_interleave(2), values[-1:]])


def noise_to_image(schedule, times):
    """σ/α at these times, and 0 at t = 0; (n + 1,), float64."""
    a = schedule.alpha_bar[[*times, 0]]
    return ((1 - a) / a).sqrt()


def at_our_times(name, schedule, times, kind, *, clip=False):
    theirs = build(name, prediction_type=PREDICTION_TYPES[kind], **(CLIPPED[name] if clip else {}))
    theirs.set_timesteps(len(times))
    ours = torch.tensor([*times, 1], dtype=theirs.timesteps.dtype) - 1
    theirs.timesteps = interleaved(name, ours)[:-1]
    theirs.sigmas = interleaved(name, noise_to_image(schedule, times))
    theirs.set_begin_index(0)
    return theirs


# ---- times ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", THEIRS)
def test_their_trailing_times_and_what_they_look_up_there_are_ours(schedule, name):
    for steps in (1, 2, 7, 20, 53, 1000):
        theirs = build(name, timestep_spacing="trailing")
        theirs.set_timesteps(steps)
        times = sampling_timesteps(schedule, steps, "trailing")
        ours = at_our_times(name, schedule, times, "eps")
        assert theirs.timesteps.tolist() == ours.timesteps.tolist()
        torch.testing.assert_close(theirs.sigmas.double(), ours.sigmas, rtol=1e-3, atol=0)


@pytest.mark.parametrize("steps", [7, 20, 53])
@pytest.mark.parametrize(
    ("timesteps", "option"), [("karras", "use_karras_sigmas"), ("log_snr", "use_lu_lambdas")]
)
def test_times_that_are_even_in_a_function_of_the_noise(schedule, timesteps, option, steps):
    # Theirs keep σ/α as the rule gives it, and round its time for the network. We step between the
    # times themselves: the nearest ones, and no time twice, where theirs ends with 2, 1, 1.
    theirs = build("dpm++", **{option: True})
    theirs.set_timesteps(steps)
    expected = [t + 1 for t in theirs.timesteps.tolist()]
    times = sampling_timesteps(schedule, steps, timesteps)
    assert max(abs(a - b) for a, b in zip(times, expected, strict=True)) <= 1


# ---- steps ----------------------------------------------------------------------------------


@pytest.mark.slow
@chains(*FREE, *CLIPPING)
@pytest.mark.parametrize("name", ["dpm++", "dpm++sde", "unipc", "unipc3"])
def test_multistep(schedule, wave_denoiser, noise, name, chains):
    for steps, timesteps, kind, clip in chains:
        denoise, wave = wave_denoiser(schedule, kind, clip)
        times = sampling_timesteps(schedule, steps, timesteps)
        theirs = at_our_times(name, schedule, times, kind, clip=clip)
        x = noise(0)
        for step in OURS[name](denoise, schedule, x, times, noise=noise):
            options = {"variance_noise": noise(step.t)} if name == "dpm++sde" else {}
            (x,) = theirs.step(wave.output, step.t - 1, x, return_dict=False, **options)
            assert_close(step.x, x, of=(steps, timesteps, clip, step.t))
            if not clip:  # theirs rounds x to float32, and 1/α_T = 157 times that error is in x̂_0
                assert_close(step.x0, theirs.model_outputs[-1], of=(steps, timesteps, step.t))


@chains(*FREE)  # theirs cannot clip
def test_euler(schedule, wave_denoiser, noise, chains):
    for steps, timesteps, kind, clip in chains:
        denoise, wave = wave_denoiser(schedule, kind, clip)
        times = sampling_timesteps(schedule, steps, timesteps)
        theirs = at_our_times("euler", schedule, times, kind)
        x = noise(0) / schedule.alpha_bar[times[0]].sqrt()
        theirs.scale_model_input(x, theirs.timesteps[0])  # it warns where this is left out
        ours = euler(denoise, schedule, noise(0), times, noise=noise)
        for step, time in zip(ours, theirs.timesteps, strict=True):
            x, x0 = theirs.step(wave.output, time, x, return_dict=False)
            scaled = theirs.scale_model_input(x, time)  # x/α, times the α that is next
            assert_close(step.x, scaled, of=(steps, timesteps, step.t))
            assert_close(step.x0, x0, of=(steps, timesteps, step.t))


@pytest.mark.parametrize(
    ("steps", "timesteps"), [(7, "trailing"), (20, "karras"), (53, "trailing")]
)
def test_ipndm(schedule, wave_denoiser, noise, steps, timesteps):
    denoise, wave = wave_denoiser(schedule, "v", False)
    times = sampling_timesteps(schedule, steps, timesteps)
    theirs = diffusers.IPNDMScheduler(T)
    theirs.set_timesteps(steps)
    theirs.betas = (1 - schedule.alpha_bar[[*times, 0]]).sqrt()  # their name for σ
    theirs.alphas = schedule.alpha_bar[[*times, 0]].sqrt()
    theirs.set_begin_index(0)
    x = noise(0)
    for step in list(ipndm(denoise, schedule, noise(0), times, noise=noise))[:-1]:
        denoise(x, step.t)
        (x,) = theirs.step(wave.output, step.t - 1, x, return_dict=False)
        assert_close(step.x, x, of=step.t)


# In two steps the first goes from σ/α = 157 to 3.4, a leap that ours does not correct.
@chains(*(chain for chain in (*FREE, *CLIPPING) if chain[0] != 2))
def test_heun(schedule, wave_denoiser, noise, chains):
    seen = []

    def denoise(x_t, t):
        prediction = plain(x_t, t)
        seen.append((x_t, t, wave.output))
        return prediction

    for steps, timesteps, kind, clip in chains:
        plain, wave = wave_denoiser(schedule, kind, clip)
        times = sampling_timesteps(schedule, steps, timesteps)
        theirs = at_our_times("heun", schedule, times, kind, clip=clip)
        x = noise(0) / schedule.alpha_bar[times[0]].sqrt()
        asked = iter(theirs.timesteps.tolist())
        for step in heun(denoise, schedule, noise(0), times, noise=noise):
            part = (steps, timesteps, clip, step.t)
            denoised = []
            for x_t, t, output in seen:  # at t, and then at s, for which x_t is Euler's proposal
                time = next(asked)
                assert t == time + 1
                assert_close(x_t, theirs.scale_model_input(x, time), of=part)
                x, x0 = theirs.step(output, time, x, return_dict=False)
                denoised.append(x0)
            assert_close(step.x, theirs.scale_model_input(x, step.s), of=part)
            assert_close(step.x0, denoised[0], of=part)
            seen.clear()
        assert next(asked, None) is None


@pytest.mark.parametrize("kind", ["x0", "v"])
@pytest.mark.parametrize(
    ("name", "huge"),
    # float32 images allow Euler no more
    [("euler", 1e7), ("dpm++", 1e150), ("dpm++sde", 1e150), ("unipc", 1e150), ("unipc3", 1e150)],
)
def test_the_limit_of_no_image_at_T(wave_denoiser, noise, name, huge, kind):
    # Where ᾱ_T = 0 theirs put 2⁻²⁴, since they cannot count with σ/α = ∞; with far less than that
    # they come as near to ours as one likes, if slowly: the share of x̂_0(T) in the second step goes
    # with 1/log(σ/α). Only the correction of Heun's first step has no limit, half of
    # (ρ_s − ρ_T) (ε̂_s − ε̂_T) with ρ_T → ∞, and ours leaves it out, as after any leap.
    schedule = NoiseSchedule.named("linear", T, zero_terminal_snr=True)
    denoise, wave = wave_denoiser(schedule, kind, clip=False)
    times = sampling_timesteps(schedule, 20)
    theirs = at_our_times(name, schedule, times, kind)
    theirs.sigmas[0] = huge
    x = noise(0) * huge if name == "euler" else noise(0)
    theirs.scale_model_input(x, theirs.timesteps[0])
    for i, step in enumerate(OURS[name](denoise, schedule, noise(0), times, noise=noise)):
        options = {"variance_noise": noise(step.t)} if name == "dpm++sde" else {}
        time = theirs.timesteps[i].float() if name == "euler" else theirs.timesteps[i]
        x, *_ = theirs.step(wave.output, time, x, return_dict=False, **options)
        assert_close(step.x, theirs.scale_model_input(x, time), 1e-4)
