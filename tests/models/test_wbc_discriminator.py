"""WBCDiscriminator: its numbers against plain layers, spectral norm, and the contract of diffusers' model tests."""

import copy
import inspect
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wbc_diffusers import WBCDiscriminator, WBCGenerator
from wbc_diffusers.models import wbc_discriminator, wbc_generator


def tiny(**changes) -> WBCDiscriminator:
    """A network whose every tensor counts: no bias, scale or running statistic is left at zero or one."""
    torch.manual_seed(0)
    model = WBCDiscriminator(**{"sample_size": 16, "depth": 4, **changes})
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 1 and tensor.is_floating_point() and not name.endswith(("_u", "_v")):
            nn.init.uniform_(tensor, 0.5, 1.5)
    return model.eval()


def images(batch: int = 2, size: int = 16, channels: int = 3) -> Tensor:
    return torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def run(model: WBCDiscriminator, sample: Tensor) -> Tensor:
    with torch.no_grad():
        return model(sample).logits


# The arithmetic, by plain layers.


def plain_dcgan(config: dict, levels: int) -> nn.Sequential:
    """Build the same discriminator of torch's own layers."""
    kernel, layers, width = config["kernel_size"], [], config["in_channels"]
    for level in range(levels):
        after, batch = config["depth"] * 2**level, config["norm_type"] == "batch" and level > 0
        layers.append(nn.Conv2d(width, after, kernel, stride=2, padding=(kernel - 1) // 2, bias=not batch))
        layers += [nn.BatchNorm2d(after)] if batch else []
        layers.append(nn.LeakyReLU(config["negative_slope"]))
        width = after
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * (config["sample_size"] // 2**levels) ** 2, 1))


@pytest.mark.parametrize("norm_type", ["batch", "none"])
@pytest.mark.parametrize("kernel_size", [2, 3, 4, 5, 6])
def test_numbers_are_those_of_plain_layers(kernel_size, norm_type):
    model = tiny(kernel_size=kernel_size, norm_type=norm_type, sample_size=32, negative_slope=0.3).double()
    plain = plain_dcgan(dict(model.config), levels=3).double().eval()
    plain.load_state_dict(dict(zip(plain.state_dict(), model.state_dict().values(), strict=True)))
    sample = images(size=32).double()
    torch.testing.assert_close(run(model, sample), plain(sample)[:, 0].detach(), atol=1e-12, rtol=1e-12)
    (found,), expected = model.train()(sample, return_dict=False), plain.train()(sample)[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kernel_size", [2, 5, 6])
@pytest.mark.parametrize(("size", "grid"), [(8, 4), (64, 4), (96, 6), (192, 6), (256, 4)])
def test_one_logit_an_image_comes_from_a_small_grid(size, grid, kernel_size):
    model = tiny(sample_size=size, depth=2, kernel_size=kernel_size)
    assert run(model, images(3, size)).shape == (3,)
    assert model.linear_out.in_features == 2 * (size // grid) // 2 * grid**2


def test_thesis_network_has_the_weights_that_the_formula_says():
    found = sum(p.numel() for p in WBCDiscriminator().parameters())
    widths = [64, 128, 256, 512, 1024]
    convolutions = 36 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512 * 1024)
    biases, norms, linear = 64, 2 * sum(widths[1:]), 1024 * 6 * 6 + 1
    assert found == convolutions + biases + norms + linear


def test_first_block_has_no_batch_norm_and_the_others_do():
    for norm_type, expected in (("batch", [False, True, True]), ("none", [False] * 3)):
        blocks = tiny(sample_size=32, norm_type=norm_type).blocks
        assert [isinstance(block.norm, nn.BatchNorm2d) for block in blocks] == expected
        assert [block.conv.bias is None for block in blocks] == expected


def test_generator_and_discriminator_understand_sizes_and_numbers_alike():
    for name in ("halvings", "check_numbers", "initialise"):
        assert inspect.getsource(getattr(wbc_generator, name)) == inspect.getsource(getattr(wbc_discriminator, name))
    ways = [inspect.getsource(cls.from_pretrained.__func__) for cls in (WBCGenerator, WBCDiscriminator)]
    assert ways[0] == ways[1]


# Its scale.


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_signals_keep_their_scale_without_batch_norm(slope):
    torch.manual_seed(2)
    model = WBCDiscriminator(128, depth=16, norm_type="none", negative_slope=slope)
    scales = []
    for block in model.blocks:
        block.conv.register_forward_hook(lambda module, given, out: scales.append(out.square().mean().sqrt()))
    run(model, torch.randn(8, 3, 128, 128))
    assert len(scales) == 5
    # 1.4 at first, since a normal image has no leaky ReLU before it; the zeros around each grid take a little.
    assert all(0.7 < scale < 1.6 for scale in scales)


def test_weights_start_as_radford_says_before_batch_norm():
    torch.manual_seed(0)
    model = WBCDiscriminator(32, depth=32)
    for layer in (*(block.conv for block in model.blocks), model.linear_out):
        assert abs(layer.weight.std().item() - 0.02) < 0.001
    assert model.linear_out.bias.eq(0).all()


# Spectral norm (Miyato et al. 2018).


def layers_of(model: WBCDiscriminator) -> list[nn.Module]:
    return [*(block.conv for block in model.blocks), model.linear_out]


def largest_singular_values(model: WBCDiscriminator) -> list[float]:
    """Of each weight as a matrix (outputs, inputs), by a full decomposition."""
    return [float(torch.linalg.svdvals(layer.weight.detach().double().flatten(1))[0]) for layer in layers_of(model)]


@pytest.mark.parametrize("norm_type", ["batch", "none"])
def test_largest_singular_value_is_one_with_spectral_norm_only(norm_type):
    model = tiny(sample_size=32, spectral_norm=True, norm_type=norm_type).train()
    for _ in range(200):  # each is one step of the power iteration
        run(model, images(size=32))
    assert largest_singular_values(model) == pytest.approx([1.0] * 4, abs=1e-3)
    assert max(abs(1 - value) for value in largest_singular_values(tiny(sample_size=32))) > 0.2


def test_spectral_norm_follows_weights_that_are_trained():
    model = tiny(spectral_norm=True, norm_type="none").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    before = [layer.parametrizations.weight.original.clone() for layer in layers_of(model)]
    for _ in range(100):
        optimizer.zero_grad()
        model(images(4)).logits.square().mean().backward()
        optimizer.step()
    for layer, old in zip(layers_of(model), before, strict=True):
        assert not torch.equal(layer.parametrizations.weight.original, old)
    assert largest_singular_values(model) == pytest.approx([1.0] * 3, abs=0.05)


def test_spectral_norm_stands_still_in_evaluation():
    model = tiny(spectral_norm=True)
    state = copy.deepcopy(model.state_dict())
    run(model, images())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    run(model.train(), images())
    moved = {
        name.rsplit(".", 1)[-1] for name, tensor in model.state_dict().items() if not torch.equal(tensor, state[name])
    }
    assert {"_u", "_v"} <= moved


def test_spectral_norm_comes_back_from_a_folder_and_goes_on_as_before(tmp_path: Path):
    model = tiny(spectral_norm=True, norm_type="none").train()
    run(model, images())
    model.save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    assert sum(name.endswith(("_u", "_v")) for name in load_file(file)) == 6
    loaded = WBCDiscriminator.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    for network in (loaded, model):
        run(network.train(), images(3))
    torch.testing.assert_close(run(loaded, images()), run(model, images()))
    torch.testing.assert_close(loaded.state_dict(), model.state_dict())


def test_gradient_of_the_gradient_goes_through_spectral_norm():
    model = tiny(spectral_norm=True).train().double()
    sample = images(4).double().requires_grad_()
    (gradient,) = torch.autograd.grad(model(sample).logits.sum(), sample, create_graph=True)
    gradient.square().sum().backward()
    assert all(layer.parametrizations.weight.original.grad.abs().max() > 0 for layer in layers_of(model))


# Bad input.


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"sample_size": 100}, "sample_size=100: it must be 4, 5, 6 or 7 times a power of two, such as 64"),
        ({"sample_size": 4}, "sample_size=4: it must be"),
        ({"sample_size": True}, "sample_size=True: give a whole number of 1 or more"),
        ({"in_channels": 0}, "in_channels=0: give a whole number"),
        ({"depth": 2.5}, "depth=2.5: give a whole number"),
        ({"kernel_size": 1}, "kernel_size=1: give 2 or more; a stride of 2 would skip pixels"),
        ({"norm_type": "layer"}, "norm_type='layer': choose one of batch, none"),
        ({"spectral_norm": "no"}, "spectral_norm='no': give true or false"),
        ({"negative_slope": -0.1}, "negative_slope=-0.1: give a number from 0 to 1"),
    ],
)
def test_bad_configuration_is_refused(changes, error):
    with pytest.raises(ValueError, match=error):
        tiny(**changes)


@pytest.mark.parametrize("shape", [(2, 3, 16, 8), (2, 3, 32, 32), (2, 1, 16, 16), (3, 16, 16)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"got images of shape \(.*\): \(B, 3, 16, 16\) is wanted"):
        tiny()(torch.zeros(shape))


def test_gradient_checkpointing_is_refused_by_diffusers():
    with pytest.raises(ValueError, match="WBCDiscriminator does not support gradient checkpointing"):
        tiny().enable_gradient_checkpointing()


# What diffusers' common model tests check.


@pytest.mark.parametrize("changes", [{}, {"norm_type": "none", "kernel_size": 5}, {"in_channels": 1}])
def test_configurations_come_back_from_their_folder(changes, tmp_path: Path):
    model, sample = tiny(**changes), images(channels=changes.get("in_channels", 3))
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    loaded = WBCDiscriminator.from_pretrained(tmp_path)
    assert not loaded.training
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    again = WBCDiscriminator.from_config(loaded.config)
    again.load_state_dict(loaded.state_dict())
    torch.testing.assert_close(run(loaded, sample), run(model, sample))
    torch.testing.assert_close(run(again.eval(), sample), run(model, sample))


def test_missing_weights_are_named(tmp_path: Path):
    tiny(spectral_norm=True).save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    save_file({k: v for k, v in load_file(file).items() if not k.startswith("linear_out.p")}, file)
    with pytest.raises(
        OSError, match=rf"{tmp_path.name} lack linear_out.parametrizations.weight.0._u, .*_v, .*original"
    ):
        WBCDiscriminator.from_pretrained(tmp_path)


@pytest.mark.parametrize("spectral_norm", [False, True])
def test_half_precision_copies_and_layouts_give_the_plain_result(spectral_norm, tmp_path: Path):
    model, sample = tiny(spectral_norm=spectral_norm), images()
    plain = run(model, sample)
    assert torch.equal(run(copy.deepcopy(model), sample), plain)
    model.save_pretrained(tmp_path)
    half = WBCDiscriminator.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    found = run(half, sample.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), plain, atol=0.05, rtol=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(run(model, sample).float(), plain, atol=0.05, rtol=0.05)
    last = sample.to(memory_format=torch.channels_last)
    found = run(model.to(memory_format=torch.channels_last), last)
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("spectral_norm", [False, True])
def test_compiled_graph_is_whole_and_gives_the_plain_result(spectral_norm):
    model = tiny(spectral_norm=spectral_norm)
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(run(compiled, images()), run(model, images()), atol=1e-5, rtol=1e-5)
