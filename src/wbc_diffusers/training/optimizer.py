"""The optimiser that a recipe asks for."""

from typing import Any

import torch
from torch import nn

from wbc_diffusers.training.recipe import Recipe


def make_optimizer(recipe: Recipe, parameters: list[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """The recipe's optimiser over parameters, at a learning rate."""
    # A fused step hides from accelerate that the scaler of fp16 skipped it.
    options: dict[str, Any] = {"weight_decay": recipe.weight_decay, "fused": recipe.mixed_precision != "fp16"}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, learning_rate, momentum=recipe.momentum, **options)
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, learning_rate, recipe.adam_betas, **options)
