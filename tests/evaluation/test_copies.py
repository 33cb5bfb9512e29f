"""The audit of copies: its statistics against counting and simulation, and copies among real cells."""

from math import comb
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from wbc_diffusers.evaluation.copies import CopyAudit, audit, authenticity, closest_pairs
from wbc_diffusers.evaluation.nearest import Nearest, nearest_by_features, nearest_by_pixels, thumbnail
from wbc_diffusers.evaluation.planted import KINDS, plant_copies

TRAINING = np.zeros(1)
COPIES = {"planted": np.full(40, 0.01)}


def given(distances: np.ndarray, training: np.ndarray) -> Nearest:
    """A search for images that are told their distance."""
    return Nearest(np.zeros(len(distances), int), distances)


def audit_of(generated: np.ndarray, held_out: np.ndarray, **options) -> CopyAudit:
    return audit(given, generated, held_out, TRAINING, COPIES, **options)


def spread(count: int) -> np.ndarray:
    """Distances 1, 2, 3, ... in some order."""
    return np.random.default_rng(0).permutation(np.arange(1.0, count + 1))


@pytest.mark.parametrize(("count", "rank"), [(99, 1), (198, 1), (199, 2), (320, 3), (999, 10), (20000, 200)])
def test_threshold_leaves_a_hundredth_of_new_images_below(count, rank):
    found = audit_of(np.array([5000.0]), spread(count))
    assert found.threshold == rank
    # Of count + 1 images, each is as likely the new one: that is below the threshold if it is one of the first ranks.
    assert found.false_alarms.value == pytest.approx(rank / (count + 1))
    assert 0.005 <= found.false_alarms.value <= 0.01


@pytest.mark.parametrize("count", [99, 320, 2000])
def test_interval_of_the_false_alarms_is_the_binomials(count):
    found = audit_of(np.array([5000.0]), spread(count))
    rank, (low, high) = int(found.threshold), (found.false_alarms.low, found.false_alarms.high)
    # The k-th smallest of n lies below a share of all if k or more of the n do.
    assert stats.binom.sf(rank - 1, count, low) == pytest.approx(0.025, rel=1e-6)
    assert stats.binom.sf(rank - 1, count, high) == pytest.approx(0.975, rel=1e-6)


def test_other_false_alarms_may_be_allowed():
    assert audit_of(np.array([5000.0]), spread(49), false_alarms=0.02).threshold == 1
    assert audit_of(np.array([5000.0]), spread(399), false_alarms=0.05).threshold == 20


@pytest.mark.parametrize("beyond", [0, 1, 4, 30])
def test_chance_counts_the_orders_in_which_images_may_come(beyond):
    found = audit_of(np.concatenate([np.full(beyond, 0.5), np.full(60 - beyond, 900.0)]), spread(320))
    # All orders of 60 + 320 images are as likely; x generated ones come before the third held-out one in
    # C(x + 2, x) C(60 - x + 317, 60 - x) of C(380, 60).
    below = sum(comb(x + 2, x) * comb(377 - x, 60 - x) for x in range(beyond)) / comb(380, 60)
    assert found.chance == pytest.approx(1 - below, abs=1e-9)
    assert found.beyond.value == pytest.approx(beyond / 60)


@pytest.mark.parametrize(("share", "held_out", "generated"), [(0, 320, 400), (0.05, 320, 400), (0.02, 2000, 1000)])
def test_excess_and_its_interval_hold_in_repeated_audits(share, held_out, generated):
    rng = np.random.default_rng(1)
    excesses, inside, below, rare = [], [], [], []
    for _ in range(150):
        distances = rng.uniform(0.1, 1, generated)
        distances[: rng.binomial(generated, share)] = 0.01
        found = audit_of(distances, rng.uniform(0.1, 1, held_out))
        true = share * (1 - (found.threshold - 0.1) / 0.9)
        excesses.append(found.excess.value)
        inside.append(found.excess.low <= true <= found.excess.high)
        below.append(true <= found.excess.high)
        rare.append(found.chance < 0.05)
    assert np.mean(excesses) == pytest.approx(share, abs=0.0015)
    assert np.mean(inside) > 0.92
    assert np.mean(below) > 0.95
    assert np.mean(rare) < 0.08 if share == 0 else np.mean(rare) > 0.8


def test_shares_found_are_told_by_kind_and_of_all():
    planted = {"easy": np.full(40, 0.5), "hard": np.array([0.5] * 10 + [9.0] * 10)}
    found = audit(given, np.full(50, 30.0), spread(320), TRAINING, planted)
    assert [found.found["easy"].value, found.found["hard"].value] == [1.0, 0.5]
    assert found.found_of_all.value == pytest.approx(50 / 60)
    exact = stats.binomtest(10, 20).proportion_ci(method="exact")
    assert (found.found["hard"].low, found.found["hard"].high) == pytest.approx((exact.low, exact.high))
    assert found.beyond.value == 0
    assert found.excess.value == pytest.approx(-3 / 321)
    assert audit_of(np.full(50, 0.5), spread(320)).copies_at_most == 1.0
    useless = {"unseen": np.full(40, 300.0)}
    assert audit(given, np.full(50, 300.0), spread(320), TRAINING, useless).copies_at_most == 1.0


@pytest.mark.parametrize(("found", "share"), [(1.0, 0.05), (1.0, 0.8), (0.3, 0.3)])
def test_upper_bound_of_the_copies_counts_those_that_are_missed(found, share):
    rng = np.random.default_rng(2)
    held = 0

    def copies(count: int) -> np.ndarray:
        return np.where(rng.random(count) < found, 0.01, rng.uniform(0.1, 1, count))

    for _ in range(100):
        number = rng.binomial(4000, share)
        generated = np.concatenate([copies(number), rng.uniform(0.1, 1, 4000 - number)])
        planted = {"planted": copies(2000)}
        held += audit(given, generated, rng.uniform(0.1, 1, 2000), TRAINING, planted).copies_at_most >= share
    assert held >= 95


def test_cells_unlike_real_ones_hide_no_copies():
    # Not one is near by chance, where one in a hundred real ones is: the copies are fewer than false alarms would be.
    rng = np.random.default_rng(3)
    generated = np.concatenate([np.full(16, 0.01), rng.uniform(0.5, 1, 1984)])
    found = audit(given, generated, rng.uniform(0.1, 1, 320), TRAINING, {"planted": np.full(400, 0.01)})
    assert found.excess.value < 0
    assert found.copies_at_most >= 0.008


def test_the_closest_pairs_come_first_and_ties_in_order():
    distances = np.array([0.5, 0.2, 0.9, 0.2, 0.7])
    pairs = closest_pairs(Nearest(np.array([10, 11, 12, 13, 14]), distances), 4)
    assert [(p.generated, p.training, p.distance) for p in pairs] == [
        (1, 11, 0.2),
        (3, 13, 0.2),
        (0, 10, 0.5),
        (4, 14, 0.7),
    ]
    assert len(audit_of(spread(200), spread(320)).closest) == 10


def test_authenticity_is_that_of_its_definition():
    rng = np.random.default_rng(3)
    training, images = rng.normal(size=(60, 3)), rng.normal(size=(80, 3))
    images[:10] = training[:10] + 1e-3
    authentic = 0
    for image in images:
        apart = [np.linalg.norm(image - each) for each in training]
        nearest = int(np.argmin(apart))
        others = [np.linalg.norm(training[nearest] - each) for i, each in enumerate(training) if i != nearest]
        authentic += apart[nearest] > min(others)
    found = authenticity(images, training)
    assert found.value == authentic / 80
    assert authenticity(training[:20] + 1e-3, training).value < 0.1
    exact = stats.binomtest(authentic, 80).proportion_ci(method="exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))


@pytest.fixture(scope="module")
def real_cells(pbc_dir: Path) -> np.ndarray:
    """Neutrophils (500, 64, 64, 3) of PBC."""
    paths = sorted((pbc_dir / "neutrophil").glob("*.jpg"))[:500]
    cells = [
        Image.open(path).convert("RGB").resize((64, 64), Image.Resampling.LANCZOS, box=(84, 84, 276, 276))
        for path in paths
    ]
    return np.stack([np.asarray(cell) for cell in cells])


def thumbnails(images: np.ndarray) -> np.ndarray:
    return np.stack([thumbnail(each) for each in images])


def test_5_percent_copies_among_real_cells_are_an_excess_and_none_are_none(real_cells: np.ndarray):
    training, held_out, posing = real_cells[0::2], real_cells[1::4], real_cells[3::4].copy()
    planted = {kind: thumbnails(plant_copies(training[:10], kind, 0)) for kind in KINDS}
    known, others = thumbnails(training), thumbnails(held_out)
    clean = audit(nearest_by_pixels, thumbnails(posing), others, known, planted)
    assert clean.found_of_all.value > 0.95
    assert clean.excess.low < 0 < clean.excess.high
    assert clean.chance > 0.05

    copied = [20, 21, 50, 80, 81, 82]
    posing[copied] = plant_copies(training[100:106], "all", 1)
    found = audit(nearest_by_pixels, thumbnails(posing), others, known, {"all": planted["all"]})
    assert {pair.generated for pair in found.closest[:6]} == set(copied)
    assert {pair.training for pair in found.closest[:6]} == set(range(100, 106))
    assert found.excess.value > 0.03
    assert found.chance < 0.05


def test_held_out_training_images_stop_the_audit(real_cells: np.ndarray):
    training, held_out = thumbnails(real_cells[:20]), thumbnails(real_cells[100:200])
    held_out[7] = training[3, ::-1]
    with pytest.raises(ValueError, match="1 of 100 held-out images are training images, number 7 is number 3"):
        audit(nearest_by_pixels, training, held_out, training, {"same": training})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"held_out": spread(98)},
            r"98 held-out images are too few .* 1\.00% false alarms: give 99 or more, or allow 1\.02%",
        ),
        ({"held_out": spread(8), "false_alarms": 0.05}, r"give 19 or more, or allow 11\.12%"),
        ({"held_out": spread(0)}, "there are no images: held-out;"),
        ({"generated": np.empty(0)}, "there are no images: generated;"),
        ({"planted": {}}, "there are no images: planted;"),
        ({"planted": {"blur": np.empty(0)}}, r"no images: planted \(blur\);"),
        ({"false_alarms": 0.0}, "false_alarms is 0.0, but must lie between 0 and 1"),
    ],
)
def test_what_gives_no_audit_is_told(change, message):
    arguments = {"generated": spread(5), "held_out": spread(320), "training": TRAINING, "planted": COPIES}
    with pytest.raises(ValueError, match=message):
        audit(given, **(arguments | change))


def test_authenticity_needs_images():
    with pytest.raises(ValueError, match="no images whose authenticity"):
        authenticity(np.empty((0, 3)), np.zeros((5, 3)))
    with pytest.raises(ValueError, match="1 training images were given, but 2"):
        authenticity(np.zeros((2, 3)), np.zeros((1, 3)))


def test_features_find_copies_too():
    rng = np.random.default_rng(4)
    training, held_out, generated = (rng.normal(size=(count, 16)) for count in (300, 320, 100))
    generated[:8] = training[:8] + 0.01 * rng.normal(size=(8, 16))
    found = audit(nearest_by_features, generated, held_out, training, {"noise": training[20:60] + 0.01})
    assert found.found["noise"].value == 1.0
    assert [pair.training for pair in found.closest[:8]] == [pair.generated for pair in found.closest[:8]]
    assert found.excess.low > 0.01
