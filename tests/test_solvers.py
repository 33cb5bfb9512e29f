"""Solvers by name."""

import logging

import pytest
from diffusers import DDIMScheduler

from wbc_diffusers import SigmoidDDIMScheduler
from wbc_diffusers.solvers import SOLVERS, as_solver, name_of


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_is_named_as_it_was_asked_for_and_can_be_swapped_back(
    name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    own = SigmoidDDIMScheduler(noise_schedule="cosine", prediction_type="v_prediction")
    solver = as_solver(own, name)
    assert name_of(solver) == name
    assert solver.config.prediction_type == "v_prediction"
    assert as_solver(solver, "ddim").config.noise_schedule == "cosine"
    assert caplog.text == ""


def test_a_scheduler_without_a_name_is_called_by_its_class() -> None:
    assert name_of(DDIMScheduler()) == "DDIMScheduler"
    own = SigmoidDDIMScheduler()
    assert as_solver(own, None) is own
