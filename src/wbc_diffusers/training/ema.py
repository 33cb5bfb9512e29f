"""An exponential moving average of a whole model: the weights that get published."""

from copy import deepcopy
from typing import Any

import torch
from torch import nn


class EMA:
    """Average of a model's parameters and float buffers; other buffers are copied.

    diffusers' `EMAModel` leaves buffers out, so batch norm's running statistics would be those of the last step. The
    decay after n updates is min(decay, (1 + n) / (10 + n)), so that the first average is not the random start.

    Args:
        model: The model to average; `EMA.model` is a copy of it in evaluation mode.
        decay: The highest share of the old average, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.model = deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's present state."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        state = model.state_dict()
        averages, targets = [], []
        for name, average in self.model.state_dict().items():
            if average.is_floating_point():
                averages.append(average)
                targets.append(state[name])
            else:
                average.copy_(state[name])
        torch._foreach_lerp_(averages, targets, 1.0 - decay)

    def state_dict(self) -> dict[str, Any]:
        """The average and the number of its updates."""
        return {"updates": self.updates, "model": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved average."""
        self.updates = state["updates"]
        self.model.load_state_dict(state["model"])
