"""Solvers by name: schedulers of diffusers that may take the place of the one a model was trained with."""

from typing import Any

import diffusers
import torch

from wbc_diffusers.pipelines import SigmoidDDIMScheduler  # from there, since that makes it known to diffusers

SOLVERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (SigmoidDDIMScheduler, {}),
    "dpm++": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "dpm++_sde": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
    "heun": (diffusers.HeunDiscreteScheduler, {}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "euler_a": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "ddpm": (diffusers.DDPMScheduler, {}),
}
"""The class of each solver, and what of its config differs from the model's own scheduler."""


def as_solver(scheduler: Any, name: str | None) -> Any:
    """The solver of a name with the noise schedule of a scheduler; without a name the scheduler itself.

    Raises:
        ValueError: If there is no solver of that name, or it cannot use what the network predicts.
    """
    if name is None:
        return scheduler
    if name not in SOLVERS:
        raise ValueError(f"solver={name!r}: choose one of {', '.join(SOLVERS)}, or none for the model's own.")
    solver_class, changes = SOLVERS[name]
    try:
        _rehearse(swapped(scheduler, solver_class, **changes))
    except NotImplementedError as error:
        raise ValueError(f"{solver_class.__name__} can't run this model ({error}): choose another solver.") from error
    return swapped(scheduler, solver_class, **changes)


def swapped(scheduler: Any, solver_class: Any, **changes: Any) -> Any:
    """A scheduler of another class with the config of this one, but for the changes."""
    return solver_class.from_config(config_with_betas(scheduler), **changes)


def config_with_betas(scheduler: Any) -> dict[str, Any]:
    """The config of a scheduler, with the betas that it made of options which another class may not have."""
    # diffusers warns of options that the class doesn't have, unless it is told that they are of ours, as here they are.
    config = {**scheduler.config, "_class_name": SigmoidDDIMScheduler.__name__}
    if config.get("trained_betas") is None and getattr(scheduler, "betas", None) is not None:
        config["trained_betas"] = scheduler.betas.tolist()
        # diffusers drops what is listed there.
        config["_use_default_values"] = [n for n in config.get("_use_default_values", ()) if n != "trained_betas"]
    return config


def name_of(scheduler: Any) -> str:
    """The name of a solver; of a scheduler that is none of them, its class."""
    for name, (solver_class, changes) in SOLVERS.items():
        if type(scheduler) is solver_class and all(scheduler.config[k] == v for k, v in changes.items()):
            return name
    return type(scheduler).__name__


def _rehearse(scheduler: Any) -> None:
    """Take one step with an image of one pixel: some solvers find out only then that they cannot."""
    pixel = torch.zeros(1, 1, 1, 1)
    scheduler.set_timesteps(2)
    first = scheduler.timesteps[0]
    scheduler.step(scheduler.scale_model_input(pixel, first), first, pixel)
