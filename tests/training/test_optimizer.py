"""The optimiser of a recipe takes the steps of its formula."""

import math

import pytest
import torch
from torch import nn

from wbc_diffusers.training.optimizer import make_optimizer
from wbc_diffusers.training.recipe import DDIMRecipe

RATE, DECAY = 0.1, 0.5


def two_steps_by_hand(kind: str, weight: float, gradient: float) -> float:
    """Kingma and Ba 2015, algorithm 1; Loshchilov and Hutter 2019, algorithm 2; momentum as torch writes it."""
    first = second = velocity = 0.0
    for step in (1, 2):
        g = gradient if kind == "adamw" else gradient + DECAY * weight
        if kind == "adamw":
            weight -= RATE * DECAY * weight
        if kind == "sgd":
            velocity = g if step == 1 else 0.8 * velocity + g
            weight -= RATE * velocity
            continue
        first, second = 0.7 * first + 0.3 * g, 0.9 * second + 0.1 * g * g
        weight -= RATE * (first / (1 - 0.7**step)) / (math.sqrt(second / (1 - 0.9**step)) + 1e-8)
    return weight


@pytest.mark.parametrize("precision", ["no", "fp16"])
@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_steps_equal_the_formula(kind, precision):
    recipe = DDIMRecipe(
        optimizer=kind,
        weight_decay=DECAY,
        adam_betas=(0.7, 0.9),
        momentum=0.8,
        mixed_precision=precision,
    )
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    optimizer = make_optimizer(recipe, list(model.parameters()), RATE)
    for _ in range(2):
        model.weight.grad = torch.tensor([[3.0]])
        optimizer.step()
    assert model.weight.item() == pytest.approx(two_steps_by_hand(kind, 2.0, 3.0), rel=1e-5)
