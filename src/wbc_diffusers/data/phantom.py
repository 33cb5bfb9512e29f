"""Phantom cells: rendered blood smear images of one neutrophil each, whose truth is known.

An image is a function of its size, seed, abnormality and grade alone. `docs/phantom.md` says what is drawn.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wbc_diffusers.data import phantom_paint as paint
from wbc_diffusers.data.images import write_png
from wbc_diffusers.data.origin import DRAWN
from wbc_diffusers.data.output import check_output, whole_folder
from wbc_diffusers.data.phantom_nucleus import draw_filaments, lay_out_nucleus, nucleus_distance

PHANTOM_VERSION = "1"
"""Changes whenever any rendered pixel does; experiments name it."""

CELLS_PER_SLIDE = 40
"""Seeds 0 to 39 are slide 0, and so on: one light, one stain, one crowd of red cells."""

MAX_SIZE = 4096
"""Most pixels a side; the memory that a cell takes grows with their square."""

ABNORMALITIES = ("none", "hypersegmentation", "dohle_bodies", "hypergranulation")
"""Those of `labels`, written down again: their order seeds the draws, so it belongs to the version."""

LOBES_NORMAL = {1: 0.25, 2: 0.25, 3: 0.33, 4: 0.17}
"""Lobes -> share of the cells that are not hypersegmented; one lobe is a band."""

LOBES_HYPERSEGMENTED: dict[int, dict[int, float]] = {1: {5: 1.0}, 2: {6: 0.65, 7: 0.35}}
"""Grade of hypersegmentation -> lobes -> share of its cells."""


@dataclass(frozen=True)
class Granulation:
    """Ranges that a cell's granulation is drawn from, evenly.

    `density` is granules per 100 square field units, `darkness` 0 to 1, `radius` in field units (192 across the image).
    """

    density: tuple[float, float]
    darkness: tuple[float, float]
    radius: tuple[float, float]


GRANULATION = {
    0: Granulation(density=(1.2, 3.2), darkness=(0.28, 0.48), radius=(0.9, 1.1)),
    1: Granulation(density=(3.8, 5.0), darkness=(0.56, 0.68), radius=(1.15, 1.3)),
    2: Granulation(density=(5.6, 7.2), darkness=(0.76, 0.9), radius=(1.4, 1.6)),
}
"""Grade of hypergranulation (toxic granulation) -> its granules; grade 0 is every cell without it."""


@dataclass(frozen=True)
class Bodies:
    """Ranges that a cell's Döhle bodies are drawn from: `number` inclusive, mean `radius` in field units."""

    number: tuple[int, int]
    radius: tuple[float, float]


BODIES = {1: Bodies(number=(1, 2), radius=(5.0, 6.5)), 2: Bodies(number=(3, 5), radius=(7.0, 9.0))}
"""Grade of Döhle bodies -> how many and how large; other cells have none."""

COLUMNS = (
    "file_name",
    "cell_type",
    "abnormality",
    "grade",
    "group",
    "lobes",
    "granule_density",
    "granule_darkness",
    "granule_radius",
    "bodies",
    "seed",
    "size",
    "phantom_version",
)
"""Columns of a rendered folder's metadata.csv, in their order."""


@dataclass(frozen=True)
class PhantomCell:
    """One rendered cell and its truth.

    Attributes:
        pixels: uint8 (size, size, 3).
        nucleus_mask: bool (size, size); lobes and the filaments between them.
        cell_mask: bool (size, size); the whole neutrophil.
        body_labels: uint8 (size, size); 0 outside Döhle bodies, 1 to `bodies` inside each.
        lobes: Lobes of the nucleus; 1 is a band.
        granule_density: Granules per 100 square field units of cytoplasm (the field is 192 units wide).
        granule_darkness: Mean darkness of a granule, 0 to 1.
        granule_radius: Mean radius of a granule, in field units.
        bodies: Number of Döhle bodies.
        slide: The slide, whose light and stain the cell shares with its neighbours in seed.
        abnormality: One of `ABNORMALITIES`.
        grade: 0 none, 1 slight, 2 severe.
        seed: The seed that the cell was drawn from.
    """

    pixels: NDArray[np.uint8]
    nucleus_mask: NDArray[np.bool_]
    cell_mask: NDArray[np.bool_]
    body_labels: NDArray[np.uint8]
    lobes: int
    granule_density: float
    granule_darkness: float
    granule_radius: float
    bodies: int
    slide: str
    abnormality: str
    grade: int
    seed: int


@dataclass(frozen=True)
class _Plan:
    """What will be drawn: the truth of a cell before it has pixels."""

    lobes: int
    density: float
    darkness: float
    radius: float
    body_radii: NDArray[np.float64]


def _check(size: int, seed: int, abnormality: str, grade: int) -> None:
    if size < 32:
        raise ValueError(f"size is {size}, but a phantom cell needs at least 32 pixels a side")
    if size > MAX_SIZE:
        raise ValueError(f"size is {size}, but a phantom cell has at most {MAX_SIZE} pixels a side")
    if seed < 0:
        raise ValueError(f"seed is {seed}, but seeds are 0 or more")
    if abnormality not in ABNORMALITIES:
        raise ValueError(f"abnormality is {abnormality!r}, but must be one of {', '.join(ABNORMALITIES)}")
    allowed = (0,) if abnormality == "none" else (1, 2)
    if grade not in allowed:
        choice = " or ".join(map(str, allowed))
        raise ValueError(
            f"grade is {grade}, but abnormality {abnormality!r} has grade {choice} (0 none, 1 slight, 2 severe)"
        )


def slide_of(seed: int) -> str:
    """Name the slide that a seed's cell lies on."""
    return f"slide-{seed // CELLS_PER_SLIDE:04d}"


def _stream(seed: int, abnormality: str, grade: int, part: int) -> np.random.Generator:
    """Give each part of a cell its own stream of draws, so that one part's draws don't shift another's."""
    return np.random.default_rng([int(PHANTOM_VERSION), part, seed, ABNORMALITIES.index(abnormality), grade])


def _plan(seed: int, abnormality: str, grade: int) -> _Plan:
    rng = _stream(seed, abnormality, grade, 0)
    shares = LOBES_HYPERSEGMENTED[grade] if abnormality == "hypersegmentation" else LOBES_NORMAL
    lobes = int(rng.choice(list(shares), p=list(shares.values())))
    granules = GRANULATION[grade if abnormality == "hypergranulation" else 0]
    density, darkness, radius = (rng.uniform(*span) for span in (granules.density, granules.darkness, granules.radius))
    body_radii = np.zeros(0)
    if abnormality == "dohle_bodies":
        bodies = BODIES[grade]
        body_radii = rng.uniform(*bodies.radius, int(rng.integers(bodies.number[0], bodies.number[1] + 1)))
    return _Plan(lobes, float(density), float(darkness), float(radius), np.sort(body_radii)[::-1])


def _nucleus(rng: np.random.Generator, grid: paint.Grid, lobes: int, cell_radius: float) -> paint.Array:
    """Signed distance to a nucleus inside a cell of the given radius, its outline roughened by a warp."""
    share = rng.uniform(0.31, 0.4) if lobes < 5 else rng.uniform(0.3, 0.36)
    # What room the lobes don't take lets the nucleus lie off the cell's centre.
    room = (cell_radius - 4.0) * rng.uniform(0.8 if lobes < 5 else 0.95, 1.0)
    chain = lay_out_nucleus(rng, lobes, share * np.pi * cell_radius**2, room)
    aside = (cell_radius - 4.0 - room) * rng.uniform(0.3, 1.0)
    chain = chain.moved(aside, rng.uniform(0, 2 * np.pi))
    filaments = draw_filaments(rng, chain)
    warp = [
        np.float32(2.1) * paint.smooth_noise(rng, grid.pixels, 26)
        + np.float32(0.85) * paint.smooth_noise(rng, grid.pixels, 10)
        for _ in range(2)
    ]
    reach = np.abs(chain.points).max() + chain.radii.max() + 12
    rows, columns = paint.window(grid, 0, 0, float(reach))
    distance = np.full(grid.x.shape, 1e3, np.float32)
    distance[rows, columns] = nucleus_distance(
        chain, filaments, (grid.x + warp[0])[rows, columns], (grid.y + warp[1])[rows, columns]
    )
    return distance


def _cytoplasm_colour(rng: np.random.Generator, grid: paint.Grid, style: paint.SlideStyle) -> paint.Array:
    """Transmittance (H, W, 3): pink to lilac patches and a fine grain."""
    patches = paint.smooth_noise(rng, grid.pixels, 26) * np.float32(0.25) + np.float32(1 - style.pinkness)
    colour = paint.mix(paint.CYTOPLASM_PINK, paint.CYTOPLASM_LILAC, np.clip(patches, 0, 1))
    grain = np.float32(0.035) * paint.smooth_noise(rng, grid.pixels, 2.2) + np.float32(0.035) * paint.smooth_noise(
        rng, grid.pixels, 6
    )
    return np.clip(colour * (1 + grain)[..., None], 0.02, 1) ** style.cytoplasm_gain


def _chromatin_colour(
    rng: np.random.Generator, grid: paint.Grid, style: paint.SlideStyle, distance: paint.Array
) -> paint.Array:
    """Transmittance (H, W, 3): dark clumps, a dark rim, and pale spots between the clumps."""
    depth = -distance
    clumps = np.float32(0.7) * paint.smooth_noise(rng, grid.pixels, 7) + np.float32(0.7) * paint.smooth_noise(
        rng, grid.pixels, 3.2
    )
    # The membrane with its chromatin shows as a dark rim.
    colour = paint.mix(
        paint.CHROMATIN_DARK,
        paint.CHROMATIN_MID,
        paint.smoothstep(-1.2, 1.2, clumps) * paint.smoothstep(0.5, 4.0, depth),
    )
    openness = rng.uniform(0.75, 1.2)
    spots = paint.smoothstep(0.5 / openness, 2.4 / openness, paint.smooth_noise(rng, grid.pixels, 3.2))
    spots = spots * paint.smoothstep(1.5, 4.0, depth)
    return paint.mix(colour, paint.CHROMATIN_LIGHT, spots) ** style.nucleus_gain


def _shrink(values: paint.Array, size: int) -> paint.Array:
    if values.shape[0] == size:
        return values
    return np.asarray(Image.fromarray(values).resize((size, size), Image.Resampling.BOX))


def render_cell(size: int, seed: int, abnormality: str = "none", grade: int = 0) -> PhantomCell:
    """Render one neutrophil among red cells, with its truth.

    Args:
        size: Pixels a side, 32 to `MAX_SIZE`. The field shown is the same at every size.
        seed: 0 or more; the same four arguments give the same pixels. Its slide is `seed // CELLS_PER_SLIDE`.
        abnormality: One of `ABNORMALITIES`.
        grade: 0 with "none"; 1 (slight) or 2 (severe) with the others.

    Raises:
        ValueError: If an argument is none of these; the text names what is allowed.
    """
    _check(size, seed, abnormality, grade)
    plan = _plan(seed, abnormality, grade)
    style = paint.slide_style(np.random.default_rng([int(PHANTOM_VERSION), 99, seed // CELLS_PER_SLIDE]))
    # Small images are drawn at 192 px and shrunk, as a photograph would be.
    grid = paint.make_grid(max(size, int(paint.FIELD)))
    streams = [_stream(seed, abnormality, grade, part) for part in range(1, 7)]

    cell_radius = float(np.clip(streams[0].normal(66, 5.5), 55, 80))
    cell = paint.outline(
        streams[0], grid, (0.0, 0.0), cell_radius, rough=streams[0].choice((0.034, 0.065), p=(0.75, 0.25))
    )
    nucleus = _nucleus(streams[1], grid, plan.lobes, cell_radius)
    # The chain is kept inside a circle, the outline is not one: what of the nucleus would stick out is cut off.
    nucleus = np.maximum(nucleus, cell + np.float32(2.5))
    bodies, labels = paint.place_bodies(streams[2], grid, cell, nucleus, plan.body_radii)

    canvas = np.ones((*grid.x.shape, 3), np.float32)
    paint.paint_red_cells(streams[3], grid, style, canvas, cell_radius)
    paint.paint_platelets(streams[3], grid, style, canvas, cell_radius)
    cytoplasm = _cytoplasm_colour(streams[4], grid, style)
    cytoplasm = _paint_contents(streams[4], grid, style, plan, cytoplasm, (cell, nucleus, bodies))
    canvas = paint.mix(canvas, cytoplasm, paint.coverage(cell, 3.0))
    chromatin = _chromatin_colour(streams[5], grid, style, nucleus)
    canvas = paint.mix(canvas, chromatin, paint.coverage(nucleus, 1.8))
    image = canvas * style.light + np.float32(1.2) * paint.smooth_noise(streams[0], grid.pixels, 1.5)[..., None]

    pixels = Image.fromarray(np.rint(np.clip(image, 0, 255)).astype(np.uint8))
    if grid.pixels != size:
        pixels = pixels.resize((size, size), Image.Resampling.LANCZOS)
    return PhantomCell(
        pixels=np.array(pixels),
        nucleus_mask=_shrink(paint.coverage(nucleus, 1.0), size) > 0.5,
        cell_mask=_shrink(paint.coverage(cell, 1.0), size) > 0.5,
        body_labels=np.array(Image.fromarray(labels.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)),
        lobes=plan.lobes,
        granule_density=plan.density,
        granule_darkness=plan.darkness,
        granule_radius=plan.radius,
        bodies=len(plan.body_radii),
        slide=slide_of(seed),
        abnormality=abnormality,
        grade=grade,
        seed=seed,
    )


def _paint_contents(
    rng: np.random.Generator,
    grid: paint.Grid,
    style: paint.SlideStyle,
    plan: _Plan,
    cytoplasm: paint.Array,
    distances: tuple[paint.Array, paint.Array, paint.Array],
) -> paint.Array:
    """Put halo, Döhle bodies and granules into the cytoplasm; `distances` are to cell, nucleus and bodies."""
    cell, nucleus, bodies = distances
    # The light reflected round the dense nucleus lifts the cytoplasm beside it, the thin rim is a little denser.
    lift = 1 + np.float32(0.06) * (1 - paint.smoothstep(0.5, 6.0, nucleus))
    lift = lift - np.float32(0.05) * (1 - paint.smoothstep(0.0, 4.0, -cell))
    cytoplasm = np.minimum(cytoplasm * lift[..., None], 1)
    if len(plan.body_radii):
        blurred = bodies + np.float32(0.7) * paint.smooth_noise(rng, grid.pixels, 7)
        cytoplasm = paint.mix(
            cytoplasm, paint.DOHLE_BLUE**style.cytoplasm_gain, np.float32(0.85) * paint.coverage(blurred, 5.5)
        )
    free = paint.coverage(np.maximum(cell + 1, -bodies), 1.0)
    darkness, _ = paint.granule_depth(rng, grid, free, plan.density, plan.darkness, plan.radius)
    return cytoplasm * np.exp(-darkness[..., None] * paint.GRANULE_DENSITY * style.cytoplasm_gain)


def render_folder(
    out: Path, num: int, size: int, seed: int, abnormality: str = "none", grade: int = 0
) -> list[dict[str, str]]:
    """Render `num` cells of the seeds from `seed` on into a new folder of PNGs with a metadata.csv.

    The folder appears whole or not at all.

    Args:
        out: The folder to make; it may exist if it is empty.
        num: Number of cells, 1 or more.
        size: Pixels a side, 32 to `MAX_SIZE`.
        seed: First seed.
        abnormality: One of `ABNORMALITIES`.
        grade: 0 with "none"; 1 or 2 with the others.

    Returns:
        The rows of metadata.csv, by the names of `COLUMNS`.

    Raises:
        FileExistsError: If `out` is a file or holds anything; nothing in it is changed.
        ValueError: If another argument is out of its range.
    """
    _check(size, seed, abnormality, grade)
    if num < 1:
        raise ValueError(f"num is {num}, but at least 1 cell has to be rendered")
    with whole_folder(check_output(Path(out))) as folder:
        rows = [_write_cell(folder, render_cell(size, seed + i, abnormality, grade), size) for i in range(num)]
        with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    return rows


def _write_cell(folder: Path, cell: PhantomCell, size: int) -> dict[str, str]:
    row = {
        "file_name": f"{cell.seed:06d}.png",
        "cell_type": "neutrophil",
        "abnormality": cell.abnormality,
        "grade": str(cell.grade),
        "group": cell.slide,
        "lobes": str(cell.lobes),
        "granule_density": f"{cell.granule_density:.3f}",
        "granule_darkness": f"{cell.granule_darkness:.3f}",
        "granule_radius": f"{cell.granule_radius:.3f}",
        "bodies": str(cell.bodies),
        "seed": str(cell.seed),
        "size": str(size),
        "phantom_version": PHANTOM_VERSION,
    }
    text = {"wbc:phantom": " ".join(f"{key}={row[key]}" for key in ("phantom_version", "seed", "abnormality", "grade"))}
    write_png(folder / row["file_name"], cell.pixels, DRAWN, text=text)
    return row
