"""Our samplers beside the schedulers of the diffusers library, whose times are ours less one.

Both are fed the same predictions and the same noise; each goes on from its own last image.

Their tables are float32, in which 1−ᾱ_1 = 1e-4 keeps three digits only, and a step at a small t
is then off by up to 1e-4, which the second test allows. So elsewhere they get our float64 table:
what is compared is the definitions, and these agree at every step to 1e-5 of the largest value.
"""

from itertools import product

import pytest
import torch

from fromnoise.diffusion import NoiseSchedule, ddim, ddpm, sampling_timesteps

diffusers = pytest.importorskip("diffusers")
DDIMScheduler, DDPMScheduler = diffusers.DDIMScheduler, diffusers.DDPMScheduler

T = 1000
SHAPE = (2, 1, 4, 4)
PREDICTION_TYPES = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}


@pytest.fixture(scope="module")
def noise(fixed_noise):
    return fixed_noise(*SHAPE)


def assert_close(got, expected, tolerance=1e-5, of=()):
    """`of` names the part of a test that this is."""
    assert got.shape == expected.shape
    off = (got - expected).abs().max()
    assert off <= tolerance * max(1, expected.abs().max()), of


# ---- their own tables -------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", [DDPMScheduler, DDIMScheduler])
def test_with_their_own_tables_all_thousand_steps_agree_as_far_as_these_are_exact(
    schedule, wave_denoiser, noise, scheduler
):
    denoise, wave = wave_denoiser(schedule, "eps", clip=True)
    theirs = scheduler(T)
    theirs.set_timesteps(T)
    options = {"use_clipped_model_output": True} if scheduler is DDIMScheduler else {}
    sampler = ddim if scheduler is DDIMScheduler else ddpm
    x = noise(0)
    for step in sampler(denoise, schedule, noise(0), range(T, 0, -1), noise=noise):
        generator = torch.Generator().manual_seed(step.t)
        x, _ = theirs.step(
            wave.output, step.t - 1, x, generator=generator, return_dict=False, **options
        )
        assert_close(step.x, x, 2e-4)


# ---- times ----------------------------------------------------------------------------------


@pytest.mark.parametrize("timesteps", ["leading", "trailing", "linspace"])
def test_times(schedule, timesteps):
    theirs = DDPMScheduler(T, timestep_spacing=timesteps)
    for steps in (7, 20, 53, 1000):
        theirs.set_timesteps(steps)
        expected = [t + 1 for t in theirs.timesteps.tolist()]
        times = sampling_timesteps(schedule, steps, timesteps)
        if (timesteps, steps) == ("linspace", 7):
            # Between 7 times lie 166.5: both round halves to even, theirs even when ours is odd.
            assert [a - b for a, b in zip(times, expected, strict=True)] == [0, 1, 0, -1, 0, 1, 0]
        else:
            assert times == expected


# ---- steps ----------------------------------------------------------------------------------

each_kind = pytest.mark.parametrize("kind", PREDICTION_TYPES)
with_and_without_clipping = pytest.mark.parametrize("clip", [True, False], ids=["clip", "free"])


def up_to(kind, clip):
    """The counts of steps that are compared: all thousand for one prediction, clipped, alone."""
    return (7, 20, 53, 1000) if (kind, clip) == ("eps", True) else (7, 20, 53)


def with_exact_table(scheduler, schedule):
    scheduler.alphas_cumprod = schedule.alpha_bar[1:]
    return scheduler


@with_and_without_clipping
@each_kind
@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm(schedule, wave_denoiser, noise, variance, kind, clip):
    denoise, wave = wave_denoiser(schedule, kind, clip)
    theirs = DDPMScheduler(
        T,
        prediction_type=PREDICTION_TYPES[kind],
        variance_type=f"fixed_{variance}",
        clip_sample=clip,
    )
    with_exact_table(theirs, schedule)
    of_few = product((7, 53), ("leading", "trailing", "linspace"))
    for steps, timesteps in (*of_few, *((n, "trailing") for n in up_to(kind, clip)[1::2])):
        times = sampling_timesteps(schedule, steps, timesteps)
        theirs.set_timesteps(timesteps=[t - 1 for t in times])
        x = noise(0)
        for step in ddpm(denoise, schedule, noise(0), times, noise=noise, variance=variance):
            generator = torch.Generator().manual_seed(step.t)  # gives noise(step.t)
            x, x0 = theirs.step(wave.output, step.t - 1, x, generator=generator, return_dict=False)
            if variance == "large" and step.s == 0 and step.t > 1:
                # Theirs leaves out the noise at its time 0 only: a chain whose last kept time is a
                # later one, as with trailing, ends with noise of variance 1−ᾱ_t in the image.
                x = x - schedule.sigma(step.t) * noise(step.t)
            assert_close(step.x, x, of=(steps, timesteps, step.t))
            assert_close(step.x0, x0, of=(steps, timesteps, step.t))


@with_and_without_clipping
def test_ddpm_with_a_learned_variance(schedule, wave_denoiser, noise, clip):
    denoise, wave = wave_denoiser(schedule, "eps", clip, learned=True)
    theirs = DDPMScheduler(T, variance_type="learned_range", clip_sample=clip)
    with_exact_table(theirs, schedule)
    for steps in up_to("eps", clip):
        times = sampling_timesteps(schedule, steps, "leading")
        theirs.set_timesteps(timesteps=[t - 1 for t in times])
        x = noise(0)
        for step in ddpm(denoise, schedule, noise(0), times, noise=noise, variance="learned"):
            generator = torch.Generator().manual_seed(step.t)
            x, x0 = theirs.step(wave.output, step.t - 1, x, generator=generator, return_dict=False)
            assert_close(step.x, x, of=(steps, step.t))
            assert_close(step.x0, x0, of=(steps, step.t))


def ddim_scheduler(schedule, kind, clip, steps):
    theirs = DDIMScheduler(T, prediction_type=PREDICTION_TYPES[kind], clip_sample=clip)
    theirs.set_timesteps(steps)
    return with_exact_table(theirs, schedule)


def ddim_step(theirs, output, t, x, eta, noise):
    # Without `use_clipped_model_output` theirs would join a clipped x̂_0 to an ε̂ of another x̂_0.
    return theirs.step(
        output,
        t - 1,
        x,
        eta=eta,
        use_clipped_model_output=True,
        variance_noise=noise(t),
        return_dict=False,
    )


@with_and_without_clipping
@each_kind
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_ddim(schedule, wave_denoiser, noise, eta, kind, clip):
    denoise, wave = wave_denoiser(schedule, kind, clip)
    for steps in up_to(kind, clip):
        theirs = ddim_scheduler(schedule, kind, clip, steps)
        times = sampling_timesteps(schedule, steps, "leading")
        x = noise(0)
        for step in ddim(denoise, schedule, noise(0), times, noise=noise, eta=eta):
            x, x0 = ddim_step(theirs, wave.output, step.t, x, eta, noise)
            assert_close(step.x, x, of=(steps, step.t))
            assert_close(step.x0, x0, of=(steps, step.t))


@with_and_without_clipping
@each_kind
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_ddim_between_the_times_that_diffusers_steps_between(
    schedule, wave_denoiser, noise, eta, kind, clip
):
    # Theirs always steps from t to t−⌊T/n⌋. With leading that is the next kept time; with other
    # timesteps it is not, and the next prediction is then made for a time that x is not at. So no
    # chain is compared here, but from every kept time one step of ours between their two times.
    denoise, wave = wave_denoiser(schedule, kind, clip)
    for steps, timesteps in product((7, 53), ("trailing", "linspace")):
        theirs = ddim_scheduler(schedule, kind, clip, steps)
        for t in sampling_timesteps(schedule, steps, timesteps):
            s = t - T // steps
            times = [t, s] if s > 0 else [t]
            step = next(ddim(denoise, schedule, noise(t), times, noise=noise, eta=eta))
            x, x0 = ddim_step(theirs, wave.output, t, noise(t), eta, noise)
            assert_close(step.x, x, of=(steps, timesteps, t))
            assert_close(step.x0, x0, of=(steps, timesteps, t))


@pytest.mark.parametrize("kind", ["x0", "v"])
@pytest.mark.parametrize("scheduler", [DDPMScheduler, DDIMScheduler])
def test_where_nothing_is_left_of_the_image_at_T(wave_denoiser, noise, scheduler, kind):
    # Where ᾱ_T = 0. Trailing with 20 steps: then theirs of ddim steps between the kept times too.
    schedule = NoiseSchedule.named("linear", T, zero_terminal_snr=True)
    denoise, wave = wave_denoiser(schedule, kind, clip=False)
    options = {"prediction_type": PREDICTION_TYPES[kind], "timestep_spacing": "trailing"}
    theirs = scheduler(T, rescale_betas_zero_snr=True, clip_sample=False, **options)
    torch.testing.assert_close(
        theirs.alphas_cumprod.double(), schedule.alpha_bar[1:], rtol=0, atol=1e-6
    )
    with_exact_table(theirs, schedule).set_timesteps(20)
    sampler = ddim if scheduler is DDIMScheduler else ddpm
    x = noise(0)
    for step in sampler(denoise, schedule, x, sampling_timesteps(schedule, 20), noise=noise):
        generator = torch.Generator().manual_seed(step.t)
        x, x0 = theirs.step(wave.output, step.t - 1, x, generator=generator, return_dict=False)
        assert_close(step.x, x)
        assert_close(step.x0, x0)
