"""What a phantom is painted with: the stain of a slide, textures, red cells, granules, Döhle bodies.

Colours are transmittances relative to the background, so that a slide's light and stain change them all together.
The reference colours were read off May-Grünwald-Giemsa smears; lengths are in field units (192 across the image).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FIELD = 192.0
"""Width of the image in field units: the 192 px centre crop of a CellaVision DM96 photograph, about 0.1 um each."""

Array = NDArray[np.float32]

_REFERENCE_LIGHT = np.array([254, 229, 204], np.float32)


def _transmittance(red: int, green: int, blue: int) -> Array:
    return np.array([red, green, blue], np.float32) / _REFERENCE_LIGHT


CHROMATIN_DARK = _transmittance(57, 20, 120)
CHROMATIN_MID = _transmittance(94, 48, 138)
CHROMATIN_LIGHT = _transmittance(156, 108, 162)
CYTOPLASM_PINK = _transmittance(230, 188, 188)
CYTOPLASM_LILAC = _transmittance(206, 170, 190)
DOHLE_BLUE = _transmittance(150, 153, 184)
RED_CELL = _transmittance(194, 153, 165)
RED_CELL_PALLOR = _transmittance(240, 212, 195)
PLATELET = _transmittance(112, 74, 152)
GRANULE_DENSITY = np.array([0.58, 1.05, 0.32], np.float32)
"""Optical density (natural logarithm) of a granule of darkness 1, per channel."""


@dataclass(frozen=True)
class SlideStyle:
    """Light and stain of one slide; gains are exponents of the transmittance, per channel."""

    light: Array
    nucleus_gain: Array
    cytoplasm_gain: Array
    red_cell_gain: Array
    pinkness: float
    pallor: float
    crowding: int


def slide_style(rng: np.random.Generator) -> SlideStyle:
    """Draw the style of one slide: its light, how strong and how pink its stain is, how many red cells it has."""
    neutral = np.array([249, 243, 240], np.float32)
    light = _REFERENCE_LIGHT + np.float32(rng.uniform(0, 0.75)) * (neutral - _REFERENCE_LIGHT)
    light = light * np.float32(rng.uniform(0.94, 1.0)) + rng.normal(0, 1.5, 3).astype(np.float32)

    def gain(low: float, high: float, spread: float) -> Array:
        return (rng.uniform(low, high) * (1 + rng.normal(0, spread, 3))).astype(np.float32)

    return SlideStyle(
        light=np.minimum(light, 255),
        nucleus_gain=gain(0.9, 1.12, 0.03),
        cytoplasm_gain=gain(0.8, 1.3, 0.06),
        red_cell_gain=gain(0.68, 1.12, 0.05),
        pinkness=float(rng.uniform(0.2, 0.85)),
        pallor=float(rng.uniform(0.35, 1.1)),
        crowding=int(rng.integers(4, 10)),
    )


@dataclass(frozen=True)
class Grid:
    """The points that are painted: `pixels` a side, at field coordinates `x` and `y` (both pixels x pixels)."""

    pixels: int
    x: Array
    y: Array

    @property
    def scale(self) -> float:
        """Pixels per field unit."""
        return self.pixels / FIELD


def make_grid(pixels: int) -> Grid:
    """Make the grid of pixel centres, the origin in the middle of the image."""
    axis = ((np.arange(pixels, dtype=np.float32) + 0.5) / pixels - 0.5) * np.float32(FIELD)
    x, y = np.meshgrid(axis, axis)
    return Grid(pixels, x.astype(np.float32, copy=False), y.astype(np.float32, copy=False))


def smooth_noise(rng: np.random.Generator, pixels: int, scale: float) -> Array:
    """Smooth random field (pixels, pixels), mean 0, deviation about 1, of features `scale` field units wide.

    The draws don't depend on `pixels`: the same field is seen at every resolution.
    """
    knots = int(np.ceil(FIELD / scale)) + 4
    # Interpolation averages knots, which takes a fifth of their deviation away (measured: 0.19 to 0.21).
    lattice = rng.standard_normal((knots, knots)).astype(np.float32) / np.float32(0.8)
    start = rng.uniform(1, 2, 2)
    span = FIELD / scale
    box = (start[0], start[1], start[0] + span, start[1] + span)
    image = Image.fromarray(lattice).resize((pixels, pixels), Image.Resampling.BICUBIC, box=box)
    return np.asarray(image, dtype=np.float32)


def smoothstep(low: float, high: float, values: Array) -> Array:
    """0 below `low`, 1 above `high`, a smooth S between."""
    t = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    return t * t * (3 - 2 * t)


def coverage(distance: Array, softness: float) -> Array:
    """Share of a pixel that lies inside a shape, from its signed distance; `softness` is the width of the edge."""
    return np.clip(np.float32(0.5) - distance / np.float32(softness), 0, 1)


def mix(a: Array, b: Array, share: Array) -> Array:
    """Blend colours `a` and `b`, each (3,) or (H, W, 3), by `share` (H, W) of `b`."""
    return a + share[..., None] * (b - a)


def outline(rng: np.random.Generator, grid: Grid, centre: tuple[float, float], radius: float, rough: float) -> Array:
    """Signed distance to a rounded shape whose radius varies by harmonics of relative size `rough`."""
    dx, dy = grid.x - np.float32(centre[0]), grid.y - np.float32(centre[1])
    rho, angle = np.hypot(dx, dy), np.arctan2(dy, dx)
    varied = np.full(rho.shape, radius, np.float32)
    for k in range(2, 7):
        amplitude, phase = radius * rough * rng.normal() / (k - 1), rng.uniform(0, 2 * np.pi)
        varied += np.float32(amplitude) * np.cos(k * angle + np.float32(phase))
    return rho - varied


def paint_red_cells(rng: np.random.Generator, grid: Grid, style: SlideStyle, canvas: Array, cell_radius: float) -> None:
    """Multiply red cells into `canvas` (H, W, 3): round the white cell, touching, overlapping, cut by the edge."""
    placed: list[tuple[float, float, float]] = []
    count = max(2, style.crowding + int(rng.integers(-2, 3)))
    for _ in range(count * 8):
        if len(placed) == count:
            break
        radius = float(np.clip(rng.normal(30, 2.5), 22, 37))
        angle = rng.uniform(0, 2 * np.pi)
        distance = cell_radius + radius * rng.uniform(0.75, 1.0) + abs(rng.normal(0, 12))
        px, py = distance * np.cos(angle), distance * np.sin(angle)
        if max(abs(px), abs(py)) > FIELD / 2 + 0.75 * radius:
            continue
        clear = all(np.hypot(px - qx, py - qy) > rng.uniform(0.72, 1.05) * (radius + r) for qx, qy, r in placed)
        if clear:
            placed.append((px, py, radius))
            _paint_red_cell(rng, grid, style, canvas, (px, py, radius))


def window(grid: Grid, x: float, y: float, reach: float) -> tuple[slice, slice]:
    """Rows and columns of the grid within `reach` of a point."""

    def span(middle: float) -> slice:
        low = (middle - reach) / FIELD + 0.5
        high = (middle + reach) / FIELD + 0.5
        return slice(max(0, int(low * grid.pixels)), max(0, min(grid.pixels, int(high * grid.pixels) + 1)))

    return span(y), span(x)


def _paint_red_cell(
    rng: np.random.Generator, grid: Grid, style: SlideStyle, canvas: Array, place: tuple[float, float, float]
) -> None:
    x, y, radius = place
    rows, columns = window(grid, x, y, radius * 1.5)
    local = Grid(grid.pixels, grid.x[rows, columns], grid.y[rows, columns])
    edge = outline(rng, local, (x, y), radius, rough=rng.choice((0.025, 0.06), p=(0.7, 0.3)))
    depth = -edge / np.float32(radius)
    shift = rng.normal(0, 0.05 * radius, 2)
    inner = np.hypot(local.x - np.float32(x + shift[0]), local.y - np.float32(y + shift[1])) / np.float32(radius)
    width = rng.uniform(0.3, 0.6)
    pale = np.float32(min(1.0, style.pallor * rng.uniform(0.5, 1.1))) * (
        1 - smoothstep(width * 0.35, width * 1.5, inner)
    )
    colour = mix(RED_CELL, RED_CELL_PALLOR, pale)
    colour = (
        colour * (1 - np.float32(0.05) * smoothstep(0.0, 0.12, depth) * (1 - smoothstep(0.12, 0.4, depth)))[..., None]
    )
    covered = coverage(edge, softness=rng.uniform(3.5, 7.0))
    layer = mix(np.ones(3, np.float32), colour**style.red_cell_gain, covered)
    # Where two red cells overlap the photograph is darker, but by less than two full layers.
    below = canvas[rows, columns]
    canvas[rows, columns] = np.minimum(below, layer) * np.maximum(below, layer) ** np.float32(0.45)


def paint_platelets(rng: np.random.Generator, grid: Grid, style: SlideStyle, canvas: Array, cell_radius: float) -> None:
    """Put no, one or two platelets (small ragged purple bodies) into the free background of `canvas`."""
    for _ in range(int(rng.choice(3, p=(0.72, 0.22, 0.06)))):
        angle, distance = rng.uniform(0, 2 * np.pi), cell_radius + rng.uniform(8, 34)
        x, y, radius = distance * np.cos(angle), distance * np.sin(angle), rng.uniform(3.5, 7.5)
        rows, columns = window(grid, x, y, radius * 2)
        if not canvas[rows, columns].size:
            continue
        local = Grid(grid.pixels, grid.x[rows, columns], grid.y[rows, columns])
        edge = outline(rng, local, (x, y), radius, rough=0.12)
        grain = smooth_noise(rng, grid.pixels, 2.5)[rows, columns]
        share = coverage(edge, 2.5) * np.clip(np.float32(0.75) + np.float32(0.25) * grain, 0.3, 1)
        canvas[rows, columns] = mix(canvas[rows, columns], PLATELET**style.cytoplasm_gain, share)


def granule_depth(
    rng: np.random.Generator, grid: Grid, cytoplasm: Array, density: float, darkness: float, radius: float
) -> tuple[Array, int]:
    """Scatter granules over the cytoplasm.

    Args:
        rng: Source of every draw.
        grid: The grid that is painted.
        cytoplasm: Coverage (H, W) of the cytoplasm; granules have their centres where it exceeds a half.
        density: Granules per 100 square field units.
        darkness: Strength of a mean granule, 0 to 1.
        radius: Mean radius, in field units.

    Returns:
        Darkness (H, W) that the granules add up to, and how many there are.
    """
    drawn = rng.poisson(density / 100 * FIELD * FIELD)
    spots = rng.uniform(-FIELD / 2, FIELD / 2, (drawn, 2))
    sizes = np.clip(rng.normal(radius, 0.2 * radius, drawn), 0.55 * radius, 1.6 * radius)
    strength = np.clip(rng.normal(darkness, 0.18 * darkness, drawn), 0.4 * darkness, 1.5 * darkness)
    place = (spots / FIELD + 0.5) * grid.pixels - 0.5
    column, row = np.rint(place).astype(np.int64).T
    inside = cytoplasm[np.clip(row, 0, grid.pixels - 1), np.clip(column, 0, grid.pixels - 1)] > 0.5
    place, column, row, sizes, strength = place[inside], column[inside], row[inside], sizes[inside], strength[inside]
    patches = smooth_noise(rng, grid.pixels, 24)
    reach = int(np.ceil((1.6 * radius + 1.0) * grid.scale))
    offset = np.arange(-reach, reach + 1)
    dy, dx = (d.ravel() for d in np.meshgrid(offset, offset, indexing="ij"))
    rows, columns = row[:, None] + dy, column[:, None] + dx
    distance = np.hypot(rows - place[:, 1:], columns - place[:, :1]) / grid.scale - sizes[:, None]
    added = strength[:, None] * np.clip(0.5 - distance / 1.3, 0, 1)
    valid = (rows >= 0) & (rows < grid.pixels) & (columns >= 0) & (columns < grid.pixels) & (added > 0)
    added = added * np.clip(1 + 0.25 * patches[row, column], 0.5, 1.5)[:, None]
    total = np.bincount(
        (rows * grid.pixels + columns)[valid], weights=added[valid], minlength=grid.pixels * grid.pixels
    ).reshape(grid.pixels, grid.pixels)
    return np.minimum(total, 1.35 * darkness).astype(np.float32), int(inside.sum())


def place_bodies(
    rng: np.random.Generator, grid: Grid, cell: Array, nucleus: Array, radii: NDArray[np.float64]
) -> tuple[Array, Array]:
    """Place Döhle bodies near the cell's edge, clear of the nucleus and of each other.

    Args:
        rng: Source of every draw.
        grid: The grid that is painted.
        cell: Signed distance (H, W) to the cell's outline.
        nucleus: Signed distance (H, W) to the nucleus.
        radii: Mean radius of each body, in field units.

    Returns:
        Signed distance (H, W) to the nearest body (1000 if there is none), and the bodies' numbers (H, W), 0 outside.
    """
    nearest = np.full(cell.shape, 1e3, np.float32)
    labels = np.zeros(cell.shape, np.float32)
    for i, radius in enumerate(radii):
        room = np.minimum(np.minimum(-cell - np.float32(1.5), nucleus - 2), nearest - 3)
        near_edge = -cell < np.float32(2.2 * radius + 4)
        free = np.flatnonzero(near_edge & (room > radius))
        if len(free):
            # Taking a fraction of the list, not an index, keeps the place nearly the same at every resolution.
            spot = int(free[int(rng.uniform() * len(free))])
        else:
            rng.uniform()
            spot = int(np.argmax(np.where(near_edge, room, -1e3)))
            radius = max(2.5, min(radius, float(room.flat[spot])))
        x, y = grid.x.flat[spot], grid.y.flat[spot]
        across = np.arctan2(y, x)
        stretch = rng.uniform(1.0, 1.35)
        along_edge = -(grid.x - x) * np.sin(across) + (grid.y - y) * np.cos(across)
        outward = (grid.x - x) * np.cos(across) + (grid.y - y) * np.sin(across)
        body = np.hypot(along_edge / np.float32(stretch), outward * np.float32(stretch)) - np.float32(radius)
        labels = np.where(body < np.minimum(nearest, 0), np.float32(i + 1), labels)
        nearest = np.minimum(nearest, body)
    # The ends of a long body may slip under the nucleus or out of the cell, where nothing of it is painted.
    return nearest, np.where((cell < 0) & (nucleus > 0), labels, np.float32(0))
