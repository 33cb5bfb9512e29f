"""The moving average, batch norm's running statistics included."""

from typing import Any

import pytest
import torch
from torch import nn

from wbc_diffusers.training.ema import EMA


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9])
def test_the_average_is_the_formula_in_float64(decay: float) -> None:
    model = network()
    ema = EMA(model, decay)
    expected = {k: v.double() for k, v in model.state_dict().items()}
    for n in range(6):
        model(torch.randn(2, 3, 8, 8))  # moves the running statistics
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        ema.update(model)
        d = min(decay, (1 + n) / (10 + n))
        expected = {k: d * v + (1 - d) * model.state_dict()[k].double() for k, v in expected.items()}
    average = ema.model.state_dict()
    for name in ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
        torch.testing.assert_close(average[name].double(), expected[name], rtol=0, atol=1e-5)
    assert average["1.num_batches_tracked"] == 6


def test_the_average_neither_trains_nor_changes_the_model() -> None:
    model = network()
    ema = EMA(model.train(), 0.5)
    ema.model[0].weight.data.zero_()
    assert model[0].weight.abs().sum() > 0
    assert model.training
    assert not ema.model.training
    assert not any(p.requires_grad for p in ema.model.parameters())


def test_a_saved_average_goes_on_where_it_was() -> None:
    model = network()
    one, two = EMA(model, 0.9), EMA(network(), 0.9)
    for ema in (one, one):
        model[0].weight.data.add_(1.0)
        ema.update(model)
    two.load_state_dict({k: v if k == "updates" else dict(v) for k, v in one.state_dict().items()})
    model[0].weight.data.add_(1.0)
    one.update(model)
    two.update(model)
    assert all(torch.equal(v, two.model.state_dict()[k]) for k, v in one.model.state_dict().items())


def test_running_statistics_are_published_as_averages(trainer: Any, small: Any, published: Any, tmp_path: Any) -> None:
    recipe = small(model={"block_out_channels": [4, 8], "norm_type": "batch"}, ema_decay=0.99)
    run = trainer(recipe, tmp_path / "run")
    expected = {k: v.double().clone() for k, v in run.trained["unet"].bare.state_dict().items() if "running" in k}
    assert expected
    update, n = run.update, 0

    def followed(batches: Any) -> Any:
        nonlocal n, expected
        losses = update(batches)
        d = (1 + n) / (10 + n)
        expected = {k: d * v + (1 - d) * run.trained["unet"].bare.state_dict()[k].double() for k, v in expected.items()}
        n += 1
        return losses

    run.update = followed
    run.run()
    weights = published(tmp_path / "run")
    for name, value in expected.items():
        torch.testing.assert_close(weights[name].double(), value, rtol=0, atol=1e-5)
