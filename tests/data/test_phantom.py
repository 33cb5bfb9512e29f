"""The phantom: the same cells from the same seeds, and a truth that is what was drawn."""

import csv
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from wbc_diffusers.data import phantom_paint
from wbc_diffusers.data.phantom import PHANTOM_VERSION, PhantomCell, render_cell, render_folder

KINDS = (
    ("none", 0),
    ("hypersegmentation", 1),
    ("hypersegmentation", 2),
    ("dohle_bodies", 1),
    ("dohle_bodies", 2),
    ("hypergranulation", 1),
    ("hypergranulation", 2),
)


@pytest.fixture(scope="module")
def cells() -> dict[tuple[str, int], list[PhantomCell]]:
    """Give 40 cells of every kind at 192 px, from every other slide."""
    return {kind: [render_cell(192, 80 * i + 3, *kind) for i in range(40)] for kind in KINDS}


def digest(pixels: NDArray[np.uint8]) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def cytoplasm_of(cell: PhantomCell) -> NDArray[np.bool_]:
    """Cytoplasm well inside the cell, clear of the nucleus and of bodies."""
    inside = ndimage.binary_erosion(cell.cell_mask, iterations=5)
    occupied = cell.nucleus_mask | (cell.body_labels > 0)
    return inside & ~ndimage.binary_dilation(occupied, iterations=4)


def most_pieces(mask: NDArray[np.bool_]) -> int:
    """The most pieces that a shape falls into while it is worn down, which cuts filaments before it ends lobes."""
    depth = ndimage.distance_transform_edt(mask)
    most = 0
    for worn in np.arange(0, 14, 0.5):
        pieces, _ = ndimage.label(depth > worn, np.ones((3, 3)))
        most = max(most, int((np.bincount(pieces.ravel())[1:] >= 6).sum()))
    return most


def test_same_arguments_give_the_same_pixels_in_another_process_and_order() -> None:
    code = (
        "import hashlib; from wbc_diffusers.data.phantom import render_cell\n"
        f"for kind in {KINDS[::-1]!r}:\n"
        "    for seed in (977, 5):\n"
        "        print(hashlib.sha256(render_cell(64, seed, *kind).pixels.tobytes()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    here = [digest(render_cell(64, seed, *kind).pixels) for kind in KINDS for seed in (5, 977)]
    assert there[::-1] == here
    assert len(set(here)) == len(here)


def test_a_cell_does_not_depend_on_the_number_rendered_with_it(tmp_path: Path) -> None:
    render_folder(tmp_path / "many", 4, 64, 37, "dohle_bodies", 2)
    render_folder(tmp_path / "one", 1, 64, 39, "dohle_bodies", 2)
    assert (tmp_path / "many" / "000039.png").read_bytes() == (tmp_path / "one" / "000039.png").read_bytes()
    assert rows_of(tmp_path / "many")[2] == rows_of(tmp_path / "one")[0]


# Mean colour of each quarter and standard deviation of each channel, of the cell at 64 px with seed 123.
VERSION_1: dict[tuple[str, int], tuple[tuple[float, ...], ...]] = {
    ("none", 0): (
        (214.22, 185.23, 191.12),
        (206.69, 175.86, 183.70),
        (208.25, 177.73, 185.13),
        (196.45, 163.99, 177.17),
        (44.02, 49.35, 23.41),
    ),
    ("hypersegmentation", 2): (
        (195.15, 163.99, 181.91),
        (211.64, 180.40, 188.51),
        (203.37, 170.40, 182.64),
        (199.40, 167.36, 182.25),
        (52.73, 58.02, 26.05),
    ),
    ("dohle_bodies", 2): (
        (199.67, 167.76, 182.58),
        (190.33, 156.64, 175.80),
        (205.06, 172.96, 186.22),
        (193.64, 162.94, 180.01),
        (52.55, 56.88, 25.56),
    ),
    ("hypergranulation", 2): (
        (182.19, 146.19, 171.38),
        (174.11, 139.55, 170.07),
        (178.29, 145.73, 174.19),
        (187.71, 152.70, 176.20),
        (61.79, 69.16, 29.50),
    ),
}


@pytest.mark.parametrize("kind", VERSION_1, ids=lambda kind: f"{kind[0]}-{kind[1]}")
def test_version_1_draws_what_it_has_always_drawn(kind: tuple[str, int]) -> None:
    # Means rather than hashes: processors round floats differently, which moves single pixels by a level.
    assert PHANTOM_VERSION == "1"
    pixels = render_cell(64, 123, *kind).pixels.astype(np.float64)
    quarters = pixels.reshape(2, 32, 2, 32, 3).mean(axis=(1, 3)).reshape(4, 3)
    np.testing.assert_allclose(np.vstack([quarters, pixels.std(axis=(0, 1))]), VERSION_1[kind], atol=0.05)


@pytest.mark.parametrize(
    ("kind", "lobes"),
    [(("none", 0), {1, 2, 3, 4}), (("hypersegmentation", 1), {5}), (("hypersegmentation", 2), {6, 7})],
    ids=["normal", "grade-1", "grade-2"],
)
def test_lobes_are_those_of_the_grade(
    cells: dict[tuple[str, int], list[PhantomCell]], kind: tuple[str, int], lobes: set[int]
) -> None:
    assert {cell.lobes for cell in cells[kind]} == lobes


def test_other_abnormalities_leave_the_lobes_normal(cells: dict[tuple[str, int], list[PhantomCell]]) -> None:
    for kind in KINDS[3:]:
        assert {cell.lobes for cell in cells[kind]} <= {1, 2, 3, 4}


def test_lobes_in_the_truth_are_pieces_of_the_drawn_nucleus(
    cells: dict[tuple[str, int], list[PhantomCell]],
) -> None:
    drawn = [cell for kind in KINDS[:3] for cell in cells[kind]]
    off = np.array([most_pieces(cell.nucleus_mask) - cell.lobes for cell in drawn])
    # Wearing down takes a bump of a band for a piece now and then, but can't make two lobes one.
    assert off.min() == 0
    assert (off == 0).mean() >= 0.93
    assert off.max() <= 2


def test_masks_lie_on_what_they_name(cells: dict[tuple[str, int], list[PhantomCell]]) -> None:
    for cell in (cell for kind in KINDS for cell in cells[kind]):
        assert not (cell.nucleus_mask & ~cell.cell_mask).any()
        red = cell.pixels[..., 0].astype(float)
        assert red[cytoplasm_of(cell)].mean() - red[cell.nucleus_mask].mean() > 60
        assert 0.1 < cell.nucleus_mask.sum() / cell.cell_mask.sum() < 0.5


@pytest.mark.parametrize(
    ("grade", "number", "diameter"), [(1, (1, 2), (9.0, 13.5)), (2, (3, 5), (12.5, 18.5))], ids=["grade-1", "grade-2"]
)
def test_dohle_bodies_are_as_many_and_as_large_as_the_grade_says(
    cells: dict[tuple[str, int], list[PhantomCell]], grade: int, number: tuple[int, int], diameter: tuple[float, float]
) -> None:
    drawn = cells["dohle_bodies", grade]
    assert {cell.bodies for cell in drawn} == set(range(number[0], number[1] + 1))
    for cell in drawn:
        _, separate = ndimage.label(cell.body_labels > 0)
        assert separate == cell.bodies == cell.body_labels.max()
        # At 192 px a pixel is a field unit; a body is an ellipse, whose area is that of the circle of its mean radius.
        areas = np.bincount(cell.body_labels.ravel())[1:]
        assert (2 * np.sqrt(areas / np.pi) >= diameter[0]).all()
        assert (2 * np.sqrt(areas / np.pi) <= diameter[1]).all()
        assert not ((cell.body_labels > 0) & (cell.nucleus_mask | ~cell.cell_mask)).any()


def test_every_dohle_body_is_bluer_than_the_cytoplasm(cells: dict[tuple[str, int], list[PhantomCell]]) -> None:
    for cell in cells["dohle_bodies", 1] + cells["dohle_bodies", 2]:
        blue = cell.pixels[..., 2].astype(float) - cell.pixels[..., 0]
        core = ndimage.binary_erosion(cell.body_labels > 0, iterations=2)
        around = blue[cytoplasm_of(cell)].mean()
        for body in range(1, cell.bodies + 1):
            assert blue[core & (cell.body_labels == body)].mean() - around > 20


def test_only_cells_with_dohle_bodies_have_them(cells: dict[tuple[str, int], list[PhantomCell]]) -> None:
    for kind in set(KINDS) - {("dohle_bodies", 1), ("dohle_bodies", 2)}:
        assert all(cell.bodies == 0 and not cell.body_labels.any() for cell in cells[kind])


@pytest.mark.parametrize(
    ("kind", "density", "darkness", "radius"),
    [
        (("none", 0), (1.2, 3.2), (0.28, 0.48), (0.9, 1.1)),
        (("hypersegmentation", 2), (1.2, 3.2), (0.28, 0.48), (0.9, 1.1)),
        (("hypergranulation", 1), (3.8, 5.0), (0.56, 0.68), (1.15, 1.3)),
        (("hypergranulation", 2), (5.6, 7.2), (0.76, 0.9), (1.4, 1.6)),
    ],
    ids=["normal", "other-abnormality", "grade-1", "grade-2"],
)
def test_granulation_is_as_dense_dark_and_coarse_as_the_grade_says(
    cells: dict[tuple[str, int], list[PhantomCell]],
    kind: tuple[str, int],
    density: tuple[float, float],
    darkness: tuple[float, float],
    radius: tuple[float, float],
) -> None:
    for name, (low, high) in (("density", density), ("darkness", darkness), ("radius", radius)):
        values = [getattr(cell, f"granule_{name}") for cell in cells[kind]]
        assert low <= min(values) < max(values) <= high
        assert max(values) - min(values) > 0.6 * (high - low)


def test_granules_scattered_have_the_density_asked_for() -> None:
    grid = phantom_paint.make_grid(192)
    disc = (np.hypot(grid.x, grid.y) < 70).astype(np.float32)
    for density in (1.5, 6.0):
        counts = [
            phantom_paint.granule_depth(np.random.default_rng(seed), grid, disc, density, 0.5, 1.2)[1]
            for seed in range(20)
        ]
        expected = 20 * density / 100 * np.pi * 70**2
        assert abs(sum(counts) - expected) < 4 * np.sqrt(expected)  # Poisson


def test_cytoplasm_is_coarser_the_stronger_its_granulation_is(
    cells: dict[tuple[str, int], list[PhantomCell]],
) -> None:
    texture, truth = [], []
    for kind in (("none", 0), ("hypergranulation", 1), ("hypergranulation", 2)):
        for cell in cells[kind]:
            green = cell.pixels[..., 1].astype(float)
            texture.append((green - ndimage.gaussian_filter(green, 6))[cytoplasm_of(cell)].std())
            # Deviation of a field of granules thrown at random.
            truth.append(cell.granule_darkness * np.sqrt(cell.granule_density) * cell.granule_radius)
    assert max(texture[:40]) < min(texture[40:80]) < max(texture[40:80]) < min(texture[80:])
    ranks = np.argsort(np.argsort([texture, truth], axis=1), axis=1)
    assert np.corrcoef(ranks)[0, 1] > 0.93


def test_cells_of_a_slide_share_its_light_and_slides_differ() -> None:
    light = []
    for slide in range(8):
        of_slide = []
        for seed in (40 * slide, 40 * slide + 17, 40 * slide + 39):
            cell = render_cell(64, seed)
            assert cell.slide == f"slide-{slide:04d}"
            outside = cell.pixels[~ndimage.binary_dilation(cell.cell_mask, iterations=3)].astype(float)
            of_slide.append(np.median(outside[outside.sum(1) >= np.percentile(outside.sum(1), 80)], axis=0))
        light.append(of_slide)
    assert np.std(light, axis=1).max() < 1.0
    assert np.std(np.mean(light, axis=1), axis=0).min() > 2.0


def test_the_field_is_the_same_at_every_size() -> None:
    small, plain, large = (render_cell(size, 11, "hypersegmentation", 1) for size in (32, 192, 384))
    for cell, size in ((small, 32), (plain, 192), (large, 384)):
        assert cell.pixels.shape == (size, size, 3)
        assert cell.nucleus_mask.shape == cell.cell_mask.shape == cell.body_labels.shape == (size, size)
    for cell, shrunk in ((small, 32), (large, 192)):
        box = ((shrunk, shrunk), Image.Resampling.BOX)
        view, like = (np.asarray(Image.fromarray(c.pixels).resize(*box), dtype=float) for c in (cell, plain))
        assert np.abs(view - like).mean() < 3
    halved = large.nucleus_mask[::2, ::2]
    assert (halved & plain.nucleus_mask).sum() / (halved | plain.nucleus_mask).sum() > 0.93


def test_a_folder_holds_its_cells_and_their_truth(tmp_path: Path) -> None:
    returned = render_folder(tmp_path / "new" / "cells", 3, 48, 39, "hypersegmentation", 2)
    rows = rows_of(tmp_path / "new" / "cells")
    assert rows == returned
    assert [row["file_name"] for row in rows] == ["000039.png", "000040.png", "000041.png"]
    assert [row["group"] for row in rows] == ["slide-0000", "slide-0001", "slide-0001"]
    for seed, row in zip((39, 40, 41), rows, strict=True):
        cell = render_cell(48, seed, "hypersegmentation", 2)
        with Image.open(tmp_path / "new" / "cells" / row["file_name"]) as image:
            assert np.array_equal(np.asarray(image), cell.pixels)
            text = image.info
        assert "digitalsourcetype/algorithmicMedia" in text["XML:com.adobe.xmp"]
        assert text["wbc:phantom"] == f"phantom_version=1 seed={seed} abnormality=hypersegmentation grade=2"
        assert row == {
            "file_name": f"{seed:06d}.png",
            "cell_type": "neutrophil",
            "abnormality": "hypersegmentation",
            "grade": "2",
            "group": cell.slide,
            "lobes": str(cell.lobes),
            "granule_density": f"{cell.granule_density:.3f}",
            "granule_darkness": f"{cell.granule_darkness:.3f}",
            "granule_radius": f"{cell.granule_radius:.3f}",
            "bodies": "0",
            "seed": str(seed),
            "size": "48",
            "phantom_version": "1",
        }
    assert sorted(path.name for path in (tmp_path / "new").rglob("*")) == [
        "000039.png", "000040.png", "000041.png", "cells", "metadata.csv",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((31, 0, "none", 0), "size is 31, but a phantom cell needs at least 32"),
        ((4097, 0, "none", 0), "size is 4097, but a phantom cell has at most 4096 pixels a side"),
        ((64, -1, "none", 0), "seed is -1, but seeds are 0 or more"),
        ((64, 0, "dohle", 1), "'dohle', but must be one of none, hypersegmentation, dohle_bodies, hypergranulation"),
        ((64, 0, "none", 1), "grade is 1, but abnormality 'none' has grade 0"),
        ((64, 0, "hypergranulation", 0), "grade is 0, but abnormality 'hypergranulation' has grade 1 or 2"),
        ((64, 0, "hypersegmentation", 3), "grade is 3, but abnormality 'hypersegmentation' has grade 1 or 2"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path: Path, arguments: tuple[int, int, str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render_cell(*arguments)
    size, seed, abnormality, grade = arguments
    with pytest.raises(ValueError, match=message):
        render_folder(tmp_path / "out", 1, size, seed, abnormality, grade)
    assert list(tmp_path.iterdir()) == []


def test_no_cells_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num is 0, but at least 1 cell"):
        render_folder(tmp_path / "out", 0, 64, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    for taken, message in ((tmp_path, "already holds something"), (tmp_path / "note.txt", "is a file")):
        with pytest.raises(FileExistsError, match=rf"{message}.* new or empty folder"):
            render_folder(taken, 1, 64, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
    assert (tmp_path / "note.txt").read_text() == "mine"


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    render_folder(tmp_path / "out", 1, 32, 0)
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_run_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_at_second(size: int, seed: int, abnormality: str, grade: int) -> PhantomCell:
        if seed == 1:
            raise OSError(28, "No space left on device")
        return render_cell(size, seed, abnormality, grade)

    monkeypatch.setattr("wbc_diffusers.data.phantom.render_cell", fail_at_second)
    with pytest.raises(OSError, match="No space left"):
        render_folder(tmp_path / "out", 3, 32, 0)
    assert list(tmp_path.iterdir()) == []
