"""Agreement of readers, against sklearn and statsmodels."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import aggregate_raters
from statsmodels.stats.inter_rater import fleiss_kappa as theirs

from wbc_diffusers.readers.agreement import cohens_kappa, fleiss_kappa, kappa_with_interval


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


@pytest.mark.parametrize(
    ("readers", "images", "differ"),
    [(2, 20, 0.02), (2, 40, 0.02), (2, 40, 0.1), (2, 100, 0.3), (3, 40, 0.1), (4, 80, 0.5)],
)
def test_the_interval_holds_the_kappa_of_many_images_in_most_simulated_studies(
    readers: int, images: int, differ: float
) -> None:
    rng = np.random.default_rng(0)

    def draw(count: int) -> np.ndarray:
        common = rng.integers(0, 2, count)
        return np.where(rng.random((readers, count)) < differ / 2, 1 - common, common)

    many = draw(200_000)
    truth = (cohens_kappa(many[0], many[1], 2) if readers == 2 else fleiss_kappa(many, 2))[0]
    found = [kappa_with_interval(draw(images), 2, seed=study) for study in range(150)]
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.88
    assert min(one.high - one.low for one in found) > 0.05


@pytest.mark.parametrize("levels", [2, 4])
def test_readers_who_always_agreed_are_not_sure_to(levels: int) -> None:
    same = np.tile(np.arange(8) % levels, (3, 1))
    for answers in (same[:2], same):
        found = kappa_with_interval(answers, levels)
        assert (found.value, found.high) == (1.0, 1.0)
        assert found.low < 0.95
    against = kappa_with_interval(np.stack([np.arange(8) % 2, 1 - np.arange(8) % 2]), 2)
    assert against.low <= against.value == -1.0
    assert against.high > -0.95
    assert np.isnan([kappa_with_interval(np.ones((2, 5), int), 2).value, kappa_with_interval(-same, 2).low]).all()


def test_the_kappa_with_interval_is_the_one_without_and_leaves_out_what_not_all_answered() -> None:
    answers = some_answers(3)
    answers[2, :30] = -1
    assert kappa_with_interval(answers, 3).value == pytest.approx(fleiss_kappa(answers[:, 30:], 3)[0])
    graded = kappa_with_interval(answers[:2], 3, graded=True)
    assert graded.value == pytest.approx(cohens_kappa(answers[0], answers[1], 3, graded=True)[0])
    assert graded.low < graded.value < graded.high
