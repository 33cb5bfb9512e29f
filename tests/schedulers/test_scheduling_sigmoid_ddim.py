"""SigmoidDDIMScheduler: against formulas in float64 written down here, and the contract of diffusers' common tests."""

import json
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from scipy.special import expit
from torch import Tensor

from wbc_diffusers import SigmoidDDIMScheduler
from wbc_diffusers.schedulers.scheduling_sigmoid_ddim import _fingerprint, sigmoid_gamma

SWAPS = [
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "HeunDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DDPMScheduler",
    "DDIMScheduler",
]


def gamma_by_hand(schedule: str, t: np.ndarray, start: float, end: float, tau: float) -> np.ndarray:
    """Chen 2023 (arXiv 2301.10972), algorithm 1; linear and quadratic as the thesis describes them."""
    if schedule == "sigmoid":
        first, last = expit(start / tau), expit(end / tau)
        return (last - expit((t * (end - start) + start) / tau)) / (last - first)
    if schedule == "cosine":
        first, last = np.cos(start * np.pi / 2) ** (2 * tau), max(np.cos(end * np.pi / 2), 0.0) ** (2 * tau)
        along = np.maximum(np.cos((t * (end - start) + start) * np.pi / 2), 0.0) ** (2 * tau)
        return (last - along) / (last - first)
    return 1 - t if schedule == "linear" else 1 - t**2


def alphas_by_hand(schedule="sigmoid", start=0.0, end=3.0, tau=0.6, low=0.01, high=0.95, bounds="rescale", count=1000):
    signal = np.sqrt(np.clip(gamma_by_hand(schedule, np.arange(count) / (count - 1), start, end, tau), 0, 1))
    signal = low + (high - low) * signal if bounds == "rescale" else np.minimum(np.maximum(signal, low), high)
    return signal**2


def batch(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sample, output = torch.randn(2, 2, 3, 4, 4, generator=generator, dtype=torch.float64)
    return sample.to(dtype), output.to(dtype)


# The noise schedules.


@pytest.mark.parametrize("bounds", ["rescale", "clip"])
@pytest.mark.parametrize(
    ("schedule", "start", "end", "tau"),
    [
        ("sigmoid", 0.0, 3.0, 0.6),
        ("sigmoid", -3.0, 3.0, 1.1),
        ("cosine", 0.0, 1.0, 1.0),
        ("cosine", 0.2, 1.0, 0.7),
        ("linear", None, None, None),
        ("quadratic", None, None, None),
    ],
)
def test_cumulative_alphas_equal_the_formulas_in_float64(schedule, start, end, tau, bounds):
    scheduler = SigmoidDDIMScheduler(
        noise_schedule=schedule, start=start, end=end, tau=tau, signal_rate_bounds=bounds, min_signal_rate=0.02
    )
    expected = alphas_by_hand(schedule, start, end, tau, low=0.02, bounds=bounds)
    np.testing.assert_allclose(scheduler.alphas_cumprod.numpy(), expected, atol=1e-6)
    betas = np.asarray(scheduler.config.trained_betas)
    np.testing.assert_allclose(np.cumprod(1 - betas), expected, atol=1e-12)
    assert ((betas >= 0) & (betas < 1)).all()


@pytest.mark.parametrize(("schedule", "defaults"), [("sigmoid", (0, 3, 0.6)), ("cosine", (0, 1, 1))])
def test_start_end_and_tau_default_to_those_of_the_schedule(schedule, defaults):
    found = SigmoidDDIMScheduler(noise_schedule=schedule).alphas_cumprod.numpy()
    np.testing.assert_allclose(found, alphas_by_hand(schedule, *defaults), atol=1e-6)


def test_signal_rates_run_from_the_highest_at_step_zero_to_the_lowest():
    rates = SigmoidDDIMScheduler().alphas_cumprod.sqrt()
    assert rates[0] == pytest.approx(0.95, abs=1e-6)
    assert rates[-1] == pytest.approx(0.01, abs=1e-6)
    assert (rates.diff() < 0).all()


def test_sigmoid_is_half_way_where_its_argument_is():
    # expit is odd about 1/2, so from -3 to 3 the middle of the time is the middle of the curve, whatever tau.
    assert sigmoid_gamma(np.array(0.5), -3.0, 3.0, 0.4) == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"noise_schedule": "tanh"}, "noise_schedule='tanh': choose one of sigmoid, cosine, linear, quadratic"),
        ({"signal_rate_bounds": "wrap"}, "signal_rate_bounds='wrap': choose rescale or clip"),
        ({"prediction_type": "flow"}, "prediction_type='flow': choose one of epsilon, sample, v_prediction"),
        ({"timestep_spacing": "karras"}, "timestep_spacing='karras': choose one of leading"),
        ({"min_signal_rate": 0.0}, "must satisfy 0 < min < max <= 1"),
        ({"max_signal_rate": 1.1}, "max_signal_rate=1.1"),
        ({"tau": -1.0}, "tau must be above 0"),
        ({"noise_schedule": "linear", "start": -3.0}, r"linear schedule got start=-3.0, but has no start, end and tau"),
        ({"start": 1.0, "end": 1.0}, r"start=1.0, end=1.0.*outside \[0, 1\]; its default is start=0.0, end=3.0"),
        ({"noise_schedule": "cosine", "end": 2.5}, r"outside \[0, 1\]"),
        ({"noise_schedule": "cosine", "start": -0.5, "end": 1.0}, r"outside \[0, 1\]|rise with time"),
        ({"num_train_timesteps": 1}, "num_train_timesteps=1: give 2 or more"),
        ({"tau": 1e-9}, "sigmoid schedule with .*tau=1e-09 has 2 distinct levels in 1000 timesteps.*give a curve less"),
        ({"trained_betas": [0.1, 0.2]}, r"trained_betas must be 1000 numbers.*got shape \(2,\), from 0.1 to 0.2"),
        ({"trained_betas": [0.1] * 999 + [1.0]}, r"in \[0, 1\)"),
    ],
)
def test_bad_schedule_is_refused(changes, error):
    with pytest.raises(ValueError, match=error):
        SigmoidDDIMScheduler(**changes)


def test_sharp_curves_of_the_literature_and_clipped_ones_are_taken():
    for start, tau in ((0, 0.3), (0, 0.1), (-3, 0.1)):  # the sharpest that Chen 2023 draws
        assert SigmoidDDIMScheduler(start=start, tau=tau).alphas_cumprod.diff().max() <= 0
    clipped = SigmoidDDIMScheduler(signal_rate_bounds="clip", max_signal_rate=0.3, min_signal_rate=0.2)
    assert len(clipped.alphas_cumprod.unique()) < 200


# Given and computed betas.


def test_given_betas_replace_the_schedule_and_survive_from_config():
    betas = np.linspace(1e-4, 0.02, 1000)
    scheduler = SigmoidDDIMScheduler(trained_betas=betas.tolist())
    np.testing.assert_allclose(scheduler.alphas_cumprod.numpy(), np.cumprod(1 - betas), atol=1e-6)
    changed = SigmoidDDIMScheduler.from_config(scheduler.config, min_signal_rate=0.008)
    assert torch.equal(changed.alphas_cumprod, scheduler.alphas_cumprod)


def test_computed_betas_are_computed_anew_from_config():
    scheduler = SigmoidDDIMScheduler()
    changed = SigmoidDDIMScheduler.from_config(scheduler.config, min_signal_rate=0.008)
    np.testing.assert_allclose(changed.alphas_cumprod.numpy(), alphas_by_hand(low=0.008), atol=1e-6)
    given = SigmoidDDIMScheduler.from_config(scheduler.config, trained_betas=[0.01] * 1000)
    np.testing.assert_allclose(given.alphas_cumprod.numpy(), 0.99 ** np.arange(1, 1001), atol=1e-6)


def test_betas_of_another_processor_are_kept():
    config = dict(SigmoidDDIMScheduler().config)
    betas = np.nextafter(config["trained_betas"], 1.0)
    elsewhere = {**config, "trained_betas": betas.tolist(), "computed_betas": _fingerprint(betas)}
    again = SigmoidDDIMScheduler.from_config(elsewhere).config
    assert again["trained_betas"] == betas.tolist() != config["trained_betas"]
    assert again["computed_betas"] == elsewhere["computed_betas"]


def test_config_comes_back_from_its_file(tmp_path: Path):
    scheduler = SigmoidDDIMScheduler(noise_schedule="cosine", min_signal_rate=0.008, prediction_type="v_prediction")
    scheduler.save_pretrained(tmp_path)
    loaded = SigmoidDDIMScheduler.from_pretrained(tmp_path)
    assert loaded.config == scheduler.config
    assert torch.equal(loaded.alphas_cumprod, scheduler.alphas_cumprod)
    assert json.loads((tmp_path / "scheduler_config.json").read_text())["_class_name"] == "SigmoidDDIMScheduler"
    changed = SigmoidDDIMScheduler.from_pretrained(tmp_path, min_signal_rate=0.02)
    np.testing.assert_allclose(changed.alphas_cumprod.numpy(), alphas_by_hand("cosine", 0, 1, 1, low=0.02), atol=1e-6)


@pytest.mark.parametrize("name", SWAPS)
def test_swap_keeps_cumulative_alphas_and_leads_back(name):
    scheduler = SigmoidDDIMScheduler(min_signal_rate=0.008, prediction_type="v_prediction")
    swapped = getattr(diffusers, name).from_config(scheduler.config)
    np.testing.assert_allclose(swapped.alphas_cumprod.numpy(), alphas_by_hand(low=0.008), atol=1e-6)
    assert swapped.config.prediction_type == "v_prediction"
    assert swapped.config.timestep_spacing == "trailing"
    back = SigmoidDDIMScheduler.from_config(swapped.config)
    assert torch.equal(back.alphas_cumprod, scheduler.alphas_cumprod)
    assert back.config.min_signal_rate == 0.008


def test_every_compatible_scheduler_of_diffusers_takes_the_schedule():
    scheduler = SigmoidDDIMScheduler()
    # No schedule of its own; a package that is not installed.
    without = {"EDMEulerScheduler", "EDMDPMSolverMultistepScheduler", "DPMSolverSDEScheduler"}
    taken = [cls for cls in scheduler.compatibles if cls.__name__ not in without]
    assert len(taken) >= 12
    for cls in taken:
        swapped = cls.from_config(scheduler.config)
        np.testing.assert_allclose(swapped.alphas_cumprod.numpy(), alphas_by_hand(), atol=1e-6, err_msg=cls.__name__)
        assert SigmoidDDIMScheduler.from_config(swapped.config).config.min_signal_rate == 0.01


def test_config_of_another_scheduler_without_its_betas_is_refused():
    theirs = diffusers.DDIMScheduler(beta_schedule="squaredcos_cap_v2")
    with pytest.raises(ValueError, match=r"from beta_schedule='squaredcos_cap_v2'.*pass trained_betas=scheduler.betas"):
        SigmoidDDIMScheduler.from_config(theirs.config)
    taken = SigmoidDDIMScheduler.from_config(theirs.config, trained_betas=theirs.betas.tolist())
    np.testing.assert_allclose(taken.alphas_cumprod.numpy(), theirs.alphas_cumprod.numpy(), atol=1e-6)
    anew = SigmoidDDIMScheduler.from_config(theirs.config, trained_betas=None)
    np.testing.assert_allclose(anew.alphas_cumprod.numpy(), alphas_by_hand(), atol=1e-6)


# Timesteps.


@pytest.mark.parametrize(
    ("spacing", "count", "expected"),
    [
        ("trailing", 4, [999, 749, 499, 249]),
        ("trailing", 3, [999, 666, 332]),
        ("leading", 4, [750, 500, 250, 0]),
        ("linspace", 4, [999, 666, 333, 0]),
        ("trailing", 1, [999]),
        ("linspace", 1000, list(range(999, -1, -1))),
        ("trailing", 1000, list(range(999, -1, -1))),
    ],
)
def test_spacing_of_timesteps(spacing, count, expected):
    scheduler = SigmoidDDIMScheduler(timestep_spacing=spacing)
    scheduler.set_timesteps(count)
    assert scheduler.timesteps.tolist() == expected
    assert scheduler.timesteps.dtype == torch.int64
    assert scheduler.num_inference_steps == count


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("count", [1, 2, 5, 20, 25, 50, 100, 500])
def test_spacing_is_that_of_diffusers_where_the_count_divides(spacing, count):
    ours = SigmoidDDIMScheduler(timestep_spacing=spacing)
    theirs = diffusers.DDIMScheduler.from_config(ours.config)
    ours.set_timesteps(count)
    theirs.set_timesteps(count)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()


def test_every_count_gives_so_many_falling_steps():
    for spacing in ("trailing", "leading", "linspace"):
        scheduler = SigmoidDDIMScheduler(num_train_timesteps=100, timestep_spacing=spacing)
        for count in range(1, 101):
            scheduler.set_timesteps(count)
            assert len(scheduler.timesteps) == count
            assert (scheduler.timesteps.diff() < 0).all()
            assert scheduler.timesteps.min() >= 0
            assert scheduler.timesteps.max() <= 99


def test_timesteps_may_be_chosen():
    scheduler = SigmoidDDIMScheduler()
    scheduler.set_timesteps(timesteps=[999, 400, 3])
    assert scheduler.timesteps.tolist() == [999, 400, 3]
    sample, output = batch()
    before = scheduler.step(output, 400, sample).pred_original_sample
    alpha = scheduler.alphas_cumprod[3]
    expected = alpha.sqrt() * before + (1 - alpha).sqrt() * output
    torch.testing.assert_close(scheduler.step(output, 400, sample).prev_sample, expected)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps=0: give a whole number from 1 to num_train_timesteps=1000"),
        ({"num_inference_steps": 1001}, "num_inference_steps=1001"),
        ({"num_inference_steps": 2.5}, "num_inference_steps=2.5: give a whole number"),
        ({}, "Give either num_inference_steps or timesteps"),
        ({"num_inference_steps": 3, "timesteps": [3, 2, 1]}, "Give either num_inference_steps or timesteps"),
        ({"timesteps": [3, 3]}, r"must fall from at most 999 to at least 0; got \[3, 3\]"),
        ({"timesteps": [1000, 3]}, "must fall from at most 999"),
        ({"timesteps": []}, "must fall from at most 999"),
    ],
)
def test_bad_timesteps_are_refused(arguments, error):
    with pytest.raises(ValueError, match=error):
        SigmoidDDIMScheduler().set_timesteps(**arguments)


# Steps.


def predictions_by_hand(kind: str, output: Tensor, sample: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    signal, noise = alpha**0.5, (1 - alpha) ** 0.5
    if kind == "epsilon":
        return (sample - noise * output) / signal, output
    if kind == "sample":
        return output, (sample - signal * output) / noise
    image = signal * sample - noise * output
    return image, (sample - signal * image) / noise


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_step_is_equation_12_of_ddim(kind, eta):
    scheduler = SigmoidDDIMScheduler(prediction_type=kind, clip_sample=False)
    scheduler.set_timesteps(20)
    (sample, output), noise = batch(dtype=torch.float64), batch(1, torch.float64)[0]
    alphas = torch.tensor(alphas_by_hand())
    alpha, before = float(alphas[499]), float(alphas[449])
    image, epsilon = predictions_by_hand(kind, output, sample, alpha)
    sigma = eta * ((1 - before) / (1 - alpha)) ** 0.5 * (1 - alpha / before) ** 0.5
    expected = before**0.5 * image + (1 - before - sigma**2) ** 0.5 * epsilon + sigma * noise
    found = scheduler.step(output, 499, sample, eta=eta, variance_noise=noise)
    torch.testing.assert_close(found.pred_original_sample, image, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.prev_sample, expected, atol=1e-6, rtol=1e-6)
    as_tuple = scheduler.step(output, 499, sample, eta=eta, variance_noise=noise, return_dict=False)
    assert torch.equal(as_tuple[0], found.prev_sample)
    assert torch.equal(as_tuple[1], found.pred_original_sample)


def test_eta_one_over_all_steps_is_the_posterior_of_ddpm():
    scheduler = SigmoidDDIMScheduler(clip_sample=False, prediction_type="sample")
    scheduler.set_timesteps(1000)
    sample, image = batch(dtype=torch.float64)
    alphas_cumprod = alphas_by_hand()
    for t in range(1, 1000, 37):
        # Ho et al. 2020, equations 6 and 7, without DDIM's sigma.
        a, a_before = alphas_cumprod[t], alphas_cumprod[t - 1]
        beta = 1 - a / a_before
        mean = (a_before**0.5 * beta * image + (1 - beta) ** 0.5 * (1 - a_before) * sample) / (1 - a)
        variance = (1 - a_before) / (1 - a) * beta
        without = scheduler.step(image, t, sample, eta=1.0, variance_noise=torch.zeros_like(sample)).prev_sample
        with_one = scheduler.step(image, t, sample, eta=1.0, variance_noise=torch.ones_like(sample)).prev_sample
        torch.testing.assert_close(without, mean, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close((with_one - without) ** 2, torch.full_like(sample, variance), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_eta_one_over_all_steps_is_the_ancestral_sampler_of_diffusers(kind):
    ours = SigmoidDDIMScheduler(num_train_timesteps=100, prediction_type=kind, clip_sample=False)
    theirs = diffusers.DDPMScheduler.from_config(ours.config, variance_type="fixed_small")
    ours.set_timesteps(100)
    theirs.set_timesteps(100)
    sample, output = batch()
    for t in range(1, 100, 7):
        draw = (torch.Generator().manual_seed(t) for _ in range(2))
        found = ours.step(output, t, sample, eta=1.0, generator=next(draw)).prev_sample
        expected = theirs.step(output, t, sample, generator=next(draw)).prev_sample
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_last_step_returns_the_predicted_image(eta):
    for spacing in ("trailing", "leading", "linspace"):
        scheduler = SigmoidDDIMScheduler(timestep_spacing=spacing)
        scheduler.set_timesteps(15)
        sample, output = batch()
        last = scheduler.step(output, scheduler.timesteps[-1], sample, eta=eta)
        assert torch.equal(last.prev_sample, last.pred_original_sample)


def test_predicted_image_is_clipped_and_the_noise_derived_from_it_on_request():
    scheduler = SigmoidDDIMScheduler(clip_sample_range=0.5)
    scheduler.set_timesteps(20)
    sample, output = batch()
    alpha, before = scheduler.alphas_cumprod[499], scheduler.alphas_cumprod[449]
    image = ((sample - (1 - alpha).sqrt() * output) / alpha.sqrt()).clamp(-0.5, 0.5)
    found = scheduler.step(output, 499, sample)
    torch.testing.assert_close(found.pred_original_sample, image)
    torch.testing.assert_close(found.prev_sample, before.sqrt() * image + (1 - before).sqrt() * output)
    derived = scheduler.step(output, 499, sample, use_clipped_model_output=True).prev_sample
    epsilon = (sample - alpha.sqrt() * image) / (1 - alpha).sqrt()
    torch.testing.assert_close(derived, before.sqrt() * image + (1 - before).sqrt() * epsilon)


def test_dynamic_thresholding_divides_by_a_quantile():
    scheduler = SigmoidDDIMScheduler(
        prediction_type="sample", thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=2.0
    )
    scheduler.set_timesteps(20)
    sample, output = batch()
    for scale in (0.1, 1.0, 10.0):
        found = scheduler.step(scale * output, 499, sample).pred_original_sample.numpy()
        for image, prediction in zip(found, scale * output.numpy(), strict=True):
            bound = min(max(np.quantile(np.abs(prediction), 0.9), 1.0), 2.0)
            np.testing.assert_allclose(image, np.clip(prediction, -bound, bound) / bound, atol=1e-6)


@pytest.mark.parametrize("count", [20, 50, 1000])
@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_step_is_that_of_diffusers_where_the_count_divides(count, kind):
    ours = SigmoidDDIMScheduler(prediction_type=kind)
    theirs = diffusers.DDIMScheduler.from_config(ours.config)
    ours.set_timesteps(count)
    theirs.set_timesteps(count)
    sample, output = batch()
    for t in ours.timesteps[:: max(1, count // 7)]:
        found, expected = ours.step(output, t, sample), theirs.step(output, t, sample)
        torch.testing.assert_close(found.prev_sample, expected.prev_sample, atol=1e-4, rtol=1e-4)


def test_generators_of_a_list_give_each_image_its_own_noise():
    scheduler = SigmoidDDIMScheduler()
    scheduler.set_timesteps(20)
    sample, output = batch()
    together = scheduler.step(
        output, 499, sample, eta=1.0, generator=[torch.Generator().manual_seed(seed) for seed in (5, 6)]
    ).prev_sample
    alone = scheduler.step(output[1:], 499, sample[1:], eta=1.0, generator=torch.Generator().manual_seed(6)).prev_sample
    torch.testing.assert_close(together[1:], alone)


def test_step_refuses_what_does_not_fit():
    scheduler = SigmoidDDIMScheduler()
    sample, output = batch()
    with pytest.raises(ValueError, match="Call set_timesteps before step"):
        scheduler.step(output, 499, sample)
    scheduler.set_timesteps(20)
    with pytest.raises(ValueError, match=r"timestep=1000: it must lie in \[0, 999\]"):
        scheduler.step(output, 1000, sample)
    with pytest.raises(ValueError, match="Give either generator or variance_noise"):
        scheduler.step(output, 499, sample, eta=1.0, generator=torch.Generator(), variance_noise=sample)


# Noise for training.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_noise_and_velocity_follow_signal_and_noise_rates(dtype):
    scheduler = SigmoidDDIMScheduler()
    image, noise = batch(dtype=dtype)
    timesteps = torch.tensor([0, 999])
    signal = np.sqrt(alphas_by_hand()[[0, 999]]).reshape(2, 1, 1, 1)
    noise_rate = np.sqrt(1 - signal**2)
    tolerance = {torch.float32: 1e-6, torch.float16: 5e-3, torch.bfloat16: 4e-2}[dtype]
    x, e = image.double().numpy(), noise.double().numpy()
    noisy, velocity = scheduler.add_noise(image, noise, timesteps), scheduler.get_velocity(image, noise, timesteps)
    assert noisy.dtype == velocity.dtype == dtype
    np.testing.assert_allclose(noisy.double().numpy(), signal * x + noise_rate * e, atol=tolerance)
    np.testing.assert_allclose(velocity.double().numpy(), signal * e - noise_rate * x, atol=tolerance)


def test_noise_is_added_as_diffusers_adds_it():
    scheduler = SigmoidDDIMScheduler()
    image, noise = batch()
    noisy = scheduler.add_noise(image, noise, torch.tensor([10, 600]))
    theirs = diffusers.DDPMScheduler.from_config(scheduler.config)
    torch.testing.assert_close(noisy, theirs.add_noise(image, noise, torch.tensor([10, 600])), atol=1e-5, rtol=1e-5)


# What diffusers' common scheduler tests check.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_step_keeps_shape_and_dtype(dtype, eta):
    scheduler = SigmoidDDIMScheduler()
    scheduler.set_timesteps(20)
    sample, output = batch(dtype=dtype)
    for t in (scheduler.timesteps[0], int(scheduler.timesteps[10]), scheduler.timesteps[-1]):
        found = scheduler.step(output, t, sample, eta=eta)
        assert found.prev_sample.shape == found.pred_original_sample.shape == sample.shape
        assert found.prev_sample.dtype == found.pred_original_sample.dtype == dtype


def test_loaded_scheduler_steps_like_the_saved_one(tmp_path: Path):
    scheduler = SigmoidDDIMScheduler(noise_schedule="linear", clip_sample_range=2.0)
    scheduler.save_pretrained(tmp_path)
    loaded = SigmoidDDIMScheduler.from_pretrained(tmp_path)
    sample, output = batch()
    for each in (scheduler, loaded):
        each.set_timesteps(7)
    for t in scheduler.timesteps:
        assert torch.equal(scheduler.step(output, t, sample).prev_sample, loaded.step(output, t, sample).prev_sample)


def test_scheduler_reports_its_length_and_leaves_input_unscaled():
    scheduler = SigmoidDDIMScheduler(num_train_timesteps=50)
    sample, _ = batch()
    assert len(scheduler) == 50
    assert scheduler.init_noise_sigma == 1.0
    assert scheduler.scale_model_input(sample, 3) is sample
    assert {c.__name__ for c in scheduler.compatibles} >= set(SWAPS)
