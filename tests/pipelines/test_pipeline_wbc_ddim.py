"""WBCDDIMPipeline: exact networks whose samples are known, and the contract of diffusers' pipeline tests."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, ModelMixin
from diffusers.callbacks import PipelineCallback
from diffusers.configuration_utils import ConfigMixin, register_to_config
from PIL import Image
from scipy.interpolate import interp1d
from torch import Tensor

from wbc_diffusers import R2AttnUNet, SigmoidDDIMScheduler, WBCDDIMPipeline
from wbc_diffusers.pipelines.pipeline_wbc_ddim import predicted_image, sharpen_contrast, variance_of_timestep

KINDS = ("epsilon", "sample", "v_prediction")
SWAPS = [
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "HeunDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DDPMScheduler",
    "DDIMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
]
WITHOUT_IMAGE_PREDICTION = ("EulerAncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "PNDMScheduler")


class Oracle(ModelMixin, ConfigMixin):
    """The exact prediction for data that are normally distributed about one image with a known spread."""

    @register_to_config
    def __init__(self, sample_size: int = 8, in_channels: int = 3, kind: str = "epsilon", spread: float = 0.0) -> None:
        super().__init__()
        self.image = torch.nn.Parameter(torch.linspace(-0.9, 0.9, 3 * 64).reshape(1, 3, 8, 8))
        self.variances: list[float] = []
        self.levels: list[float] = []

    def forward(self, sample: Tensor, timestep: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        variance = timestep.double()[:, None, None, None]
        alpha, x, image = 1 - variance, sample.double(), self.image.double()
        noise = (x - alpha.sqrt() * image) / variance.sqrt()
        self.variances.append(float(timestep[0]))
        self.levels.append(float(noise.std()))
        data_variance = self.config.spread**2
        gain = alpha.sqrt() * data_variance / (alpha * data_variance + variance)
        clean = image + gain * (x - alpha.sqrt() * image)
        epsilon = (x - alpha.sqrt() * clean) / variance.sqrt()
        velocity = alpha.sqrt() * epsilon - variance.sqrt() * clean
        return ({"epsilon": epsilon, "sample": clean, "v_prediction": velocity}[self.config.kind].float(),)


def build(unet: ModelMixin, scheduler) -> WBCDDIMPipeline:
    pipe = WBCDDIMPipeline(unet, scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def oracle_pipe(name: str = "SigmoidDDIMScheduler", kind: str = "epsilon", spread: float = 0.0, **changes):
    base = SigmoidDDIMScheduler(prediction_type=kind, clip_sample=False)
    cls = SigmoidDDIMScheduler if name == "SigmoidDDIMScheduler" else getattr(diffusers, name)
    return build(Oracle(kind=kind, spread=spread), cls.from_config(base.config, **changes))


@pytest.fixture(scope="module")
def pipe() -> WBCDDIMPipeline:
    return tiny_pipe()


def tiny_pipe(**changes) -> WBCDDIMPipeline:
    torch.manual_seed(0)
    scheduler = SigmoidDDIMScheduler()
    unet = R2AttnUNet(
        **{
            "sample_size": 16,
            "block_out_channels": (8, 16),
            "trained_betas": scheduler.config.trained_betas,
            **changes,
        }
    )
    return build(unet.eval(), scheduler)


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


def sample(pipe: WBCDDIMPipeline, *numbers: int, **arguments) -> Tensor:
    """Images in [0, 1] as a tensor, one for each seed, in 4 steps."""
    arguments = {"num_inference_steps": 4, "output_type": "pt", **arguments}
    return pipe(len(numbers), generator=seeds(*numbers), **arguments).images


# The mathematics.


def test_variance_is_exact_at_integer_timesteps():
    alphas = SigmoidDDIMScheduler().alphas_cumprod
    for timestep in (0, 1, 499, 999, 999.0):
        assert variance_of_timestep(timestep, alphas) == 1 - float(alphas[int(timestep)])


def test_variance_between_timesteps_interpolates_log_sigma():
    alphas = SigmoidDDIMScheduler().alphas_cumprod.double().numpy()
    log_sigma = interp1d(np.arange(1000), 0.5 * np.log((1 - alphas) / alphas))
    for timestep in (0.25, 499.5, 998.9):
        sigma = np.exp(log_sigma(timestep))
        found = variance_of_timestep(timestep, torch.tensor(alphas))
        assert found == pytest.approx(sigma**2 / (1 + sigma**2), abs=1e-12)


def test_variance_outside_the_schedule_is_refused():
    with pytest.raises(ValueError, match=r"emitted timestep 1000.0; its noise schedule runs from 0 to 999"):
        variance_of_timestep(1000.0, SigmoidDDIMScheduler().alphas_cumprod)


@pytest.mark.parametrize("kind", KINDS)
def test_image_follows_from_every_kind_of_prediction(kind):
    image, noise = torch.randn(2, 1, 3, 4, 4, dtype=torch.float64)
    signal_rate, noise_rate = 0.8, 0.6
    noisy = signal_rate * image + noise_rate * noise
    prediction = {"epsilon": noise, "sample": image, "v_prediction": signal_rate * noise - noise_rate * image}[kind]
    torch.testing.assert_close(predicted_image(prediction, noisy, noise_rate**2, kind), image)


def test_contrast_is_the_formula_of_the_thesis_on_bytes():
    pixels = np.arange(256)
    expected = np.clip(pixels * (20 / 127 + 1) - 20, 0, 255)
    found = sharpen_contrast(torch.tensor(pixels / 255), 20.0).numpy() * 255
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert found[127] == pytest.approx(127)


# Samplers on networks whose answer is known.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["SigmoidDDIMScheduler", *SWAPS])
def test_every_sampler_ends_at_the_only_image_of_its_data(name, kind):
    if kind == "sample" and name in WITHOUT_IMAGE_PREDICTION:
        pytest.skip("this scheduler of diffusers takes no predicted images")
    for changes in ({}, {"timestep_spacing": "leading"}, {"timestep_spacing": "linspace"}):
        for steps in (20, 15):
            pipe = oracle_pipe(name, kind, **changes)
            images = pipe(2, steps, generator=seeds(0, 1), output_type="pt").images
            expected = (pipe.unet.image / 2 + 0.5).expand(2, -1, -1, -1)
            torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["SigmoidDDIMScheduler", *SWAPS])
def test_network_is_told_the_noise_that_is_in_its_input(name):
    karras = {"use_karras_sigmas": True} if name.startswith(("DPM", "UniPC", "Heun", "Euler", "KDPM", "LMS")) else {}
    for changes in ({}, karras, {"timestep_spacing": "leading"}):
        pipe = oracle_pipe(name, **changes)
        pipe(16, 20, generator=torch.Generator().manual_seed(0), output_type="pt")
        # Noise of variance 1 under the variance that was told: 3072 values scatter by 1.3 %.
        np.testing.assert_allclose(pipe.unet.levels, 1.0, atol=0.06)
        assert (np.diff(pipe.unet.variances) < 1e-6).all()


def ddim_spread(variances: list[float], data_spread: float) -> float:
    """Standard deviation that DDIM's linear steps give to data of a normal distribution, from noise of variance 1."""
    spread = 1.0
    for variance, cleaner in zip(variances, [*variances[1:], 0.0], strict=True):
        total = (1 - variance) * data_spread**2 + variance
        image = (1 - variance) ** 0.5 * data_spread**2 / total
        epsilon = variance**0.5 / total
        spread *= (1 - cleaner) ** 0.5 * image + cleaner**0.5 * epsilon
    return spread


@pytest.mark.parametrize("name", ["SigmoidDDIMScheduler", "DDIMScheduler", "EulerDiscreteScheduler"])
def test_first_order_samplers_give_normal_data_the_spread_of_their_steps(name):
    pipe = oracle_pipe(name, spread=0.5)
    pipe.unet.image.data.zero_()
    images = pipe(64, 20, generator=torch.Generator().manual_seed(0), output_type="pt").images * 2 - 1
    variances = 1 - SigmoidDDIMScheduler().alphas_cumprod[np.arange(999, 0, -50)].double()
    expected = ddim_spread(variances.tolist(), 0.5)
    # 12,288 values; those beyond +-1 (5 %) are clipped.
    unclipped = images[images.abs() < 1]
    assert images.clamp(-1, 1).std() == pytest.approx(clipped_spread(expected), rel=0.03)
    assert len(unclipped) > 10_000


def clipped_spread(spread: float) -> float:
    """Standard deviation of a normal variable clipped to [-1, 1], by numerical integration."""
    x = np.linspace(-8, 8, 100_001) * spread
    density = np.exp(-0.5 * (x / spread) ** 2)
    return float(np.sqrt((np.clip(x, -1, 1) ** 2 * density).sum() / density.sum()))


@pytest.mark.parametrize("name", SWAPS[:7])
def test_solvers_give_normal_data_about_the_spread_of_ddim(name):
    spreads = []
    for each in ("SigmoidDDIMScheduler", name):
        pipe = oracle_pipe(each, spread=0.5)
        pipe.unet.image.data.zero_()
        images = pipe(64, 50, generator=torch.Generator().manual_seed(0), output_type="pt").images
        spreads.append(float(images.std()))
    assert spreads[1] == pytest.approx(spreads[0], rel=0.15)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("DPMSolverMultistepScheduler", {"final_sigmas_type": "sigma_min"}),
        ("DPMSolverMultistepScheduler", {"final_sigmas_type": "sigma_min", "use_karras_sigmas": True}),
        ("UniPCMultistepScheduler", {"final_sigmas_type": "sigma_min"}),
        ("EulerDiscreteScheduler", {"final_sigmas_type": "sigma_min"}),
        ("EulerDiscreteScheduler", {"final_sigmas_type": "sigma_min", "use_karras_sigmas": True}),
        ("DDIMScheduler", {"set_alpha_to_one": False}),
        ("DEISMultistepScheduler", {}),
        ("TCDScheduler", {}),
    ],
)
def test_last_denoising_leaves_no_noise(name, changes, kind):
    pipe = oracle_pipe(name, kind, **changes)
    images = pipe(1, 20, generator=seeds(0), output_type="pt").images
    assert len(pipe.unet.variances) == 21
    # The cleanest level of the schedule holds a signal rate of 0.95.
    assert pipe.unet.variances[-1] == pytest.approx(1 - 0.95**2, abs=1e-6)
    assert pipe.unet.levels[-1] == pytest.approx(1.0, abs=0.15)
    torch.testing.assert_close(images, pipe.unet.image / 2 + 0.5, atol=1e-4, rtol=0)


def test_clean_sample_is_not_denoised_again():
    pipe = oracle_pipe("EulerDiscreteScheduler")
    pipe(1, 20, output_type="pt")
    assert len(pipe.unet.variances) == 20


def test_eta_adds_noise_from_the_generators():
    pipe = oracle_pipe(spread=0.5)
    still, noisy = (pipe(2, 20, eta=eta, generator=seeds(0, 1), output_type="pt").images for eta in (0.0, 1.0))
    again = pipe(2, 20, eta=1.0, generator=seeds(0, 1), output_type="pt").images
    assert not torch.equal(still, noisy)
    assert torch.equal(again, noisy)


# The network under the pipeline.


@pytest.mark.parametrize("name", ["SigmoidDDIMScheduler", "DDIMScheduler"])
def test_ddim_pipeline_of_diffusers_gives_the_same_images(pipe, name):
    scheduler = getattr(diffusers, name, SigmoidDDIMScheduler).from_config(pipe.scheduler.config)
    theirs = DDIMPipeline(pipe.unet, scheduler)
    theirs.set_progress_bar_config(disable=True)
    expected = theirs(2, generator=seeds(3, 4), num_inference_steps=20, output_type="np").images
    found = pipe(2, 20, generator=seeds(3, 4), output_type="np").images
    np.testing.assert_allclose(found, expected, atol=1 / 255)
    assert np.abs(found - expected).mean() < 1e-4


@pytest.mark.parametrize("name", SWAPS[:7])
def test_swapped_schedulers_run_on_a_real_network(name):
    pipe = tiny_pipe()
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    images = sample(pipe, 1, 2, num_inference_steps=5)
    assert images.isfinite().all()
    assert torch.equal(images, sample(pipe, 1, 2, num_inference_steps=5))


def test_image_depends_on_its_seed_alone(pipe):
    four = sample(pipe, 1, 2, 3, 4, eta=1.0)
    shuffled = sample(pipe, 4, 7, 1, 9, eta=1.0)
    assert torch.equal(shuffled[0], four[3])
    assert torch.equal(shuffled[2], four[0])
    assert torch.equal(sample(pipe, 1, 2, 3, 4, eta=1.0), four)
    for seed, image in zip((1, 2, 3, 4), four, strict=True):
        assert (sample(pipe, seed, eta=1.0)[0] - image).abs().max() <= 1 / 255


def test_generators_come_in_any_sequence(pipe):
    given = pipe(2, 4, eta=1.0, generator=tuple(seeds(1, 2)), output_type="pt").images
    assert torch.equal(given, sample(pipe, 1, 2, eta=1.0))
    with pytest.raises(ValueError, match="generator is a list of 1, but batch_size=2"):
        pipe(2, generator=tuple(seeds(1)))


def test_one_generator_serves_the_whole_batch(pipe):
    first, second = (pipe(3, 4, generator=torch.Generator().manual_seed(5), output_type="pt").images for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_output_types_show_the_same_images(pipe):
    tensor, array = sample(pipe, 1, 2), sample(pipe, 1, 2, output_type="np")
    pictures = sample(pipe, 1, 2, output_type="pil")
    assert tensor.shape == (2, 3, 16, 16)
    assert tensor.dtype == torch.float32
    assert 0 <= tensor.min() <= tensor.max() <= 1
    np.testing.assert_array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert [(type(picture), picture.size, picture.mode) for picture in pictures] == [(Image.Image, (16, 16), "RGB")] * 2
    np.testing.assert_array_equal(np.stack([np.asarray(p) for p in pictures]), np.rint(array * 255).astype(np.uint8))


def test_tuple_holds_the_same_images(pipe):
    assert torch.equal(pipe(1, 4, generator=seeds(1), output_type="pt", return_dict=False)[0], sample(pipe, 1))


def test_contrast_sharpens_the_images(pipe):
    plain, sharp = sample(pipe, 1, output_type="np"), sample(pipe, 1, output_type="np", contrast=20)
    np.testing.assert_allclose(sharp * 255, np.clip(plain * 255 * (20 / 127 + 1) - 20, 0, 255), atol=1e-3)


def test_latents_replace_the_noise(pipe):
    noise = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    assert torch.equal(pipe(1, 4, latents=noise, output_type="pt").images, sample(pipe, 1))


def test_size_may_differ_from_that_of_training(pipe):
    assert sample(pipe, 1, height=8, width=24).shape == (1, 3, 8, 24)
    assert sample(tiny_pipe(sample_size=(8, 16)), 1).shape == (1, 3, 8, 16)


def test_class_labels_reach_the_network():
    pipe = tiny_pipe(num_class_embeds=3)
    both = sample(pipe, 1, 1, class_labels=[0, 2])
    assert not torch.equal(both[0], both[1])
    assert torch.equal(sample(pipe, 1, 1, class_labels=torch.tensor([0, 2])), both)
    assert torch.equal(sample(pipe, 1, 1, class_labels=2)[1], both[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_network_gives_nearly_the_same_images(dtype):
    pipe = tiny_pipe()
    plain = sample(pipe, 1, 2)
    half = sample(pipe.to(dtype), 1, 2)
    assert pipe.unet.dtype == dtype
    assert half.dtype == torch.float32
    assert (half - plain).abs().mean() < 0.1


@pytest.mark.slow
def test_compiled_network_is_compiled_once_for_all_steps():
    pipe = tiny_pipe()
    plain = sample(pipe, 1, 2)
    torch._dynamo.reset()
    pipe.unet = torch.compile(pipe.unet, fullgraph=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled = sample(pipe, 1, 2)
    assert (compiled - plain).abs().max() < 1e-2


# Images that are none.


def test_images_that_are_not_finite_are_never_given():
    pipe = tiny_pipe()
    noise = torch.zeros(3, 3, 16, 16)
    noise[1, 0, 5, 7] = torch.nan
    with pytest.raises(ValueError, match=r"[1-3] of 3 images are not finite .*weights and the latents"):
        pipe(3, 2, latents=noise)
    with pytest.raises(ValueError, match="2 of 2 images are not finite"):
        pipe(2, 2, callback_on_step_end=lambda *given: {"sample": torch.full((2, 3, 16, 16), torch.inf)})
    torch.nn.init.constant_(pipe.unet.conv_out.bias, torch.nan)
    for output_type in ("pil", "np", "pt"):
        with pytest.raises(ValueError, match="2 of 2 images are not finite"):
            pipe(2, 2, output_type=output_type)


@pytest.mark.parametrize("name", ["DEISMultistepScheduler", "SASolverScheduler"])
def test_solver_that_divides_by_no_noise_is_named(name):
    pipe = tiny_pipe()
    pipe.scheduler = getattr(diffusers, name).from_config(SigmoidDDIMScheduler(max_signal_rate=1.0).config)
    with pytest.raises(ValueError, match=rf"1 of 1 images are not finite.*{name} can run this schedule"):
        pipe(1, 5)


# Callbacks.


def test_callback_sees_every_step_and_may_change_the_sample(pipe):
    seen = []

    def look(caller, step, timestep, tensors):
        seen.append((step, int(timestep), tensors["sample"].shape))
        return {}

    assert torch.equal(sample(pipe, 1, callback_on_step_end=look), sample(pipe, 1))
    assert seen == [(i, t, (1, 3, 16, 16)) for i, t in enumerate([999, 749, 499, 249])]

    def whiten(caller, step, timestep, tensors):
        return {"sample": torch.ones_like(tensors["sample"])} if step == caller.num_timesteps - 1 else None

    assert (sample(pipe, 1, callback_on_step_end=whiten) == 1).all()


@pytest.mark.parametrize(
    ("returned", "told"), [(None, "None"), ("sample", "'sample'"), (torch.zeros(1, 3, 16, 16), r"\(1, 3, 16, 16\)")]
)
def test_callback_that_returns_no_sample_is_told(pipe, returned, told):
    with pytest.raises(ValueError, match=rf"returned {told} as the sample; a tensor of shape \(2, 3, 16, 16\) is want"):
        pipe(2, 2, callback_on_step_end=lambda *given: {"sample": returned})


def test_callback_is_given_only_what_it_asks_for(pipe):
    def look(caller, step, timestep, tensors):
        assert not tensors
        return tensors

    sample(pipe, 1, callback_on_step_end=look, callback_on_step_end_tensor_inputs=[])


def test_callback_may_interrupt():
    pipe, seen = oracle_pipe("EulerDiscreteScheduler", final_sigmas_type="sigma_min"), []

    def stop(caller, step, timestep, tensors):
        seen.append(step)
        caller._interrupt = step == 2
        return tensors

    sample(pipe, 1, num_inference_steps=10, callback_on_step_end=stop)
    assert seen == [0, 1, 2]
    assert len(pipe.unet.variances) == 3
    sample(pipe, 1, num_inference_steps=10)
    assert len(pipe.unet.variances) == 3 + 11


def test_callback_objects_of_diffusers_are_served(pipe):
    class Record(PipelineCallback):
        tensor_inputs = ["sample"]  # noqa: RUF012 - diffusers reads a list

        def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
            self.last = step_index
            return callback_kwargs

    record = Record(cutoff_step_ratio=0.5)
    sample(pipe, 1, callback_on_step_end=record)
    assert record.last == 3


# Arguments are checked before any work.


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"batch_size": 0}, "batch_size=0: give the number of images, 1 or more"),
        ({"batch_size": 1.5}, "batch_size=1.5"),
        ({"num_inference_steps": 0}, "num_inference_steps=0: give a number from 1 to 1000"),
        ({"num_inference_steps": 1001}, "num_inference_steps=1001"),
        ({"eta": 1.5}, r"eta=1.5: give a number from 0 \(DDIM\) to 1 \(DDPM\)"),
        ({"eta": -0.1}, "eta=-0.1"),
        ({"batch_size": 2, "generator": seeds(1)}, "generator is a list of 1, but batch_size=2: give one generator"),
        ({"class_labels": [0]}, "class_labels were given, but the network has no classes: leave them out"),
        ({"contrast": -1}, r"contrast=-1: give 0 or more \(the thesis's value is 20\)"),
        ({"contrast": float("nan")}, "contrast=nan"),
        ({"output_type": "latent"}, "output_type='latent': choose one of pil, np, pt"),
        ({"height": 15}, "height=15, width=16: both must be positive and divisible by 2"),
        ({"width": 0}, "height=16, width=0"),
        ({"latents": torch.zeros(1, 3, 8, 8)}, r"latents has shape \(1, 3, 8, 8\); \(1, 3, 16, 16\) is wanted"),
        ({"callback_on_step_end_tensor_inputs": ["latents"]}, r"holds \['latents'\]: choose from \['sample'\]"),
    ],
)
def test_bad_argument_is_refused(pipe, arguments, error):
    with pytest.raises(ValueError, match=error):
        pipe(**arguments)


@pytest.mark.parametrize(
    ("labels", "error"),
    [
        (None, "The network has 3 classes, but class_labels is None: give one integer from 0 to 2 for each of the 2"),
        ([0, 1, 2], r"class_labels=\[0, 1, 2\]: give one integer"),
        ([0, 3], r"class_labels=\[0, 3\]"),
        ([0.0, 1.0], r"class_labels=\[0.0, 1.0\]"),
    ],
)
def test_bad_class_labels_are_refused(labels, error):
    with pytest.raises(ValueError, match=error):
        tiny_pipe(num_class_embeds=3)(2, class_labels=labels)


def test_scheduler_that_does_not_fit_is_refused(pipe):
    for scheduler, error in (
        (diffusers.FlowMatchEulerDiscreteScheduler(), "FlowMatchEulerDiscreteScheduler has no alphas_cumprod"),
        (
            diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
            "DPMSolverMultistepScheduler has no alphas_cumprod, or does not use it",
        ),
    ):
        with pytest.raises(ValueError, match=error):
            build(pipe.unet, scheduler)()
    with pytest.raises(ValueError, match=r"eta=0.5, but EulerDiscreteScheduler has no eta"):
        build(pipe.unet, diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config))(eta=0.5)


# What else diffusers' common pipeline tests check.


def test_components_make_another_pipeline(pipe):
    other = WBCDDIMPipeline(**pipe.components)
    other.set_progress_bar_config(disable=True)
    assert torch.equal(sample(other, 1), sample(pipe, 1))


def test_moving_and_casting_reach_the_network():
    pipe = tiny_pipe()
    assert pipe.to("cpu").device.type == "cpu"
    assert pipe.to(dtype=torch.bfloat16).unet.conv_in.weight.dtype == torch.bfloat16


def test_layerwise_casting_leaves_the_images_recognisable():
    pipe = tiny_pipe()
    plain = sample(pipe, 1, 2)
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    cast = sample(pipe, 1, 2)
    assert cast.isfinite().all()
    assert (cast - plain).abs().mean() < 0.2


def test_progress_bar_counts_the_steps(pipe, capsys):
    shown = WBCDDIMPipeline(**pipe.components)
    sample(shown, 1, num_inference_steps=7)
    assert "7/7" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("helper", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_offloading_gives_the_same_images(helper):
    pipe = tiny_pipe().to("cuda")
    plain = sample(pipe, 1, 2).cpu()
    pipe = pipe.to("cpu")
    getattr(pipe, helper)()
    assert (sample(pipe, 1, 2).cpu() - plain).abs().max() < 1e-3
