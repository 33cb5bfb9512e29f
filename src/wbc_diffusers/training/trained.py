"""A model with all that its training needs: the forms it runs in, its average, optimiser and schedule."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from torch import nn

from wbc_diffusers.training.ema import EMA
from wbc_diffusers.training.optimizer import make_optimizer
from wbc_diffusers.training.task import Task


@dataclass
class TrainedModel:
    """A model and what trains it.

    Args:
        model: As it is trained: compiled and spread over processes where that is wanted.
        partner: As it takes part in the updates of others: the same, but no gradients go between processes.
        bare: The network itself, whose weights are checked and saved.
        parameters: Those that are trained.
        average: What is published.
        optimizer: Of the parameters.
        schedule: Of the learning rate.
    """

    model: nn.Module
    partner: nn.Module
    bare: nn.Module
    parameters: list[nn.Parameter]
    average: EMA
    optimizer: Any
    schedule: Any

    @contextmanager
    def fixed(self) -> Iterator[None]:
        """Let gradients pass through the model without collecting any."""
        for parameter in self.parameters:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in self.parameters:
                parameter.requires_grad_(True)


def set_up(task: Task, name: str, accelerator: Accelerator, total_steps: int) -> TrainedModel:
    """Bring a model of a task to the device, and make what its training needs, by the task's recipe.

    Raises:
        ValueError: If it can't be trained on several devices.
    """
    recipe = task.recipe
    bare: Any = task.models[name].to(accelerator.device).train()
    parameters = [p for p in bare.parameters() if p.requires_grad]
    for module in bare.modules():
        # Else a frozen batch norm would go on counting, and a spectral norm iterating.
        if (own := list(module.parameters())) and not any(p.requires_grad for p in own):
            module.eval()
    if recipe.channels_last:
        bare = bare.to(memory_format=torch.channels_last)
    if recipe.gradient_checkpointing:
        bare.enable_gradient_checkpointing()
    average = EMA(bare, recipe.ema_decay if name in task.averaged else 0.0)
    if accelerator.num_processes > 1 and accelerator.device.type != "cpu":
        if name in task.gradient_penalised and any(isinstance(module, nn.BatchNorm2d) for module in bare.modules()):
            raise ValueError(
                f"The {name} has r1_weight and batch norm, which share statistics over several GPUs, and of that torch "
                "has no second derivative: set its norm_type none, or r1_weight 0, or train on one GPU."
            )
        bare = nn.SyncBatchNorm.convert_sync_batchnorm(bare)  # torch has none for CPUs
    optimizer = make_optimizer(recipe, parameters, task.learning_rate(name))
    # It is stepped once an update, whatever the number of processes, so it is not prepared.
    schedule = get_scheduler(
        recipe.lr_scheduler, optimizer, num_warmup_steps=recipe.lr_warmup_steps, num_training_steps=total_steps
    )
    model, optimizer = accelerator.prepare(torch.compile(bare) if recipe.compile else bare, optimizer)
    return TrainedModel(model, accelerator.unwrap_model(model), bare, parameters, average, optimizer, schedule)
