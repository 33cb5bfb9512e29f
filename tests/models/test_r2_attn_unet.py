"""R2AttnUNet: its arithmetic against plain functional calls, and the contract of diffusers' common model tests."""

import copy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wbc_diffusers import R2AttnUNet, SigmoidDDIMScheduler
from wbc_diffusers.models.r2_attn_unet import AttentionGate, R2Block, RecurrentUnit, variance_embedding


def tiny(**changes) -> R2AttnUNet:
    """A network of two levels whose every weight counts: none is left at zero or one."""
    torch.manual_seed(0)
    model = R2AttnUNet(**{"sample_size": 16, "block_out_channels": (8, 16), **changes})
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2) if parameter.ndim == 1 else None
    return model.eval()


def inputs(batch: int = 2, height: int = 16, width: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, height, width, generator=generator), torch.linspace(0.1, 0.9, batch)


def public_config(model: R2AttnUNet) -> dict:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in model.config.items() if not k.startswith("_")}


def run(model: R2AttnUNet, *args, **kwargs) -> Tensor:
    with torch.no_grad():
        return model(*args, **kwargs).sample


# The arithmetic, by plain functional calls over the weights alone.


def unit_by_hand(weights: dict[str, Tensor], name: str, x: Tensor, applications: int, groups: int) -> Tensor:
    out = torch.zeros_like(x)
    for _ in range(applications):
        h = F.conv2d(x + out, weights[f"{name}.conv.weight"], weights[f"{name}.conv.bias"], padding=1)
        h = F.group_norm(h, groups, weights[f"{name}.norms.0.weight"], weights[f"{name}.norms.0.bias"], eps=1e-5)
        out = torch.relu(h)
    return out


def block_by_hand(
    weights: dict[str, Tensor], name: str, x: Tensor, groups: int, applications: int = 3, residual: bool = True
) -> Tensor:
    x = F.conv2d(x, weights[f"{name}.conv_in.weight"], weights[f"{name}.conv_in.bias"])
    h = unit_by_hand(weights, f"{name}.units.0", x, applications, groups)
    h = unit_by_hand(weights, f"{name}.units.1", h, applications, groups)
    return x + h if residual else h


def gate_by_hand(weights: dict[str, Tensor], name: str, gate: Tensor, skip: Tensor) -> Tensor:
    def pointwise(layer: str, x: Tensor) -> Tensor:
        matrix, bias = weights[f"{name}.{layer}.weight"][:, :, 0, 0], weights[f"{name}.{layer}.bias"]
        return torch.einsum("oi,bihw->bohw", matrix, x) + bias[:, None, None]

    return skip / (1 + torch.exp(-pointwise("weight", torch.relu(pointwise("gate", gate) + pointwise("skip", skip)))))


def embedding_by_hand(variance: float, dim: int, highest: float) -> np.ndarray:
    frequencies = np.geomspace(1.0, highest, dim // 2)
    return np.concatenate([np.sin(2 * np.pi * variance * frequencies), np.cos(2 * np.pi * variance * frequencies)])


def test_embedding_is_sine_and_cosine_of_geometric_frequencies():
    found = variance_embedding(torch.tensor([0.0, 0.25, 0.7, 1.0]), 32, 1000.0)
    expected = np.stack([embedding_by_hand(v, 32, 1000.0) for v in (0.0, 0.25, 0.7, 1.0)])
    # float32 holds an angle of 2 pi 1000 to about 5e-4.
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("block_type", "applications", "residual"),
    [("recurrent_residual", 3, True), ("recurrent", 3, False), ("residual", 1, True), ("plain", 1, False)],
)
def test_block_is_a_pointwise_convolution_two_recurrent_units_and_their_sum(block_type, applications, residual):
    model = tiny(block_type=block_type)
    x = torch.randn(2, 8 + 32, 8, 8)
    found = model.down_blocks[0](x, torch.zeros(2, 32))
    expected = block_by_hand(model.state_dict(), "down_blocks.0", x, 2, applications, residual)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_attention_gate_weighs_the_skip_by_gate_and_skip():
    model = tiny()
    gate, skip = torch.randn(2, 8, 4, 4), torch.randn(2, 8, 4, 4)
    expected = gate_by_hand(model.state_dict(), "gates.0", gate, skip)
    torch.testing.assert_close(model.gates[0](gate, skip), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gated", [True, False])
def test_network_is_a_gated_u_of_blocks(gated):
    model, (x, variance) = tiny(attention_gates=gated), inputs()
    w = model.state_dict()
    embedding = torch.tensor(np.stack([embedding_by_hand(float(v), 32, 1000.0) for v in variance])).float()
    h = F.conv2d(x, w["conv_in.weight"], w["conv_in.bias"], padding=1)
    h = torch.cat([h, embedding[:, :, None, None] * torch.ones(1, 1, 16, 16)], dim=1)
    skip = block_by_hand(w, "down_blocks.0", h, groups=2)
    h = block_by_hand(w, "down_blocks.1", F.max_pool2d(skip, 2), groups=4)
    h = h.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    h = F.conv2d(h, w["upsamplers.0.conv.weight"], w["upsamplers.0.conv.bias"], padding=1)
    h = torch.relu(F.group_norm(h, 2, w["upsamplers.0.norm.weight"], w["upsamplers.0.norm.bias"]))
    skip = gate_by_hand(w, "gates.0", h, skip) if gated else skip
    h = block_by_hand(w, "up_blocks.0", torch.cat([skip, h], dim=1), groups=2)
    expected = F.conv2d(h, w["conv_out.weight"], w["conv_out.bias"])
    torch.testing.assert_close(run(model, x, variance), expected, atol=2e-2, rtol=2e-2)
    assert torch.corrcoef(torch.stack([run(model, x, variance).flatten(), expected.flatten()]))[0, 1] > 0.9999


def test_default_network_has_the_number_of_parameters_that_its_layers_add_up_to():
    widths, embedding = (16, 32, 64, 128, 256), 32

    def conv(into: int, out: int, kernel: int) -> int:
        return into * out * kernel**2 + out

    def block(into: int, out: int) -> int:
        return conv(into, out, 1) + 2 * (conv(out, out, 3) + 2 * out)

    def gate(width: int) -> int:
        return 2 * conv(width, width // 2, 1) + conv(width // 2, 1, 1)

    down = block(16 + embedding, 16) + sum(block(a, b) for a, b in pairwise(widths))
    up = sum(conv(2 * w, w, 3) + 2 * w + gate(w) + block(2 * w, w) for w in widths[:-1])
    expected = conv(3, 16, 3) + down + up + conv(16, 3, 1)
    assert R2AttnUNet().num_parameters() == expected == 2_470_991


def test_group_norm_has_a_quarter_of_the_channels_as_groups_and_at_most_eight():
    groups = {
        module.num_channels: module.num_groups for module in R2AttnUNet().modules() if isinstance(module, nn.GroupNorm)
    }
    assert groups == {16: 4, 32: 8, 64: 8, 128: 8, 256: 8}


def test_batch_norm_keeps_statistics_of_each_recurrent_application():
    unit = RecurrentUnit(8, 2, "batch").train()
    for _ in range(100):
        unit(torch.randn(4, 8, 8, 8))
    means = torch.stack([norm.running_mean for norm in unit.norms])
    assert len(unit.norms) == 3
    assert (means[1] - means[0]).abs().max() > 0.05
    x = torch.randn(64, 8, 8, 8)
    batch_statistics = unit(x)
    torch.testing.assert_close(unit.eval()(x), batch_statistics, atol=0.3, rtol=0.1)


def test_blocks_start_without_conditioning_and_can_learn_it():
    block = R2Block(8, 8, 2, True, "group", 0.0, embedding_dim=32)
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(block(x, torch.randn(2, 32)), block(x, torch.zeros(2, 32)))
    nn.init.normal_(block.film.weight)
    assert not torch.allclose(block(x, torch.randn(2, 32)), block(x, torch.zeros(2, 32)))


# Timesteps and classes.


def test_integer_timesteps_are_looked_up_in_the_schedule():
    scheduler = SigmoidDDIMScheduler()
    model, (x, _) = tiny(trained_betas=scheduler.config.trained_betas), inputs()
    timesteps = torch.tensor([0, 999])
    variances = 1 - scheduler.alphas_cumprod[timesteps]
    torch.testing.assert_close(run(model, x, timesteps), run(model, x, variances), atol=1e-3, rtol=1e-3)
    assert torch.equal(run(model, x, 999), run(model, x, torch.tensor(999)))
    assert torch.equal(run(model, x, 999)[1], run(model, x, timesteps)[1])
    for given in (np.int64(200), torch.tensor([200, 200], dtype=torch.int32), torch.tensor(200, dtype=torch.uint8)):
        assert torch.equal(run(model, x, given), run(model, x, 200))


def test_half_precision_tells_neighbouring_timesteps_apart():
    model = tiny(trained_betas=SigmoidDDIMScheduler().config.trained_betas).to(torch.bfloat16)
    x = inputs()[0].to(torch.bfloat16)
    assert not torch.equal(run(model, x, 990), run(model, x, 991))


@pytest.mark.parametrize(
    ("timestep", "error"),
    [
        (999.0, "a float is a noise variance, and must lie in"),
        (-0.1, "a float is a noise variance"),
        (torch.tensor([0.5, 1.5]), r"got timestep \[0.5, 1.5\].*use WBCDDIMPipeline"),
        (1000, r"an integer is a step of its noise schedule, and must lie in \[0, 999\]"),
        (torch.tensor(-1), "an integer is a step of its noise schedule"),
    ],
)
def test_timestep_out_of_range_is_refused(timestep, error):
    model = tiny(trained_betas=SigmoidDDIMScheduler().config.trained_betas)
    with pytest.raises(ValueError, match=error):
        model(inputs()[0], timestep)


def test_integer_timestep_without_a_schedule_says_what_to_do():
    with pytest.raises(ValueError, match=r"trained_betas=scheduler.config.trained_betas"):
        tiny()(inputs()[0], 10)


def test_class_embedding_is_added_to_that_of_the_variance():
    model, (x, variance) = tiny(num_class_embeds=4), inputs()
    plain = tiny()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "class_embedding" not in k})
    nn.init.zeros_(model.class_embedding.weight)
    assert torch.equal(run(model, x, variance, torch.tensor([1, 2])), run(plain, x, variance))
    model.class_embedding.weight.data[2] = 1.0
    classes = run(model, x, variance, torch.tensor([1, 2]))
    assert torch.equal(classes[0], run(plain, x, variance)[0])
    assert not torch.allclose(classes[1], run(plain, x, variance)[1])


def test_class_labels_are_wanted_exactly_when_there_are_classes():
    x, variance = inputs()
    with pytest.raises(ValueError, match=r"class_labels are needed: the model has 4 classes.*integers from 0 to 3"):
        tiny(num_class_embeds=4)(x, variance)
    with pytest.raises(ValueError, match="the model has no classes"):
        tiny()(x, variance, torch.tensor([0, 1]))


@pytest.mark.parametrize("labels", [1, [0, 1], torch.tensor([0, 4]), torch.tensor([-1, 0]), torch.tensor([0.0, 1.0])])
def test_class_labels_that_do_not_fit_are_refused(labels):
    x, variance = inputs()
    with pytest.raises(ValueError, match=r"the model has 4 classes. Pass a tensor of 2 integers from 0 to 3, not "):
        tiny(num_class_embeds=4)(x, variance, labels)
    with pytest.raises(ValueError, match=r"not tensor\(\[0, 1, 2\]\)"):
        tiny(num_class_embeds=4)(x, variance, torch.tensor([0, 1, 2]))


@pytest.mark.parametrize("count", [0, 2, 4])
def test_timesteps_are_as_many_as_images_or_one(count):
    with pytest.raises(ValueError, match=rf"got {count} timesteps for 3 images: give one for each or for all"):
        tiny()(inputs(3)[0], torch.full((count,), 0.5))


# Shapes and configurations.


@pytest.mark.parametrize(("height", "width"), [(16, 16), (8, 24), (2, 2)])
def test_output_has_the_size_of_the_input(height, width):
    assert run(tiny(), *inputs(1, height, width)).shape == (1, 3, height, width)


def test_size_that_does_not_divide_is_refused_with_the_divisor():
    with pytest.raises(ValueError, match=r"got images of 18 x 16 pixels.*divisible by 4, 2\^\(depth - 1\)"):
        tiny(block_out_channels=(8, 8, 8))(*inputs(2, 18, 16))


@pytest.mark.parametrize(
    "changes",
    [
        {"block_type": "plain", "norm_type": "batch"},
        {"block_out_channels": (8, 16, 16), "attention_gates": (True, False), "condition_blocks": True},
        {"recurrence_steps": 0, "embedding_dim": 4, "dropout": 0.5, "in_channels": 3, "out_channels": 6},
        {"block_out_channels": (8,)},
    ],
)
def test_configurations_run_and_come_back_from_their_folder(changes, tmp_path: Path):
    model, (x, variance) = tiny(**changes), inputs()
    model.save_pretrained(tmp_path)
    loaded = R2AttnUNet.from_pretrained(tmp_path)
    assert public_config(loaded) == public_config(model)
    assert torch.equal(run(loaded, x, variance), run(model, x, variance))
    gates = sum(isinstance(gate, AttentionGate) for gate in model.gates)
    assert gates == (1 if "attention_gates" in changes else len(model.gates))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"block_type": "dense"}, "block_type='dense': choose one of recurrent_residual"),
        ({"norm_type": "layer"}, "norm_type='layer': choose one of group, batch"),
        ({"block_out_channels": ()}, "give one positive width per level"),
        ({"attention_gates": (True, True)}, "has 2 entries, but 2 levels have 1 skip"),
        ({"recurrence_steps": -1}, "recurrence_steps=-1"),
        ({"embedding_dim": 7}, "embedding_dim=7: give an even number"),
        ({"block_out_channels": (8, 18)}, "18 does not divide into 4 groups"),
        ({"embedding_max_frequency": 0.0}, "embedding_max_frequency=0.0: give a number above 0"),
        ({"embedding_max_frequency": float("inf")}, "embedding_max_frequency=inf"),
        ({"trained_betas": [0.1, 1.1]}, r"trained_betas: give a list of numbers in \[0, 1\], such as scheduler.config"),
        ({"trained_betas": [-0.1, 0.1]}, "trained_betas: give"),
        ({"trained_betas": [float("nan"), 0.1]}, "trained_betas: give"),
        ({"trained_betas": []}, "trained_betas: give"),
    ],
)
def test_bad_configuration_is_refused(changes, error):
    with pytest.raises(ValueError, match=error):
        R2AttnUNet(**{"block_out_channels": (8, 16), **changes})


# What diffusers' common model tests check.


def test_same_call_gives_the_same_output_as_object_and_tuple():
    model, (x, variance) = tiny(), inputs()
    with torch.no_grad():
        assert torch.equal(model(x, variance, return_dict=False)[0], run(model, x, variance))


def test_copy_gives_the_same_output():
    model, (x, _) = tiny(trained_betas=SigmoidDDIMScheduler().config.trained_betas), inputs()
    twin = R2AttnUNet.from_config(model.config).eval()
    twin.load_state_dict(model.state_dict())
    assert torch.equal(run(copy.deepcopy(model), x, 500), run(model, x, 500))
    assert torch.equal(run(twin, x, 500), run(model, x, 500))


def test_weights_of_a_variant_and_a_dtype_are_saved_and_loaded(tmp_path: Path):
    model = tiny(trained_betas=SigmoidDDIMScheduler().config.trained_betas).half()
    model.save_pretrained(tmp_path, variant="fp16")
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["diffusion_pytorch_model.fp16.safetensors"]
    with pytest.raises(OSError, match=r"diffusion_pytorch_model\.safetensors|diffusion_pytorch_model\.bin"):
        R2AttnUNet.from_pretrained(tmp_path)
    loaded = R2AttnUNet.from_pretrained(tmp_path, variant="fp16", torch_dtype=torch.float16)
    assert loaded.dtype == torch.float16
    x = inputs()[0].half()
    assert torch.equal(run(loaded, x, 500), run(model, x, 500))


@pytest.mark.parametrize("options", [{}, {"low_cpu_mem_usage": False}, {"torch_dtype": torch.bfloat16}])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_missing_weights_are_named(options, variant, tmp_path: Path):
    tiny().save_pretrained(tmp_path, variant=variant)
    assert R2AttnUNet.from_pretrained(tmp_path, variant=variant, **options)
    (file,) = tmp_path.glob("*.safetensors")
    weights = load_file(file)
    save_file({k: v for k, v in weights.items() if k not in ("conv_out.bias", "gates.0.skip.weight")}, file)
    with pytest.raises(OSError, match=rf"{tmp_path.name} lack conv_out.bias, gates.0.skip.weight: take them again"):
        R2AttnUNet.from_pretrained(tmp_path, variant=variant, **options)
    save_file({"conv_out.bias": weights["conv_out.bias"]}, file)
    with pytest.raises(OSError, match=rf"conv_in.weight, .* and {len(weights) - 1 - 5} more: take"):
        R2AttnUNet.from_pretrained(tmp_path, variant=variant, **options)


def test_what_was_loaded_is_told_on_request(tmp_path: Path):
    tiny().save_pretrained(tmp_path)
    model, told = R2AttnUNet.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(model, R2AttnUNet)
    assert list(told["missing_keys"]) == []


def test_weights_are_saved_in_shards(tmp_path: Path):
    model, (x, variance) = tiny(), inputs()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert torch.equal(run(R2AttnUNet.from_pretrained(tmp_path), x, variance), run(model, x, variance))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.02), (torch.bfloat16, 0.1)])
def test_half_precision_gives_the_plain_result_within_tolerance(dtype, tolerance):
    model, (x, variance) = tiny(), inputs()
    plain = run(model, x, variance)
    found = run(model.to(dtype), x.to(dtype), variance)
    assert found.dtype == dtype
    assert (found.float() - plain).abs().max() < tolerance * plain.abs().max()


def test_bfloat16_autocast_gives_the_plain_result_within_tolerance():
    model, (x, variance) = tiny(), inputs()
    plain = run(model, x, variance)
    with torch.autocast("cpu", torch.bfloat16):
        found = run(model, x, variance)
    assert (found.float() - plain).abs().max() < 0.1 * plain.abs().max()


def test_channels_last_gives_the_plain_result():
    model, (x, variance) = tiny(), inputs()
    plain = run(model, x, variance)
    found = run(model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last), variance)
    torch.testing.assert_close(found, plain, atol=1e-4, rtol=1e-4)


def test_layerwise_casting_stores_convolutions_in_eight_bits_and_leaves_norms():
    model, (x, variance) = tiny(), inputs()
    plain = run(model, x, variance)
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert model.conv_in.weight.dtype == torch.float8_e4m3fn
    assert model.upsamplers[0].norm.weight.dtype == torch.float32
    assert model.dtype == torch.float32
    found = run(model, x, variance)
    assert torch.corrcoef(torch.stack([found.flatten(), plain.flatten()]))[0, 1] > 0.95


@pytest.mark.parametrize("changes", [{}, {"condition_blocks": True, "dropout": 0.3, "num_class_embeds": 3}])
def test_gradient_checkpointing_gives_the_same_loss_and_gradients(changes):
    x, variance = inputs()
    labels = torch.tensor([0, 2]) if changes else None
    gradients = []
    for checkpointing in (False, True):
        model = tiny(**changes).train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        torch.manual_seed(3)
        model(x, variance, labels).sample.square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(gradient is not None for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-5)


def test_gradient_checkpointing_runs_every_block_again_until_it_is_disabled(monkeypatch):
    model, (x, variance) = tiny().train(), inputs()
    runs = []
    monkeypatch.setattr(R2Block, "forward", lambda *args, plain=R2Block.forward: runs.append(1) or plain(*args))
    for enable, expected in ((model.enable_gradient_checkpointing, 6), (model.disable_gradient_checkpointing, 3)):
        enable()
        runs.clear()
        model(x, variance).sample.mean().backward()
        assert len(runs) == expected
    model.enable_gradient_checkpointing()
    runs.clear()
    run(model, x, variance)
    assert len(runs) == 3


def test_layerwise_casting_can_be_trained_through():
    model, (x, variance) = tiny().train(), inputs()
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    # As diffusers tests it: autocast keeps a copy of the weights for the way back.
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(x, variance).sample.float().square().mean()
    loss.backward()
    assert loss.isfinite()
    assert model.upsamplers[0].norm.weight.grad.abs().max() > 0


def test_gradient_checkpointing_refuses_batch_norm_in_training():
    model = tiny(norm_type="batch").train()
    model.enable_gradient_checkpointing()
    with pytest.raises(ValueError, match="count each batch twice"):
        model(*inputs())


def test_exponential_moving_average_of_diffusers_takes_the_model(tmp_path: Path):
    model = tiny()
    ema = EMAModel(model.parameters(), decay=0.5, model_cls=R2AttnUNet, model_config=model.config)
    before = model.conv_out.weight.detach().clone()
    model.conv_out.weight.data += 1.0
    ema.step(model.parameters())
    ema.save_pretrained(tmp_path)
    averaged = EMAModel.from_pretrained(tmp_path, R2AttnUNet)
    averaged.copy_to(model.parameters())
    assert (model.conv_out.weight > before).all()
    assert isinstance(R2AttnUNet.from_pretrained(tmp_path), R2AttnUNet)


@pytest.mark.slow
def test_compiled_graph_is_whole_and_gives_the_plain_result():
    model, (x, variance) = tiny(trained_betas=SigmoidDDIMScheduler().config.trained_betas), inputs()
    plain, by_step = run(model, x, variance), run(model, x, torch.tensor([3, 700]))
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(run(compiled, x, variance), plain, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(run(compiled, x, torch.tensor([3, 700])), by_step, atol=1e-4, rtol=1e-4)
    assert run(compiled, x, torch.tensor([0.5, 999.0]))[1].isnan().all()


@pytest.mark.slow
def test_repeated_blocks_can_be_compiled_alone():
    model, (x, variance) = tiny(), inputs()
    plain = run(model, x, variance)
    model.compile_repeated_blocks(fullgraph=True)
    torch.testing.assert_close(run(model, x, variance), plain, atol=1e-4, rtol=1e-4)
