"""Solvers by name: schedulers of diffusers that may take the place of the one a model was trained with."""

from typing import Any

import diffusers

from wbc_diffusers.schedulers.scheduling_sigmoid_ddim import SigmoidDDIMScheduler

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
        ValueError: If there is no solver of that name.
    """
    if name is None:
        return scheduler
    if name not in SOLVERS:
        raise ValueError(f"solver={name!r}: choose one of {', '.join(SOLVERS)}, or none for the model's own.")
    solver, changes = SOLVERS[name]
    # A scheduler that was never saved doesn't name its class, and diffusers then warns of each of its own options.
    return solver.from_config({**scheduler.config, "_class_name": type(scheduler).__name__}, **changes)
