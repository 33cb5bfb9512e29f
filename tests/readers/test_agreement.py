"""Agreement of readers, against sklearn and statsmodels."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import aggregate_raters
from statsmodels.stats.inter_rater import fleiss_kappa as theirs

from wbc_diffusers.readers.agreement import cohens_kappa, draw_images, fleiss_kappa, with_interval


def some_answers(levels: int, readers: int = 4, images: int = 80) -> np.ndarray:
    rng = np.random.default_rng(levels)
    common = rng.integers(0, levels, images)
    return np.where(rng.random((readers, images)) < 0.6, common, rng.integers(0, levels, (readers, images)))


@pytest.mark.parametrize("graded", [False, True])
@pytest.mark.parametrize("levels", [2, 4])
def test_kappa_of_two_is_sklearns(levels: int, graded: bool) -> None:
    one, two, *_ = some_answers(levels)
    wanted = cohen_kappa_score(one, two, weights="quadratic" if graded else None)
    assert cohens_kappa(one, two, levels, graded=graded)[0] == pytest.approx(wanted)


@pytest.mark.parametrize("levels", [2, 4])
def test_kappa_of_several_is_statsmodels(levels: int) -> None:
    answers = some_answers(levels)
    assert fleiss_kappa(answers, levels)[0] == pytest.approx(theirs(aggregate_raters(answers.T)[0]))


def test_only_images_that_all_answered_count() -> None:
    answers = some_answers(3)
    missing = np.concatenate([answers, np.full((4, 5), -1)], axis=1)
    missing[0, -5:] = 2
    assert fleiss_kappa(missing, 3) == fleiss_kappa(answers, 3)
    assert cohens_kappa(missing[0], missing[1], 3) == cohens_kappa(answers[0], answers[1], 3)


def test_always_the_same_answer_has_no_kappa() -> None:
    same = np.ones((2, 10), int)
    assert np.isnan(cohens_kappa(*same, 2)).all()
    assert np.isnan(fleiss_kappa(same, 2)).all()
    assert np.isnan(fleiss_kappa(np.full((2, 3), -1), 2)).all()


@pytest.mark.parametrize("graded", [False, True])
def test_a_weight_counts_an_image_so_often(graded: bool) -> None:
    answers = some_answers(3)
    answers[0, :4] = -1
    weights = np.random.default_rng(0).integers(0, 3, (80, 5))
    for draw in range(5):
        repeated = answers[:, np.repeat(np.arange(80), weights[:, draw])]
        kappa = cohens_kappa(answers[0], answers[1], 3, graded=graded, weights=weights)[draw]
        assert kappa == pytest.approx(cohens_kappa(repeated[0], repeated[1], 3, graded=graded)[0])
        assert fleiss_kappa(answers, 3, weights)[draw] == pytest.approx(fleiss_kappa(repeated, 3)[0])


def test_the_interval_holds_the_kappa_of_many_images_in_most_simulated_studies() -> None:
    rng = np.random.default_rng(0)

    def draw(images: int) -> np.ndarray:
        common = rng.integers(0, 2, images)
        return np.where(rng.random((3, images)) < 0.5, common, rng.integers(0, 2, (3, images)))

    truth = fleiss_kappa(draw(200_000), 2)[0]
    studies = [(draw(80), draw_images(80, replicates=200, seed=i)) for i in range(120)]
    found = [with_interval(fleiss_kappa(answers, 2), fleiss_kappa(answers, 2, drawn)) for answers, drawn in studies]
    assert 0.88 <= np.mean([one.low <= truth <= one.high for one in found]) <= 1.0
