"""Solvers by name."""

import logging

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, UniPCMultistepScheduler

from wbc_diffusers import SigmoidDDIMScheduler
from wbc_diffusers.solvers import SOLVERS, as_solver, name_of


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_is_named_as_it_was_asked_for_and_can_be_swapped_back(
    name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    own = SigmoidDDIMScheduler(noise_schedule="cosine", prediction_type="v_prediction")
    solver = as_solver(own, name)
    assert name_of(solver) == name_of(as_solver(solver, name)) == name
    assert solver.config.prediction_type == "v_prediction"
    assert as_solver(solver, "ddim").config.noise_schedule == "cosine"
    assert caplog.text == ""


def test_a_scheduler_without_a_name_is_called_by_its_class() -> None:
    assert name_of(DDIMScheduler()) == "DDIMScheduler"
    own = SigmoidDDIMScheduler()
    assert as_solver(own, None) is own


@pytest.mark.parametrize("name", SOLVERS)
def test_a_scheduler_of_diffusers_hands_its_own_betas_on(name: str) -> None:
    # Nichol and Dhariwal 2021, eq. 17, whose betas diffusers keeps below 0.999.
    t = np.arange(1001) / 1000
    bar = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    expected = np.cumprod(1 - np.minimum(1 - bar[1:] / bar[:-1], 0.999))
    for theirs in (DDIMScheduler, UniPCMultistepScheduler):
        solver = as_solver(theirs(beta_schedule="squaredcos_cap_v2"), name)
        np.testing.assert_allclose(solver.alphas_cumprod.numpy(), expected, atol=1e-6)
        again = as_solver(as_solver(solver, "ddim"), name)
        torch.testing.assert_close(again.alphas_cumprod, solver.alphas_cumprod, atol=1e-6, rtol=0)
