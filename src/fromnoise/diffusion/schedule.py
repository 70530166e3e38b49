"""The forward process: how much of the image is left, and how much noise there is, at each t.

Equation numbers without a name are those of Ho, Jain and Abbeel, "Denoising Diffusion
Probabilistic Models", 2020 (arXiv:2006.11239).
"""

import torch
from torch import Tensor

from fromnoise.diffusion.betas import SCHEDULES, with_zero_terminal_snr

Time = int | Tensor
"""A time t ∈ {0..T}: one integer for the whole batch, or an integer tensor (B,)."""


SMALLEST = 1e-20  # of ᾱ_T: below it, x̂_0 = (x_t − σ ε̂)/α is the rounding of ε̂, 10¹⁰ times as large


class NoiseSchedule:
    """One float64 table of ᾱ_t, from which every coefficient of the process is derived.

    `alpha_bar` has shape (T+1,): 1 for the clean image at t = 0, then ᾱ_t = Π_{i≤t} (1−β_i).
    The table stays on the CPU; coefficients are looked up in float64 there and returned in
    float32 on the device of t. A tensor t that already lies on the CPU costs no synchronisation.
    A time outside 0..T is a ValueError, and so is a step that does not lead to an earlier time.
    """

    def __init__(self, betas: Tensor) -> None:
        """`betas`: β_1 … β_T, shape (T,), each in (0, 1), but β_T may be 1. Raises ValueError
        otherwise, and where ᾱ_1 is 1, ᾱ_{T−1} is 0, or ᾱ_T is nearly 0 without being 0.
        """
        betas = _checked(torch.as_tensor(betas, dtype=torch.float64, device="cpu"))
        self.alpha_bar = torch.cat([betas.new_ones(1), torch.cumprod(1 - betas, dim=0)])
        last = len(betas) - (betas[-1] == 1).long()  # T−1 where nothing of the image is left at T
        if self.alpha_bar[last] < SMALLEST or self.alpha_bar[1] == 1:
            raise ValueError(
                f"these betas leave ᾱ_1 = {self.alpha_bar[1]:g} and ᾱ_{last} = "
                f"{self.alpha_bar[last]:g}; allowed: ᾱ_1 below 1 (some noise) and above "
                f"{SMALLEST:g} at the end (some image), or exactly 0 at T alone"
            )

    @classmethod
    def named(
        cls, name: str, T: int, *, zero_terminal_snr: bool = False, **options: object
    ) -> "NoiseSchedule":
        """The schedule called `name` in SCHEDULES, with T steps and that one's own options.

        zero_terminal_snr: see `betas.with_zero_terminal_snr`. Raises ValueError for betas that
        are no schedule, for an unknown name, and for T below 1.
        """
        if name not in SCHEDULES:
            raise ValueError(f"schedule {name!r} is unknown; known: {', '.join(SCHEDULES)}")
        if T < 1:
            raise ValueError(f"T, the number of diffusion steps, must be at least 1, not {T}")
        betas = SCHEDULES[name](T, **options)
        if len(betas) != T:
            raise ValueError(f"T is {T}, but the {name} schedule has {len(betas)} betas")
        return cls(with_zero_terminal_snr(_checked(betas)) if zero_terminal_snr else betas)

    @property
    def T(self) -> int:
        """The number of diffusion steps."""
        return len(self.alpha_bar) - 1

    def alpha(self, t: Time) -> Tensor:
        """√ᾱ_t, the factor of the clean image in x_t; float32, the shape of t."""
        return self._at(self.alpha_bar.sqrt(), t)

    def sigma(self, t: Time) -> Tensor:
        """√(1−ᾱ_t), the standard deviation of the noise in x_t; float32, the shape of t."""
        return self._at((1 - self.alpha_bar).sqrt(), t)

    def snr(self, t: Time) -> Tensor:
        """ᾱ_t / (1−ᾱ_t), the signal-to-noise ratio; float32, infinite at t = 0."""
        return self._at(self.alpha_bar / (1 - self.alpha_bar), t)

    def log_snr(self, t: Time) -> Tensor:
        """log ᾱ_t − log(1−ᾱ_t); float32, infinite at t = 0."""
        return self._at(self.alpha_bar.log() - (1 - self.alpha_bar).log(), t)

    def add_noise(self, x0: Tensor, eps: Tensor, t: Time) -> Tensor:
        """x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε (Eq. 4). x0, eps: (B,C,H,W); t: int or (B,)."""
        return per_image(self.alpha(t), x0) * x0 + per_image(self.sigma(t), x0) * eps

    def posterior(self, x0: Tensor, x_t: Tensor, t: Time, s: Time) -> tuple[Tensor, Tensor]:
        """Mean and variance of q(x_s | x_t, x_0) for any 0 ≤ s < t (Eqs. 6–7, there s = t−1).

        With β = 1 − ᾱ_t/ᾱ_s, the noise added between s and t:
        mean = √ᾱ_s β/(1−ᾱ_t) x_0 + √(ᾱ_t/ᾱ_s) (1−ᾱ_s)/(1−ᾱ_t) x_t, variance = (1−ᾱ_s)/(1−ᾱ_t) β.

        x0, x_t: (B,C,H,W). Returns the mean (B,C,H,W) and the variance, a scalar or (B,1,1,1).
        """
        a_t, a_s, beta = self._step(t, s)
        of_x0 = a_s.sqrt() * beta / (1 - a_t)
        of_x_t = (a_t / a_s).sqrt() * (1 - a_s) / (1 - a_t)
        variance = (1 - a_s) / (1 - a_t) * beta
        return (
            per_image(of_x0, x0) * x0 + per_image(of_x_t, x0) * x_t,
            per_image(variance, x0),
        )

    def variances(self, t: Time, s: Time) -> tuple[Tensor, Tensor]:
        """β̃ and β, the two ends that the variance of a step from t to s lies between.

        β = 1 − ᾱ_t/ᾱ_s is right for x_0 ~ N(0, I), and β̃ = (1−ᾱ_s)/(1−ᾱ_t) β for one fixed x_0
        (section 3.2). With s = 0 this β̃ is 0, whose logarithm is of no use: there β̃ is that of
        the step from max(t, 2) to 1, the least that any step has to add (where T = 1, it is β).
        Both float64, on the CPU, in the shape of t and s.
        """
        t, s = torch.as_tensor(t, device="cpu"), torch.as_tensor(s, device="cpu")
        _, _, beta = self._step(t, s)
        if self.T == 1:
            return beta, beta
        a_t, a_s, beta_before_0 = self._step(t.clamp(min=2), s.clamp(min=1))
        return (1 - a_s) / (1 - a_t) * beta_before_0, beta

    def _step(self, t: Time, s: Time) -> tuple[Tensor, Tensor, Tensor]:
        """ᾱ_t, ᾱ_s, and the variance β of the noise that is added between s and t."""
        before, after = torch.broadcast_tensors(self._index(t), self._index(s))
        wrong = after >= before
        if wrong.any():
            pair = f"from {int(before[wrong][0])} to {int(after[wrong][0])}"
            raise ValueError(f"a step leads to an earlier time, not {pair}")
        a_t, a_s = self.alpha_bar[before], self.alpha_bar[after]
        return a_t, a_s, 1 - a_t / a_s

    def _at(self, table: Tensor, t: Time) -> Tensor:
        coefficient = table[self._index(t)].to(torch.float32)
        return on_device(coefficient, t.device) if isinstance(t, Tensor) else coefficient

    def _index(self, t: Time) -> Tensor:
        index = torch.as_tensor(t, device="cpu")
        outside = (index < 0) | (index > self.T)  # −1 would be read from the table's end
        if outside.any():
            raise ValueError(f"t must lie in 0..{self.T}, not {int(index[outside][0])}")
        return index


def _checked(betas: Tensor) -> Tensor:
    """The same β_1 … β_T; ValueError unless each lies in (0, 1), or is 1 at T alone."""
    if betas.ndim != 1 or len(betas) == 0:
        raise ValueError(f"betas must be a list of T ≥ 1 numbers, not {tuple(betas.shape)}")
    outside = ~((betas > 0) & (betas < 1))
    outside[-1] &= (len(betas) == 1) | (betas[-1] != 1)
    if outside.any():
        t = int(outside.nonzero()[0]) + 1
        raise ValueError(f"every β must lie between 0 and 1, but β_{t} = {betas[t - 1]:g}")
    return betas


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor there. CUDA copies it when it comes to it, and what was asked before goes on."""
    return tensor.to(device, non_blocking=device.type == "cuda")


def per_image(coefficient: Tensor, x: Tensor) -> Tensor:
    """Shape a coefficient () or (B,) to multiply x (B,C,H,W): x's device and precision.

    Raises ValueError for x of integers, in whose precision the coefficient would be 0.
    """
    if not x.is_floating_point():
        raise ValueError(
            f"images must be floating point, and these are {x.dtype}; x / 127.5 − 1 brings bytes "
            "to [−1, 1]"
        )
    coefficient = on_device(coefficient.to(x.dtype), x.device)  # so ordered: MPS has no float64
    return coefficient.reshape(-1, *[1] * (x.ndim - 1)) if coefficient.ndim else coefficient
