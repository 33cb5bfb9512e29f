"""WBCGANPipeline: networks whose images are known, noise whose distribution is known, and batches that don't matter."""

import numpy as np
import pytest
import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from PIL import Image
from scipy.stats import kstest, norm, truncnorm
from torch import Tensor

from wbc_diffusers import WBCDiscriminator, WBCGANPipeline, WBCGenerator
from wbc_diffusers.pipelines.pipeline_wbc_gan import truncated


class Mirror(ModelMixin, ConfigMixin):
    """Shows its noise: a tenth of each value is a value of the image."""

    @register_to_config
    def __init__(self, latent_dim: int = 48) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.1))

    def forward(self, latents: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        return (self.scale * latents.reshape(-1, 3, 4, 4),)


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


def sample(pipe: WBCGANPipeline, *numbers: int, **arguments) -> Tensor:
    """Images in [0, 1] as a tensor, one for each seed."""
    return pipe(len(numbers), generator=seeds(*numbers), **{"output_type": "pt", **arguments}).images


def noise_shown(pipe: WBCGANPipeline, *numbers: int, **arguments) -> Tensor:
    """Noise (B, 48) that reached a mirror."""
    return ((sample(pipe, *numbers, **arguments).double() - 0.5) * 20).flatten(1)


@pytest.fixture(scope="module")
def mirror() -> WBCGANPipeline:
    return WBCGANPipeline(Mirror())


def tiny_pipe() -> WBCGANPipeline:
    """Both networks as a training has them: in train mode, with running statistics of their own."""
    torch.manual_seed(0)
    generator = WBCGenerator(sample_size=16, latent_dim=10, depth=16)
    with torch.no_grad():
        for _ in range(3):
            generator(torch.randn(32, 10))
    return WBCGANPipeline(generator.train(), WBCDiscriminator(sample_size=16, depth=4))


@pytest.fixture(scope="module")
def pipe() -> WBCGANPipeline:
    return tiny_pipe()


# The noise.


def test_image_shows_the_noise_of_its_seed(mirror):
    expected = torch.stack([torch.randn(1, 48, generator=each)[0] for each in seeds(3, 4)])
    torch.testing.assert_close(noise_shown(mirror, 3, 4), expected.double(), atol=1e-5, rtol=0)


def test_noise_is_drawn_alike_for_a_network_of_any_precision(mirror):
    # torch draws other numbers in float64.
    shown = noise_shown(WBCGANPipeline(Mirror().double()), 3, 4)
    torch.testing.assert_close(shown, noise_shown(mirror, 3, 4), atol=1e-5, rtol=0)


@pytest.mark.parametrize("truncation", [0.02, 0.5, 1.5])
def test_truncated_noise_is_distributed_as_if_drawn_again(mirror, truncation):
    shown = noise_shown(mirror, *range(100), truncation=truncation).flatten().numpy()
    assert np.abs(shown).max() <= truncation + 1e-5
    assert kstest(shown, truncnorm(-truncation, truncation).cdf).pvalue > 0.01
    # The other one that a hard limit could mean, clipping, would heap values up at the ends.
    assert kstest(np.clip(norm.rvs(size=4800, random_state=0), -1.5, 1.5), truncnorm(-1.5, 1.5).cdf).pvalue < 1e-6


def test_truncated_noise_keeps_its_quantile():
    z = torch.linspace(-5, 5, 101)
    for truncation in (1e-6, 0.5, 1.5, 6.0):
        limit = norm.cdf(truncation)
        quantile = (1 - limit) + norm.cdf(z.double()) * (2 * limit - 1)
        # The lower half, where quantiles are exact, and its mirror image.
        expected = norm.ppf(quantile[:51])
        found = truncated(z, truncation)
        np.testing.assert_allclose(found[:51], expected, rtol=1e-5, atol=1e-12)
        assert torch.equal(truncated(-z, truncation), -found)


def test_truncation_far_out_leaves_the_noise_and_takes_any_value():
    z = torch.tensor([-40.0, -3.0, 0.0, 1.0, 40.0])
    torch.testing.assert_close(truncated(z, 1.5)[[0, -1]], torch.tensor([-1.5, 1.5]))
    torch.testing.assert_close(truncated(z[1:4], 30.0), z[1:4])
    assert truncated(z.half(), 30.0).dtype == torch.float16
    assert truncated(z, 1e9).isfinite().all()


def test_latents_replace_the_noise(mirror, pipe):
    noise = torch.randn(1, 10, generator=torch.Generator().manual_seed(1))
    for truncation in (None, 0.5):
        given = pipe(latents=noise, truncation=truncation, output_type="pt").images
        assert torch.equal(given, sample(pipe, 1, truncation=truncation))


def test_one_generator_serves_the_whole_batch(mirror):
    expected = torch.randn(3, 48, generator=torch.Generator().manual_seed(5))
    given = mirror(3, generator=torch.Generator().manual_seed(5), output_type="pt").images
    torch.testing.assert_close((given - 0.5) * 20, expected.reshape(3, 3, 4, 4), atol=1e-5, rtol=0)


def test_generators_come_in_any_sequence(pipe):
    assert torch.equal(pipe(2, generator=tuple(seeds(1, 2)), output_type="pt").images, sample(pipe, 1, 2))


# Batches.


@pytest.mark.parametrize("truncation", [None, 0.7])
def test_image_depends_on_its_seed_alone(pipe, truncation):
    four = sample(pipe, 1, 2, 3, 4, truncation=truncation)
    shuffled = sample(pipe, 4, 7, 1, 9, truncation=truncation)
    assert torch.equal(shuffled[0], four[3])
    assert torch.equal(shuffled[2], four[0])
    for seed, image in zip((1, 2, 3, 4), four, strict=True):
        assert (sample(pipe, seed, truncation=truncation)[0] - image).abs().max() <= 1e-5


def test_network_in_training_stays_as_it_was():
    pipe = tiny_pipe()
    pipe.generator.norms[1].eval()  # as where batch norms are frozen
    modes = [module.training for module in pipe.generator.modules()]
    before = {name: value.clone() for name, value in pipe.generator.state_dict().items()}
    images = sample(pipe, 1, 2)
    with pytest.raises(ValueError, match="not finite"):
        pipe(latents=torch.full((1, 10), torch.nan))
    assert [module.training for module in pipe.generator.modules()] == modes
    for name, value in pipe.generator.state_dict().items():
        assert torch.equal(value, before[name]), name
    pipe.generator.eval()
    assert torch.equal(sample(pipe, 1, 2), images)


# What comes out.


def test_image_is_the_networks_by_the_networks_own_arithmetic(pipe):
    network = pipe.generator.eval()
    with torch.no_grad():
        expected = network(torch.randn(1, 10, generator=torch.Generator().manual_seed(6))).sample
    network.train()
    torch.testing.assert_close(sample(pipe, 6) * 2 - 1, expected)


def test_output_types_show_the_same_images(pipe):
    tensor, array = sample(pipe, 1, 2), sample(pipe, 1, 2, output_type="np")
    pictures = sample(pipe, 1, 2, output_type="pil")
    assert tensor.shape == (2, 3, 16, 16)
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert [(type(picture), picture.size, picture.mode) for picture in pictures] == [(Image.Image, (16, 16), "RGB")] * 2
    np.testing.assert_array_equal(np.stack([np.asarray(p) for p in pictures]), np.rint(array * 255).astype(np.uint8))
    assert torch.equal(sample(pipe, 1, 2), pipe(2, seeds(1, 2), output_type="pt", return_dict=False)[0])


def test_values_beyond_the_range_are_clipped(mirror):
    images = mirror(latents=torch.linspace(-30, 30, 48)[None], output_type="pt").images
    torch.testing.assert_close(images.flatten(), (torch.linspace(-30, 30, 48) / 20 + 0.5).clamp(0, 1))


def test_contrast_sharpens_the_images(pipe):
    plain, sharp = sample(pipe, 1, output_type="np"), sample(pipe, 1, output_type="np", contrast=20)
    np.testing.assert_allclose(sharp * 255, np.clip(plain * 255 * (20 / 127 + 1) - 20, 0, 255), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_network_gives_nearly_the_same_images(dtype):
    pipe = tiny_pipe()
    plain = sample(pipe, 1, 2)
    half = sample(pipe.to(dtype), 1, 2)
    assert pipe.generator.dtype == dtype
    assert half.dtype == torch.float32
    assert 0 < (half - plain).abs().mean() < 0.02


def test_images_that_are_not_finite_are_never_given():
    pipe = tiny_pipe()
    noise = torch.zeros(3, 10)
    noise[1, 4] = torch.nan
    with pytest.raises(ValueError, match=r"1 of 3 images are not finite .*the generator's weights and the latents"):
        pipe(3, latents=noise)
    torch.nn.init.constant_(pipe.generator.up_out.conv.bias, torch.nan)
    for output_type in ("pil", "np", "pt"):
        with pytest.raises(ValueError, match="2 of 2 images are not finite"):
            pipe(2, output_type=output_type)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"batch_size": 0}, "batch_size=0: give the number of images, 1 or more"),
        ({"batch_size": 1.5}, "batch_size=1.5"),
        ({"batch_size": True}, "batch_size=True"),
        ({"batch_size": 2, "generator": seeds(1)}, "generator is a list of 1, but batch_size=2: give one generator"),
        ({"truncation": 0}, "truncation=0: give a number above 0, such as 1.5, or None for none"),
        ({"truncation": -1.0}, "truncation=-1.0"),
        ({"truncation": float("nan")}, "truncation=nan"),
        ({"truncation": float("inf")}, "truncation=inf"),
        ({"contrast": -1}, r"contrast=-1: give 0 or more \(the thesis's value is 20\)"),
        ({"output_type": "latent"}, "output_type='latent': choose one of pil, np, pt"),
        ({"latents": torch.zeros(1, 9)}, r"latents has shape \(1, 9\); \(1, 10\) is wanted: \(batch_size, latent_dim"),
        ({"latents": torch.zeros(2, 10)}, r"latents has shape \(2, 10\); \(1, 10\) is wanted"),
    ],
)
def test_bad_argument_is_refused(pipe, arguments, error):
    with pytest.raises(ValueError, match=error):
        pipe(**arguments)


# Components.


def test_components_make_another_pipeline(pipe):
    assert set(pipe.components) == {"generator", "discriminator"}
    other = WBCGANPipeline(**pipe.components)
    assert torch.equal(sample(other, 1), sample(pipe, 1))
    assert WBCGANPipeline(pipe.generator).discriminator is None


def test_moving_and_casting_reach_both_networks():
    pipe = tiny_pipe().to(dtype=torch.bfloat16)
    assert pipe.generator.dtype == pipe.discriminator.dtype == torch.bfloat16
    assert pipe.to("meta").generator.device.type == pipe.discriminator.device.type == "meta"


def test_noise_is_made_where_the_generator_is():
    pipe = tiny_pipe()
    plain = sample(pipe, 1)
    pipe.discriminator.to("meta")
    assert torch.equal(sample(pipe, 1), plain)


def test_layerwise_casting_leaves_the_images_recognisable():
    pipe = tiny_pipe()
    plain = sample(pipe, 1, 2)
    pipe.generator.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    cast = sample(pipe, 1, 2)
    assert 0 < (cast - plain).abs().mean() < 0.1


@pytest.mark.slow
def test_compiled_network_gives_the_same_images():
    pipe = tiny_pipe()
    plain = sample(pipe, 1, 2)
    torch._dynamo.reset()
    pipe.generator = torch.compile(pipe.generator.eval(), fullgraph=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled = [sample(pipe, 1, 2) for _ in range(2)]
    for images in compiled:
        assert (images - plain).abs().max() < 1e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("helper", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_offloading_gives_the_same_images(helper):
    pipe = tiny_pipe().to("cuda")
    plain = sample(pipe, 1, 2, truncation=1.5).cpu()
    pipe = pipe.to("cpu")
    getattr(pipe, helper)()
    assert (sample(pipe, 1, 2, truncation=1.5).cpu() - plain).abs().max() < 1e-3
