"""SigmoidDDIMScheduler: DDIM with the sigmoid, cosine, linear and quadratic noise schedules that the thesis compared.

This file is shipped with checkpoints: it imports nothing of the package.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
TIMESTEP_SPACINGS = ("leading", "trailing", "linspace")
SCHEDULE_OPTIONS = ("noise_schedule", "start", "end", "tau", "min_signal_rate", "max_signal_rate", "signal_rate_bounds")
"""What the betas are computed from; without effect beside `trained_betas`."""


def _bounded(curve: Callable[[Array], Array], t: Array, start: float, end: float) -> Array:
    """(c(end) - c(t (end - start) + start)) / (c(end) - c(start)) of a curve c: from 1 at t = 0 to 0 at t = 1."""
    at_start, at_end = curve(np.array(start)), curve(np.array(end))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (at_end - curve(t * (end - start) + start)) / (at_end - at_start)


def sigmoid_gamma(t: Array, start: float, end: float, tau: float) -> Array:
    """Cumulative alpha of the sigmoid schedule at times t in [0, 1] (Chen 2023, arXiv 2301.10972, section 2.1)."""
    return _bounded(lambda x: 1.0 / (1.0 + np.exp(-x / tau)), t, start, end)


def cosine_gamma(t: Array, start: float, end: float, tau: float) -> Array:
    """Cumulative alpha of the cosine schedule at times t in [0, 1] (Chen 2023, section 2.1)."""

    def curve(x: Array) -> Array:
        # Rounding may leave cos(pi/2) just below 0, where a fractional power has no real value.
        cosine = np.cos(x * np.pi / 2)
        return np.where(np.abs(cosine) < 1e-15, 0.0, cosine) ** (2 * tau)

    return _bounded(curve, t, start, end)


def linear_gamma(t: Array) -> Array:
    """Cumulative alpha 1 - t: the noise variance grows by the same amount each step (thesis section 3.12)."""
    return 1.0 - t


def quadratic_gamma(t: Array) -> Array:
    """Cumulative alpha 1 - t^2 (thesis section 6.1)."""
    return 1.0 - t**2


NOISE_SCHEDULES: dict[str, tuple[Callable[..., Array], dict[str, float]]] = {
    "sigmoid": (sigmoid_gamma, {"start": 0.0, "end": 3.0, "tau": 0.6}),
    "cosine": (cosine_gamma, {"start": 0.0, "end": 1.0, "tau": 1.0}),
    "linear": (linear_gamma, {}),
    "quadratic": (quadratic_gamma, {}),
}
"""Each schedule's cumulative alpha, and its parameters' defaults."""


def signal_rates(
    num_train_timesteps: int,
    noise_schedule: str,
    start: float | None,
    end: float | None,
    tau: float | None,
    min_signal_rate: float,
    max_signal_rate: float,
    bounds: str,
) -> Array:
    """Signal rates (N,) = sqrt(alphas_cumprod) of a schedule in float64, the first the cleanest, within their bounds.

    Raises:
        ValueError: If an argument is not allowed, or the schedule's cumulative alpha leaves [0, 1], rises, or mostly
            stays the same.
    """
    if noise_schedule not in NOISE_SCHEDULES:
        raise ValueError(f"noise_schedule={noise_schedule!r}: choose one of {', '.join(NOISE_SCHEDULES)}.")
    if bounds not in ("rescale", "clip"):
        raise ValueError(f"signal_rate_bounds={bounds!r}: choose rescale or clip.")
    if not 0.0 < min_signal_rate < max_signal_rate <= 1.0:
        raise ValueError(
            f"min_signal_rate={min_signal_rate}, max_signal_rate={max_signal_rate}: they must satisfy "
            "0 < min < max <= 1."
        )
    if num_train_timesteps < 2:
        raise ValueError(f"num_train_timesteps={num_train_timesteps}: give 2 or more.")
    curve, defaults = NOISE_SCHEDULES[noise_schedule]
    given = {name: value for name, value in (("start", start), ("end", end), ("tau", tau)) if value is not None}
    parameters = {**defaults, **given}
    words = _words(parameters)
    if given and not defaults:
        raise ValueError(f"The {noise_schedule} schedule got {words}, but has no start, end and tau: leave them out.")
    if parameters.get("tau", 1.0) <= 0:
        raise ValueError(f"The {noise_schedule} schedule got {words}: tau must be above 0.")
    gamma = curve(np.linspace(0.0, 1.0, num_train_timesteps), **parameters)
    rounding = 1e-12
    if not np.isfinite(gamma).all() or gamma.min() < -rounding or gamma.max() > 1 + rounding:
        raise ValueError(
            f"The {noise_schedule} schedule with {words} has cumulative alphas outside [0, 1]; its default is "
            f"{_words(defaults)}."
        )
    if (np.diff(gamma) > rounding).any():
        raise ValueError(f"The {noise_schedule} schedule with {words} has cumulative alphas that rise with time.")
    rates = np.sqrt(np.clip(gamma, 0.0, 1.0))
    if bounds == "clip":
        return np.clip(rates, min_signal_rate, max_signal_rate)
    rates = min_signal_rate + (max_signal_rate - min_signal_rate) * rates
    if 2 * len(levels := np.unique(rates)) < num_train_timesteps:
        raise ValueError(
            f"The {noise_schedule} schedule with {words} has {len(levels)} distinct levels in {num_train_timesteps} "
            f"timesteps, so most of these are the same: give a curve less sharp; its default is {_words(defaults)}."
        )
    return rates


def _words(parameters: dict[str, float]) -> str:
    return ", ".join(f"{name}={value}" for name, value in parameters.items())


def betas_from_alphas_cumprod(alphas_cumprod: Array) -> Array:
    """Turn cumulative alphas (N,) into the betas (N,) whose cumulative product gives them back."""
    return 1.0 - alphas_cumprod / np.concatenate([[1.0], alphas_cumprod[:-1]])


def _fingerprint(betas: Sequence[float] | Array) -> str:
    return hashlib.sha256(np.asarray(betas, dtype="<f8").tobytes()).hexdigest()[:16]


class SigmoidDDIMScheduler(SchedulerMixin, ConfigMixin):
    """DDIM (Song et al. 2021) with the noise schedules of Chen 2023 and of the thesis (sections 3.12 and 6.1).

    Step i of N stands for t = i / (N - 1): timestep 0 is the cleanest. The betas are kept in the config, so that
    diffusers' `from_config` swap gives any of its solvers the same schedule; built from such a config with another
    schedule, this class computes its betas anew.

    Args:
        num_train_timesteps: Number of noise levels.
        noise_schedule: "sigmoid", "cosine", "linear" or "quadratic".
        start: Start of the sigmoid's or cosine's curve; None for the default (0, 0).
        end: End of that curve; None for the default (3, 1).
        tau: Temperature of that curve; None for the default (0.6, 1).
        min_signal_rate: Signal rate sqrt(alphas_cumprod) of the noisiest level, above 0.
        max_signal_rate: Signal rate of the cleanest level, at most 1.
        signal_rate_bounds: "rescale" fits the rates between the bounds; "clip" cuts them off there.
        prediction_type: What the network predicts: "epsilon", "sample" or "v_prediction".
        clip_sample: Whether predicted images are clipped to +-`clip_sample_range`.
        timestep_spacing: "trailing", "leading" or "linspace" (Lin et al. 2023, table 2).
        trained_betas: Betas (N,) that replace the noise schedule.
        clip_sample_range: Bound of the clipping.
        thresholding: Whether predicted images are thresholded dynamically (Saharia et al. 2022, section 2.3) instead.
        dynamic_thresholding_ratio: Quantile of the absolute pixel values that dynamic thresholding takes as bound.
        sample_max_value: Highest bound of dynamic thresholding.
        steps_offset: Added to the timesteps of leading spacing.
        computed_betas: Fingerprint of betas that this class computed itself; tells them from given ones.

    Raises:
        ValueError: If an argument is not allowed, or the schedule leaves [0, 1] or rises.
    """

    _compatibles = [e.name for e in KarrasDiffusionSchedulers]  # noqa: RUF012 - diffusers reads a list
    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        noise_schedule: str = "sigmoid",
        start: float | None = None,
        end: float | None = None,
        tau: float | None = None,
        min_signal_rate: float = 0.01,
        max_signal_rate: float = 0.95,
        signal_rate_bounds: str = "rescale",
        prediction_type: str = "epsilon",
        clip_sample: bool = True,
        timestep_spacing: str = "trailing",
        trained_betas: Sequence[float] | None = None,
        clip_sample_range: float = 1.0,
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        steps_offset: int = 0,
        computed_betas: str | None = None,
    ) -> None:
        if prediction_type not in PREDICTION_TYPES:
            raise ValueError(f"prediction_type={prediction_type!r}: choose one of {', '.join(PREDICTION_TYPES)}.")
        if timestep_spacing not in TIMESTEP_SPACINGS:
            raise ValueError(f"timestep_spacing={timestep_spacing!r}: choose one of {', '.join(TIMESTEP_SPACINGS)}.")
        if trained_betas is not None and computed_betas != _fingerprint(trained_betas):
            betas = np.asarray(trained_betas, dtype=np.float64)
            if betas.shape != (num_train_timesteps,) or not ((betas >= 0) & (betas < 1)).all():
                raise ValueError(
                    f"trained_betas must be {num_train_timesteps} numbers (num_train_timesteps) in [0, 1); got shape "
                    f"{betas.shape}{f', from {betas.min()} to {betas.max()}' if betas.size else ''}."
                )
            self.register_to_config(trained_betas=betas.tolist(), computed_betas=None)
            alphas_cumprod = np.cumprod(1.0 - betas)
        else:
            rates = signal_rates(
                num_train_timesteps,
                noise_schedule,
                start,
                end,
                tau,
                min_signal_rate,
                max_signal_rate,
                signal_rate_bounds,
            )
            alphas_cumprod = rates**2
            betas = betas_from_alphas_cumprod(alphas_cumprod)
            # Betas of another processor differ in their last bit: kept, a config saves again as it was.
            before = np.asarray(betas if trained_betas is None else trained_betas, dtype=np.float64)
            if before.shape == betas.shape and np.allclose(before, betas, rtol=1e-6, atol=1e-12):
                betas = before
            self.register_to_config(trained_betas=betas.tolist(), computed_betas=_fingerprint(betas))
        # Otherwise from_config of another class drops what was left at our defaults, the betas among it.
        self.register_to_config(_use_default_values=[])

        self.betas = torch.tensor(betas, dtype=torch.float32)
        self.alphas = 1.0 - self.betas
        self.alphas_cumprod = torch.tensor(alphas_cumprod, dtype=torch.float32)
        self.final_alpha_cumprod = torch.tensor(1.0)
        self.init_noise_sigma = 1.0
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(num_train_timesteps - 1, -1, -1)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Build a scheduler from its config, or from that of another scheduler, whose betas it takes over.

        Args:
            config: The config.
            return_unused_kwargs: Whether to return the options that it doesn't have too.
            kwargs: What differs from the config.

        Raises:
            ValueError: If it is the config of another scheduler that doesn't hold its betas, or an option doesn't fit.
        """
        foreign = isinstance(config, Mapping) and "beta_schedule" in config and config.get("trained_betas") is None
        if foreign and "trained_betas" not in kwargs:
            raise ValueError(
                f"The config's betas come from beta_schedule={config['beta_schedule']!r}, which SigmoidDDIMScheduler "
                "doesn't have: pass trained_betas=scheduler.betas.tolist(), or trained_betas=None for a schedule anew."
            )
        return super().from_config(config, return_unused_kwargs=return_unused_kwargs, **kwargs)

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    def scale_model_input(self, sample: Tensor, timestep: Tensor | int | None = None) -> Tensor:
        """Return the sample as it is: DDIM's network sees it unscaled."""
        return sample

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Choose the timesteps to visit, from the noisiest to the cleanest.

        Args:
            num_inference_steps: How many, spread by `timestep_spacing`; any number up to `num_train_timesteps`.
            device: Where `timesteps` will lie.
            timesteps: The timesteps themselves, falling, instead of a number.

        Raises:
            ValueError: If the number or the timesteps don't fit the schedule.
        """
        total = self.config.num_train_timesteps
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError("Give either num_inference_steps or timesteps.")
        if timesteps is not None:
            chosen = np.asarray(timesteps, dtype=np.int64)
            if (
                chosen.ndim != 1
                or not chosen.size
                or chosen.max() >= total
                or chosen.min() < 0
                or (np.diff(chosen) >= 0).any()
            ):
                raise ValueError(f"timesteps must fall from at most {total - 1} to at least 0; got {list(timesteps)}.")
        else:
            chosen = self._spread(num_inference_steps, total)
        self.num_inference_steps = len(chosen)
        self.timesteps = torch.from_numpy(chosen).to(device)

    def _spread(self, count: int | None, total: int) -> NDArray[np.int64]:
        if not isinstance(count, int | np.integer) or not 1 <= count <= total:
            raise ValueError(f"num_inference_steps={count}: give a whole number from 1 to num_train_timesteps={total}.")
        if self.config.timestep_spacing == "trailing":
            # Counting i down, not stepping by total / count, whose rounding error can add a step.
            return np.rint(total - np.arange(count) * (total / count)).astype(np.int64) - 1
        if self.config.timestep_spacing == "linspace":
            return np.rint(np.linspace(0, total - 1, count))[::-1].astype(np.int64)
        leading = (np.arange(count) * (total // count))[::-1] + self.config.steps_offset
        if leading[0] >= total:
            raise ValueError(f"steps_offset={self.config.steps_offset} puts {count} leading steps beyond {total - 1}.")
        return leading.astype(np.int64)

    def _alpha_pair(self, timestep: int) -> tuple[float, float]:
        """Cumulative alphas at a timestep and at the next cleaner one to visit (1 after the last)."""
        cleaner = self.timesteps[self.timesteps < timestep]
        before = float(self.alphas_cumprod[int(cleaner.max())]) if len(cleaner) else float(self.final_alpha_cumprod)
        return float(self.alphas_cumprod[timestep]), before

    def _threshold(self, sample: Tensor) -> Tensor:
        """Threshold predicted images (B, ...): clip at a quantile s of |x|, divide by s (Saharia et al. 2022)."""
        flat = sample.float().flatten(1)
        bound = torch.quantile(flat.abs(), self.config.dynamic_thresholding_ratio, dim=1, keepdim=True)
        bound = bound.clamp(1.0, self.config.sample_max_value)
        return (flat.clamp(-bound, bound) / bound).reshape(sample.shape).to(sample.dtype)

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | int,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple[Tensor, Tensor]:
        """Go from a noisy sample to the next cleaner one (Song et al. 2021, eq. 12 and 16; thesis section 3.12).

        Args:
            model_output: The network's prediction (B, C, H, W).
            timestep: The timestep of `sample`.
            sample: The noisy sample (B, C, H, W).
            eta: Share of DDPM's noise to add: 0 is DDIM, 1 is DDPM.
            use_clipped_model_output: Whether the noise is derived again from the clipped predicted image.
            generator: Source of the added noise; a list gives each image its own.
            variance_noise: The added noise itself, instead of a generator.
            return_dict: Whether to return an output object rather than a tuple.

        Returns:
            `prev_sample` and `pred_original_sample` (B, C, H, W); after the last timestep the former is the latter.

        Raises:
            ValueError: If `set_timesteps` was not called, or the timestep or the noise arguments don't fit.
        """
        if self.num_inference_steps is None:
            raise ValueError("Call set_timesteps before step.")
        if generator is not None and variance_noise is not None:
            raise ValueError("Give either generator or variance_noise, not both.")
        timestep = int(timestep)
        if not 0 <= timestep < self.config.num_train_timesteps:
            raise ValueError(f"timestep={timestep}: it must lie in [0, {self.config.num_train_timesteps - 1}].")
        alpha, alpha_before = self._alpha_pair(timestep)
        signal, noise = math.sqrt(alpha), math.sqrt(1.0 - alpha)

        image, epsilon = self._predictions(model_output, sample, signal, noise)
        if self.config.thresholding:
            image = self._threshold(image)
        elif self.config.clip_sample:
            image = image.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
        if use_clipped_model_output:
            epsilon = (sample - signal * image) / max(noise, 1e-12)

        sigma = (
            eta * math.sqrt((1 - alpha_before) / max(1 - alpha, 1e-24)) * math.sqrt(max(0.0, 1 - alpha / alpha_before))
        )
        direction = math.sqrt(max(0.0, 1 - alpha_before - sigma**2))
        before = math.sqrt(alpha_before) * image + direction * epsilon
        if sigma > 0:
            if variance_noise is None:
                variance_noise = randn_tensor(
                    sample.shape, generator=generator, device=sample.device, dtype=model_output.dtype
                )
            before = before + sigma * variance_noise
        if not return_dict:
            return before, image
        return DDIMSchedulerOutput(prev_sample=before, pred_original_sample=image)

    def _predictions(self, output: Tensor, sample: Tensor, signal: float, noise: float) -> tuple[Tensor, Tensor]:
        """The predicted image and noise, from any of the three prediction types (Salimans and Ho 2022, appendix D)."""
        if self.config.prediction_type == "epsilon":
            return (sample - noise * output) / signal, output
        if self.config.prediction_type == "sample":
            return output, (sample - signal * output) / max(noise, 1e-12)
        return signal * sample - noise * output, signal * output + noise * sample

    def _rates_at(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise rates (B, 1, ...) at timesteps (B,), in the dtype and on the device of `like`."""
        alpha = self.alphas_cumprod.to(like.device)[timesteps.to(like.device)].reshape(-1, *[1] * (like.ndim - 1))
        # The root of 1 - alpha is taken in float32: half precision would lose it at the clean end.
        return alpha.sqrt().to(like.dtype), (1.0 - alpha).sqrt().to(like.dtype)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Mix images (B, C, H, W) and noise at timesteps (B,): signal rate x image + noise rate x noise."""
        signal_rate, noise_rate = self._rates_at(timesteps, original_samples)
        return signal_rate * original_samples + noise_rate * noise

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Velocity of images (B, C, H, W) and noise at timesteps (B,): signal rate x noise - noise rate x image."""
        signal_rate, noise_rate = self._rates_at(timesteps, sample)
        return signal_rate * noise - noise_rate * sample
