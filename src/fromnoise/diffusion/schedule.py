"""The forward process: the share of image and noise at each t.

Equation numbers without a name are those of Ho, Jain and Abbeel, "Denoising Diffusion
Probabilistic Models", 2020 (arXiv:2006.11239).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fromnoise.diffusion.betas import SCHEDULES, with_zero_terminal_snr

Time = int | Tensor
"""A time t ∈ {0..T}: one integer for the whole batch, or an integer tensor (B,)."""


CPU = torch.device("cpu")
SMALLEST = 1e-20  # ᾱ_T; below it x̂_0 = (x_t − σ ε̂)/α multiplies the rounding of ε̂ by 10¹⁰


class NoiseSchedule:
    """A noise schedule: one float64 table of ᾱ_t, from which every coefficient is derived.

    `alpha_bar` has shape (T+1,): 1 for the clean image at t = 0, then ᾱ_t = Π_{i≤t} (1−β_i).
    `betas`, (T,), are as given. Both are on the CPU. Coefficients are computed there in float64,
    and each device gets its table of them once, in float32. They are returned on the device of t,
    those of an integer on the CPU.
    Methods raise ValueError for a time outside 0..T, and for a step that does not lead to an
    earlier time. A tensor t on a GPU is not checked, since the CPU would have to wait for it.
    """

    def __init__(self, betas: Tensor) -> None:
        """betas: β_1 … β_T, (T,), each in (0, 1), but β_T may be 1.

        Raises ValueError otherwise, and if ᾱ_1 is 1, ᾱ_{T−1} is 0, or ᾱ_T is nearly 0 but not 0.
        """
        betas = _checked(torch.as_tensor(betas, dtype=torch.float64, device="cpu"))
        self.betas = betas
        self.alpha_bar = torch.cat([betas.new_ones(1), torch.cumprod(1 - betas, dim=0)])
        last = len(betas) - (betas[-1] == 1).long()  # T−1 if ᾱ_T = 0
        if self.alpha_bar[last] < SMALLEST or self.alpha_bar[1] == 1:
            raise ValueError(
                f"these betas give ᾱ_1 = {self.alpha_bar[1]:g} and ᾱ_{last} = "
                f"{self.alpha_bar[last]:g}. Choose betas with ᾱ_1 below 1, and with ᾱ_T above "
                f"{SMALLEST:g} or exactly 0."
            )
        self._tables: dict[tuple[str, torch.device], Tensor] = {}

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
        return self._at("alpha", t)

    def sigma(self, t: Time) -> Tensor:
        """Return √(1−ᾱ_t), the standard deviation of the noise in x_t; float32, the shape of t."""
        return self._at("sigma", t)

    def snr(self, t: Time) -> Tensor:
        """Return ᾱ_t / (1−ᾱ_t), the signal-to-noise ratio; float32, infinite at t = 0."""
        return self._at("snr", t)

    def log_snr(self, t: Time) -> Tensor:
        """Return log ᾱ_t − log(1−ᾱ_t); float32, infinite at t = 0."""
        return self._at("log_snr", t)

    def add_noise(self, x0: Tensor, eps: Tensor, t: Time) -> Tensor:
        """Return x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε (Eq. 4). x0, eps: (B,C,H,W); t: int or (B,)."""
        _, alpha, sigma = self.shares(t, x0)
        return alpha * x0 + sigma * eps

    def shares(self, t: Time, x: Tensor, first: int = 0) -> tuple[Time, Tensor, Tensor]:
        """Return t on the device of x, and √ᾱ_t and √(1−ᾱ_t) as `per_image` shapes them for x.

        t is copied at most once. Raises ValueError for a time outside `first`..T.
        """
        self.check(t, first)
        if isinstance(t, Tensor):
            t = on_device(t, x.device)
        alpha, sigma = (per_image(self._look_up(name, t), x) for name in ("alpha", "sigma"))
        return t, alpha, sigma

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
        from max(t, 2) to 1, the least of any step (if T = 1, β). Both: float64.
        """
        _, _, beta = self._step(t, s)
        if self.T == 1:
            return beta, beta
        a_t, a_s, beta_before_0 = self._step(_at_least(t, 2), _at_least(s, 1))
        return (1 - a_s) / (1 - a_t) * beta_before_0, beta

    def _step(self, t: Time, s: Time) -> tuple[Tensor, Tensor, Tensor]:
        """Return ᾱ_t, ᾱ_s, and the variance β of the noise added between s and t."""
        self.check(t)
        self.check(s)
        devices = [each.device for each in (t, s) if isinstance(each, Tensor)]
        if all(device == CPU for device in devices) and torch.as_tensor(s >= t).any():
            before, after = torch.broadcast_tensors(torch.as_tensor(t), torch.as_tensor(s))
            wrong = after >= before
            pair = f"from {int(before[wrong][0])} to {int(after[wrong][0])}"
            raise ValueError(f"a step must lead to an earlier time, not {pair}")
        device = next((each for each in devices if each != CPU), CPU)
        if device.type == "mps":  # it has no float64
            device = CPU
        t, s = (on_device(each, device) if isinstance(each, Tensor) else each for each in (t, s))
        a_t, a_s = self._look_up("alpha_bar", t, device), self._look_up("alpha_bar", s, device)
        return a_t, a_s, 1 - a_t / a_s

    def _at(self, name: str, t: Time) -> Tensor:
        self.check(t)
        return self._look_up(name, t)

    def _look_up(self, name: str, t: Time, device: torch.device = CPU) -> Tensor:
        """Return the entry of a table at each t; of an integer t from the table on `device`."""
        if not isinstance(t, Tensor):
            return self._table(name, device)[t].clone()
        table = self._table(name, t.device)
        return table[t] if t.ndim else table[t[None]][0]  # table[t] would read a t of () first

    def _table(self, name: str, device: torch.device) -> Tensor:
        """Return the table `name`, (T+1,), on a device: ᾱ in float64, all others in float32."""
        table = self._tables.get((name, device))
        if table is None:
            with torch.inference_mode(False):  # a training may use it later
                table = self.alpha_bar
                if name in TABLES:
                    table = TABLES[name](table).to(torch.float32)
                table = self._tables[name, device] = on_device(table, device)
        return table

    def check(self, t: Time, first: int = 0) -> None:
        """Raise ValueError for a time outside `first`..T. On a GPU nothing is checked."""
        if isinstance(t, Tensor):
            if t.device != CPU:
                return
            outside = (t < first) | (t > self.T)  # −1 would be read from the table's end
            if not outside.any():
                return
            t = int(t[outside][0])
        if not first <= t <= self.T:
            hint = ". Pass a noisy x_t; t = 0 is the clean image." if first else ""
            raise ValueError(f"t must lie in {first}..{self.T}, not {t}{hint}")


TABLES: dict[str, Callable[[Tensor], Tensor]] = {  # of ᾱ
    "alpha": torch.sqrt,
    "sigma": lambda alpha_bar: (1 - alpha_bar).sqrt(),
    "snr": lambda alpha_bar: alpha_bar / (1 - alpha_bar),
    "log_snr": lambda alpha_bar: alpha_bar.log() - (1 - alpha_bar).log(),
}


def _at_least(t: Time, least: int) -> Time:
    return t.clamp(min=least) if isinstance(t, Tensor) else max(t, least)


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
    """Copy the tensor to a device. For CUDA from page-locked memory: the CPU does not wait."""
    if device.type != "cuda" or tensor.device != CPU:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def per_image(coefficient: Tensor, x: Tensor) -> Tensor:
    """Shape a coefficient () or (B,) to multiply x (B,C,H,W), in its precision.

    One of (B,) is copied to the device of x. One of () on the CPU stays there: kernels take it as
    an argument. Raises ValueError for integer x, whose precision would round the coefficient to 0.
    """
    if not x.is_floating_point():
        raise ValueError(
            f"images must be floating point, and these are {x.dtype}. Map bytes to [−1, 1] by "
            "x / 127.5 − 1."
        )
    coefficient = coefficient.to(x.dtype)  # before the copy: MPS has no float64
    if coefficient.ndim:
        return on_device(coefficient, x.device).reshape(-1, *[1] * (x.ndim - 1))
    return coefficient if coefficient.device == CPU else coefficient.to(x.device)
