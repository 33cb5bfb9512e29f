"""WBCGenerator: its numbers against plain layers, geometry, scale, and the contract of diffusers' model tests."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wbc_diffusers import WBCGenerator
from wbc_diffusers.models.wbc_generator import UpBlock

KINDS = [(upsampling, kernel) for upsampling in ("nearest", "transposed") for kernel in (2, 3, 4, 5, 6)]


def tiny(**changes) -> WBCGenerator:
    """A network whose every tensor counts: no bias, scale or running statistic is left at zero or one."""
    torch.manual_seed(0)
    model = WBCGenerator(**{"sample_size": 16, "latent_dim": 8, "depth": 16, **changes})
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.ndim == 1 and tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
    return model.eval()


def noise(batch: int = 2, length: int = 8) -> Tensor:
    return torch.randn(batch, length, generator=torch.Generator().manual_seed(1))


def run(model: WBCGenerator, latents: Tensor) -> Tensor:
    with torch.no_grad():
        return model(latents).sample


# The arithmetic, by plain layers.


class Cut(nn.Module):
    """Keep the first rows and columns, or the last."""

    def __init__(self, size: int, last: bool) -> None:
        super().__init__()
        self.kept = slice(-size, None) if last else slice(0, size)

    def forward(self, x: Tensor) -> Tensor:
        return x[..., self.kept, self.kept]


def plain_dcgan(config: dict) -> nn.Sequential:
    """Build the same generator of torch's own layers, upsampling in front of the convolutions."""
    kernel, batch, grid = config["kernel_size"], config["norm_type"] == "batch", 4
    layers: list[nn.Module] = [nn.Linear(config["latent_dim"], config["depth"] * grid**2, bias=not batch)]
    layers.append(nn.Unflatten(1, (config["depth"], grid, grid)))
    size, width = grid, config["depth"]
    while True:
        layers += [nn.BatchNorm2d(width)] if batch else []
        layers.append(nn.LeakyReLU(config["negative_slope"]))
        size, last = 2 * size, size > grid
        after = config["out_channels"] if size == config["sample_size"] else width // 2
        bias = not batch or size == config["sample_size"]
        if config["upsampling_type"] == "nearest":
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, after, kernel, padding=kernel // 2, bias=bias)]
        else:
            layers.append(nn.ConvTranspose2d(width, after, kernel, 2, padding=(kernel - 2) // 2, bias=bias))
        layers.append(Cut(size, last))
        if size == config["sample_size"]:
            return nn.Sequential(*layers, nn.Tanh())
        width = after


@pytest.mark.parametrize("norm_type", ["batch", "none"])
@pytest.mark.parametrize(("upsampling_type", "kernel_size"), KINDS)
def test_numbers_are_those_of_plain_layers(upsampling_type, kernel_size, norm_type):
    model = tiny(upsampling_type=upsampling_type, kernel_size=kernel_size, norm_type=norm_type, sample_size=32).double()
    plain = plain_dcgan(dict(model.config)).double().eval()
    order: list[nn.Module] = [model.linear_in]
    for norm, block in zip(model.norms, [*model.up_blocks, model.up_out], strict=True):
        order += [norm, block]
    ours = [tensor for module in order for tensor in module.state_dict().values()]
    plain.load_state_dict(dict(zip(plain.state_dict(), ours, strict=True)))
    latents = noise().double()
    torch.testing.assert_close(run(model, latents), plain(latents).detach(), atol=1e-12, rtol=1e-12)
    (found,), expected = model.train()(latents, return_dict=False), plain.train()(latents)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    found.square().sum().backward()
    expected.square().sum().backward()
    for one, other in zip([p for m in order for p in m.parameters()], plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("upsampling_type", "kernel_size"), [kind for kind in KINDS if kind[1] >= 5])
@pytest.mark.parametrize("size", [8, 64, 96, 192, 256])
def test_images_have_the_size_that_was_asked_for(size, upsampling_type, kernel_size):
    model = tiny(sample_size=size, depth=32, upsampling_type=upsampling_type, kernel_size=kernel_size)
    sample = run(model, noise())
    assert sample.shape == (2, 3, size, size)
    assert sample.abs().max() <= 1


def test_grid_is_6_at_192_px_and_4_at_64_and_256():
    for size, grid, levels in ((192, 6, 5), (64, 4, 4), (256, 4, 6), (160, 5, 5), (112, 7, 4), (8, 4, 1)):
        model = WBCGenerator(sample_size=size, depth=32, latent_dim=4)
        assert model.linear_in.out_features == 32 * grid**2
        assert len(model.up_blocks) + 1 == levels


@pytest.mark.parametrize("kernel_size", [5, 6])
def test_thesis_network_has_the_weights_that_the_formula_says(kernel_size):
    found = sum(p.numel() for p in WBCGenerator(kernel_size=kernel_size).parameters())
    widths = [1024, 512, 256, 128, 64]
    linear, norms = 100 * 1024 * 6 * 6, 2 * sum(widths)
    convolutions = kernel_size**2 * (1024 * 512 + 512 * 256 + 256 * 128 + 128 * 64 + 64 * 3)
    assert found == linear + norms + convolutions + 3


# Its geometry (Odena et al. 2016).


def interior(kernel_size: int, upsampling_type: str) -> Tensor:
    """What a block of equal weights makes of a constant grid, away from the edge."""
    block = UpBlock(1, 1, kernel_size, upsampling_type, bias=False, cut_first=False).double()
    nn.init.ones_(block.conv.weight)
    return block(torch.ones(1, 1, 12, 12, dtype=torch.float64))[0, 0, 6:18, 6:18].detach()


@pytest.mark.parametrize("kernel_size", [2, 3, 4, 5, 6, 7])
def test_upsampling_keeps_a_constant_constant(kernel_size):
    assert torch.equal(interior(kernel_size, "nearest"), torch.full((12, 12), float(kernel_size**2)).double())


def test_transposed_kernel_of_5_overlaps_by_4_6_and_9():
    found = interior(5, "transposed")
    assert sorted(found.unique().tolist()) == [4, 6, 9]
    assert torch.equal(found[2:, 2:], found[:-2, :-2])
    assert torch.equal(found[:2, :2].flatten().sort().values, torch.tensor([4.0, 6, 6, 9]).double())


def test_transposed_kernel_that_divides_by_the_stride_overlaps_evenly():
    for kernel_size in (4, 6):
        assert torch.equal(
            interior(kernel_size, "transposed"), torch.full((12, 12), kernel_size**2 / 4, dtype=torch.float64)
        )


@pytest.mark.parametrize(("upsampling_type", "kernel_size"), KINDS)
def test_image_does_not_drift_through_the_levels(upsampling_type, kernel_size):
    model = WBCGenerator(192, 1, 1, 16, kernel_size, upsampling_type, "none").double()
    x = torch.zeros(1, 16, 6, 6, dtype=torch.float64)
    x[:, :, 2:4, 2:4] = 1.0  # the middle of the grid
    for block in [*model.up_blocks, model.up_out]:
        nn.init.ones_(block.conv.weight)
        x = block(x).detach()
    place = torch.arange(192, dtype=torch.float64) - 95.5
    for axis in (2, 3):
        profile = x.sum(dim=[d for d in range(4) if d != axis])
        assert abs(float((profile * place).sum() / profile.sum())) <= 0.501


# Its scale.


@pytest.mark.parametrize("upsampling_type", ["nearest", "transposed"])
@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_signals_keep_their_scale_without_batch_norm(upsampling_type, slope):
    torch.manual_seed(2)
    model = WBCGenerator(128, 128, depth=512, upsampling_type=upsampling_type, norm_type="none", negative_slope=slope)
    scales = []
    for module in [model.linear_in, *model.up_blocks, model.up_out]:
        module.register_forward_hook(lambda module, given, out: scales.append(out))
    run(model, noise(8, 128))
    # Zeros around the grid take some of it at the edge.
    middles = [
        scales[0],
        *(x[..., x.shape[-1] // 4 : -x.shape[-1] // 4, x.shape[-1] // 4 : -x.shape[-1] // 4] for x in scales[1:]),
    ]
    assert len(middles) == 6
    for x in middles:
        assert 0.6 < x.square().mean().sqrt() < 1.5


def test_weights_start_as_radford_says_before_batch_norm():
    torch.manual_seed(0)
    model = WBCGenerator(32, depth=128)
    for layer in (model.linear_in, *(block.conv for block in [*model.up_blocks, model.up_out])):
        assert abs(layer.weight.std().item() - 0.02) < 0.001
        assert abs(layer.weight.mean().item()) < 0.001
    assert model.up_out.conv.bias.eq(0).all()
    assert [norm.weight.unique().tolist() for norm in model.norms] == [[1.0]] * 3


def test_batch_norm_is_everywhere_or_nowhere():
    for norm_type, expected in (("batch", 2), ("none", 0)):
        model = tiny(norm_type=norm_type)
        assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == expected
        biased = [name for name in model.state_dict() if name.endswith("conv.bias") or name == "linear_in.bias"]
        # The bias of a layer that batch norm follows would do nothing.
        assert len(biased) == (1 if norm_type == "batch" else 3)


# Bad input.


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"sample_size": 36}, "sample_size=36: it must be 4, 5, 6 or 7 times a power of two, such as 64"),
        ({"sample_size": 6}, "sample_size=6: it must be"),
        ({"sample_size": 72}, "sample_size=72: it must be"),
        ({"sample_size": 64.0}, "sample_size=64.0: give a whole number of 1 or more"),
        ({"latent_dim": 0}, "latent_dim=0: give a whole number"),
        ({"out_channels": True}, "out_channels=True: give a whole number"),
        ({"depth": -16}, "depth=-16: give a whole number"),
        ({"depth": 17}, "depth=17 can't be halved at each of 2 levels of 16 px: take a multiple of 2"),
        ({"sample_size": 192, "depth": 24}, "depth=24 can't be halved at each of 5 levels.*a multiple of 16"),
        ({"kernel_size": 1}, "kernel_size=1: give 2 or more; a stride of 2 would skip pixels"),
        ({"kernel_size": "6"}, "kernel_size='6': give a whole number"),
        ({"upsampling_type": "bilinear"}, "upsampling_type='bilinear': choose one of nearest, transposed"),
        ({"norm_type": "group"}, "norm_type='group': choose one of batch, none"),
        ({"negative_slope": 1.5}, "negative_slope=1.5: give a number from 0 to 1"),
        ({"negative_slope": float("nan")}, "negative_slope=nan: give a number"),
        ({"negative_slope": True}, "negative_slope=True: give a number"),
    ],
)
def test_bad_configuration_is_refused(changes, error):
    with pytest.raises(ValueError, match=error):
        tiny(**changes)


@pytest.mark.parametrize("shape", [(8,), (2, 7), (2, 8, 1, 1)])
def test_noise_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"got noise of shape \(.*\): \(B, 8\) is wanted"):
        tiny()(torch.zeros(shape))


def test_gradient_checkpointing_is_refused_by_diffusers():
    with pytest.raises(ValueError, match="WBCGenerator does not support gradient checkpointing"):
        tiny().enable_gradient_checkpointing()


# What diffusers' common model tests check.


@pytest.mark.parametrize(
    "changes", [{}, {"upsampling_type": "transposed", "kernel_size": 5}, {"norm_type": "none"}, {"out_channels": 1}]
)
def test_configurations_come_back_from_their_folder(changes, tmp_path: Path):
    model = tiny(**changes)
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    loaded = WBCGenerator.from_pretrained(tmp_path)
    assert not loaded.training
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    again = WBCGenerator.from_config(loaded.config)
    again.load_state_dict(loaded.state_dict())
    torch.testing.assert_close(run(loaded, noise()), run(model, noise()))
    torch.testing.assert_close(run(again.eval(), noise()), run(model, noise()))


def test_missing_weights_are_named(tmp_path: Path):
    tiny().save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    save_file({k: v for k, v in load_file(file).items() if k != "norms.1.running_mean"}, file)
    with pytest.raises(OSError, match=rf"{tmp_path.name} lack norms.1.running_mean: take them again"):
        WBCGenerator.from_pretrained(tmp_path)


@pytest.mark.parametrize("upsampling_type", ["nearest", "transposed"])
def test_half_precision_copies_and_layouts_give_the_plain_result(upsampling_type, tmp_path: Path):
    model = tiny(upsampling_type=upsampling_type, norm_type="none")
    for block in (*model.up_blocks, model.up_out):
        nn.init.zeros_(block.conv.bias)
    plain = run(model, noise())
    assert torch.equal(run(copy.deepcopy(model), noise()), plain)
    model.save_pretrained(tmp_path)
    half = WBCGenerator.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    found = run(half, noise().bfloat16())
    assert found.dtype == torch.bfloat16
    assert (found.float() - plain).abs().max() < 0.05
    with torch.autocast("cpu", torch.bfloat16):
        assert (run(model, noise()).float() - plain).abs().max() < 0.05
    last = run(model.to(memory_format=torch.channels_last), noise())
    torch.testing.assert_close(last, plain, atol=1e-5, rtol=1e-5)


def test_layerwise_casting_stores_convolutions_in_eight_bits_and_leaves_norms():
    model = tiny()
    plain = run(model, noise())
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert model.up_out.conv.weight.dtype == torch.float8_e4m3fn
    assert model.norms[0].weight.dtype == torch.float32
    assert torch.corrcoef(torch.stack([run(model, noise()).flatten(), plain.flatten()]))[0, 1] > 0.95


@pytest.mark.slow
def test_compiled_graph_is_whole_and_gives_the_plain_result():
    model = tiny()
    torch.testing.assert_close(
        run(torch.compile(model, fullgraph=True), noise()), run(model, noise()), atol=1e-5, rtol=1e-5
    )
