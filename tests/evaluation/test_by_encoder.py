"""What a floor is of: as many images as the figure beside it."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from wbc_diffusers.evaluation.by_encoder import compare_by
from wbc_diffusers.evaluation.distances import some, values
from wbc_diffusers.evaluation.encoders import Encoder
from wbc_diffusers.evaluation.intervals import halves

ENCODER = cast(Encoder, SimpleNamespace(name="e", named=lambda measure: measure, fingerprint="0"))
SEED = 3


@pytest.mark.parametrize("made", [30, 100, 200])
def test_the_floor_is_of_as_many_images_as_the_figure_beside_it(made: int) -> None:
    rng = np.random.default_rng(0)
    real, generated = (rng.normal(size=(count, 4)).astype(np.float32) for count in (200, made))
    first, second = (real[places] for places in halves(len(real), SEED))
    other = some(second, made, SEED)
    assert len(other) == min(made, 100)
    floor = values(first, other, SEED)
    at_floor = values(some(real, 100, SEED), some(generated, len(other), SEED), SEED)
    rows: dict[str, Any] = {row.measure: row for row in compare_by(ENCODER, real, generated, seed=SEED).rows}
    for measure in ("fd", "kd"):
        row = rows[measure]
        assert (row.floor, row.value_at_floor) == (floor[measure], at_floor[measure])
        assert (row.floor_n_real, row.floor_n_other) == (100, len(other))
