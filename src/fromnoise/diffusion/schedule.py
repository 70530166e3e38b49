"""The forward process: the share of image and noise at each t.

Equation numbers without a name are those of Ho, Jain and Abbeel, "Denoising Diffusion
Probabilistic Models", 2020 (arXiv:2006.11239).
"""

import torch
from torch import Tensor

from fromnoise.diffusion.betas import SCHEDULES, with_zero_terminal_snr

Time = int | Tensor
"""A time t ∈ {0..T}: one integer for the whole batch, or an integer tensor (B,)."""


SMALLEST = 1e-20  # ᾱ_T; below it x̂_0 = (x_t − σ ε̂)/α multiplies the rounding of ε̂ by 10¹⁰


class NoiseSchedule:
    """A noise schedule: one float64 table of ᾱ_t, from which every coefficient is derived.

    `alpha_bar` has shape (T+1,): 1 for the clean image at t = 0, then ᾱ_t = Π_{i≤t} (1−β_i).
    The table stays on the CPU. Coefficients are looked up there in float64 and returned in float32
    on the device of t. A tensor t on the CPU costs no synchronisation. Methods raise ValueError for
    a time outside 0..T, and for a step that does not lead to an earlier time.
    """

    def __init__(self, betas: Tensor) -> None:
        """betas: β_1 … β_T, (T,), each in (0, 1), but β_T may be 1.

        Raises ValueError otherwise, and if ᾱ_1 is 1, ᾱ_{T−1} is 0, or ᾱ_T is nearly 0 but not 0.
        """
        betas = _checked(torch.as_tensor(betas, dtype=torch.float64, device="cpu"))
        self.alpha_bar = torch.cat([betas.new_ones(1), torch.cumprod(1 - betas, dim=0)])
        last = len(betas) - (betas[-1] == 1).long()  # T−1 if ᾱ_T = 0
        if self.alpha_bar[last] < SMALLEST or self.alpha_bar[1] == 1:
            raise ValueError(
                f"these betas give ᾱ_1 = {self.alpha_bar[1]:g} and ᾱ_{last} = "
                f"{self.alpha_bar[last]:g}. Choose betas with ᾱ_1 below 1, and with ᾱ_T above "
                f"{SMALLEST:g} or exactly 0."
            )

    @classmethod
    def named(
        cls, name: str, T: int, *, zero_terminal_snr: bool = False, **options: object
    ) -> "NoiseSchedule":
        """Build the schedule `name` of SCHEDULES with T steps and its own options.

        zero_terminal_snr: see `betas.with_zero_terminal_snr`. Raises ValueError for an unknown
        name, T below 1, and impossible betas.
        """
        if name not in SCHEDULES:
            raise ValueError(f"schedule {name!r} is unknown; known: {', '.join(SCHEDULES)}")
        if T < 1:
            raise ValueError(f"T, the number of diffusion steps, must be at least 1, not {T}")
        betas = SCHEDULES[name](T, **options)
        if len(betas) != T:
            raise ValueError(
                f"T is {T}, but the {name} schedule has {len(betas)} betas. Give one for each step."
            )
        return cls(with_zero_terminal_snr(_checked(betas)) if zero_terminal_snr else betas)

    @property
    def T(self) -> int:
        """Return the number of diffusion steps."""
        return len(self.alpha_bar) - 1

    def alpha(self, t: Time) -> Tensor:
        """Return √ᾱ_t, the factor of the clean image in x_t; float32, the shape of t."""
        return self._at(self.alpha_bar.sqrt(), t)

    def sigma(self, t: Time) -> Tensor:
        """Return √(1−ᾱ_t), the standard deviation of the noise in x_t; float32, the shape of t."""
        return self._at((1 - self.alpha_bar).sqrt(), t)

    def snr(self, t: Time) -> Tensor:
        """Return ᾱ_t / (1−ᾱ_t), the signal-to-noise ratio; float32, infinite at t = 0."""
        return self._at(self.alpha_bar / (1 - self.alpha_bar), t)

    def log_snr(self, t: Time) -> Tensor:
        """Return log ᾱ_t − log(1−ᾱ_t); float32, infinite at t = 0."""
        return self._at(self.alpha_bar.log() - (1 - self.alpha_bar).log(), t)

    def add_noise(self, x0: Tensor, eps: Tensor, t: Time) -> Tensor:
        """Return x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε (Eq. 4). x0, eps: (B,C,H,W); t: int or (B,)."""
        return per_image(self.alpha(t), x0) * x0 + per_image(self.sigma(t), x0) * eps

    def posterior(self, x0: Tensor, x_t: Tensor, t: Time, s: Time) -> tuple[Tensor, Tensor]:
        """Return mean and variance of q(x_s | x_t, x_0) for 0 ≤ s < t (Eqs. 6–7, there s = t−1).

        With β = 1 − ᾱ_t/ᾱ_s, the noise added between s and t:
        mean = √ᾱ_s β/(1−ᾱ_t) x_0 + √(ᾱ_t/ᾱ_s) (1−ᾱ_s)/(1−ᾱ_t) x_t, variance = (1−ᾱ_s)/(1−ᾱ_t) β.

        x0, x_t: (B,C,H,W). Returns the mean (B,C,H,W) and the variance, a scalar or (B,1,1,1).
        """
        a_t, a_s, beta = self._step(t, s)
        of_x0 = a_s.sqrt() * beta / (1 - a_t)
        of_x_t = (a_t / a_s).sqrt() * (1 - a_s) / (1 - a_t)
        variance = (1 - a_s) / (1 - a_t) * beta
        return (per_image(of_x0, x0) * x0 + per_image(of_x_t, x0) * x_t, per_image(variance, x0))

    def variances(self, t: Time, s: Time) -> tuple[Tensor, Tensor]:
        """Return β̃ and β, the bounds of the variance of a step from t to s.

        β = 1 − ᾱ_t/ᾱ_s is right for x_0 ~ N(0, I), and β̃ = (1−ᾱ_s)/(1−ᾱ_t) β for one fixed x_0
        (section 3.2). With s = 0 this β̃ is 0 and has no logarithm. There β̃ is that of the step
        from max(t, 2) to 1, the least of any step (if T = 1, β). Both: float64, on the CPU.
        """
        t, s = torch.as_tensor(t, device="cpu"), torch.as_tensor(s, device="cpu")
        _, _, beta = self._step(t, s)
        if self.T == 1:
            return beta, beta
        a_t, a_s, beta_before_0 = self._step(t.clamp(min=2), s.clamp(min=1))
        return (1 - a_s) / (1 - a_t) * beta_before_0, beta

    def _step(self, t: Time, s: Time) -> tuple[Tensor, Tensor, Tensor]:
        """Return ᾱ_t, ᾱ_s, and the variance β of the noise added between s and t."""
        before, after = torch.broadcast_tensors(self.index(t), self.index(s))
        wrong = after >= before
        if wrong.any():
            pair = f"from {int(before[wrong][0])} to {int(after[wrong][0])}"
            raise ValueError(f"a step must lead to an earlier time, not {pair}")
        a_t, a_s = self.alpha_bar[before], self.alpha_bar[after]
        return a_t, a_s, 1 - a_t / a_s

    def _at(self, table: Tensor, t: Time) -> Tensor:
        coefficient = table[self.index(t)].to(torch.float32)
        return on_device(coefficient, t.device) if isinstance(t, Tensor) else coefficient

    def index(self, t: Time, first: int = 0) -> Tensor:
        """Return t on the CPU. Raises ValueError for a time outside `first`..T."""
        index = torch.as_tensor(t, device="cpu")
        outside = (index < first) | (index > self.T)  # −1 would be read from the table's end
        if outside.any():
            hint = ". Pass a noisy x_t; t = 0 is the clean image." if first else ""
            raise ValueError(f"t must lie in {first}..{self.T}, not {int(index[outside][0])}{hint}")
        return index


def _checked(betas: Tensor) -> Tensor:
    """Return β_1 … β_T; raise ValueError unless each lies in (0, 1), or is 1 only at T."""
    if betas.ndim != 1 or len(betas) == 0:
        raise ValueError(f"betas must be a list of T ≥ 1 numbers, not {tuple(betas.shape)}")
    outside = ~((betas > 0) & (betas < 1))
    outside[-1] &= (len(betas) == 1) | (betas[-1] != 1)
    if outside.any():
        t = int(outside.nonzero()[0]) + 1
        raise ValueError(f"every β must lie between 0 and 1, but β_{t} = {betas[t - 1]:g}")
    return betas


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy the tensor to a device. For CUDA the CPU does not wait for the copy."""
    return tensor.to(device, non_blocking=device.type == "cuda")


def per_image(coefficient: Tensor, x: Tensor) -> Tensor:
    """Shape a coefficient () or (B,) to multiply x (B,C,H,W), on x's device, in its precision.

    Raises ValueError for integer x, whose precision would round the coefficient to 0.
    """
    if not x.is_floating_point():
        raise ValueError(
            f"images must be floating point, and these are {x.dtype}. Map bytes to [−1, 1] by "
            "x / 127.5 − 1."
        )
    coefficient = on_device(coefficient.to(x.dtype), x.device)  # in this order: MPS has no float64
    return coefficient.reshape(-1, *[1] * (x.ndim - 1)) if coefficient.ndim else coefficient
