"""The shape of a phantom's nucleus: a chain of discs laid out in the cell, and signed distances to the lobes it makes.

Lengths are in field units: the image is 192 of them wide, whatever its pixels, and the origin is its centre.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

GAP = 2.4
"""Clear distance between the discs of two lobes, in field units."""

CLEFT = 1.2
"""Half the width of the cleft that is cut where two lobes would touch after their outline is roughened."""

BLEND = 1.6
"""How near a filament has to come to a lobe to widen into it, in field units."""

BRIDGES = 0.3
"""Share of the joints between lobes that are bridges, not threads."""

ELONGATION = {1: (2.6, 4.8), 2: (1.3, 2.4), 3: (1.15, 1.85), 4: (1.05, 1.55)}
"""Lobes of a nucleus -> range of a lobe's length over its width; with more lobes, `ELONGATION_MANY`."""

ELONGATION_MANY = (1.02, 1.3)


@dataclass(frozen=True)
class Chain:
    """Discs along the nucleus from its one end to the other: `points` (N, 2), `radii` (N,), `lobe` (N,) from 0."""

    points: NDArray[np.float64]
    radii: NDArray[np.float64]
    lobe: NDArray[np.int64]

    @property
    def lobes(self) -> int:
        """How many lobes the chain has."""
        return int(self.lobe[-1]) + 1

    def moved(self, distance: float, angle: float) -> "Chain":
        """Give the chain moved by `distance` towards `angle` (radians)."""
        return Chain(self.points + distance * np.array([np.cos(angle), np.sin(angle)]), self.radii, self.lobe)


def lay_out_nucleus(rng: np.random.Generator, lobes: int, area: float, room: float) -> Chain:
    """Lay the lobes of one nucleus out inside a circle round the origin.

    Args:
        rng: Source of every draw.
        lobes: Number of lobes, 1 or more; one lobe is a band or a kidney shape.
        area: Area of all lobes together, in square field units.
        room: Radius of the circle that the nucleus has to stay in.
    """
    radii, lobe, step = _discs(rng, lobes, area)
    points = _walk(rng, lobes, lobe, step, bend=float(np.sum(step)) / room)
    for _ in range(4):
        points = _relax(points, radii, lobe, step, room)
        if _overlap(points, radii, lobe) < GAP + 1.0:
            break
        radii, step = radii * 0.94, step * 0.94
    return Chain(points, radii, lobe)


def draw_filaments(rng: np.random.Generator, chain: Chain) -> NDArray[np.float64]:
    """Draw the half widths (lobes - 1,) of what joins the lobes: mostly threads, some bridges.

    A bridge is at most a third as wide as the narrower of its lobes: more would not be two lobes by the usual rule.
    """
    widest = np.array([chain.radii[chain.lobe == i].max() for i in range(chain.lobes)])
    bridges = rng.uniform(0.18, 0.33, chain.lobes - 1) * np.minimum(widest[1:], widest[:-1])
    threads = rng.uniform(0.9, 2.1, chain.lobes - 1)
    return np.where(rng.uniform(size=chain.lobes - 1) < BRIDGES, bridges, threads)


def _discs(
    rng: np.random.Generator, lobes: int, area: float
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Draw radii, lobe numbers, and the distance of each disc from the one before it (0 for the first)."""
    share = rng.uniform(0.65, 1.45, lobes)
    share *= area / share.sum()
    radii: list[float] = []
    lobe: list[int] = []
    step: list[float] = []
    for i in range(lobes):
        long = rng.uniform(*ELONGATION.get(lobes, ELONGATION_MANY))
        half_width = float(np.sqrt(share[i] / (np.pi + 4 * (long - 1))))
        axis = 2 * half_width * (long - 1)
        count = max(2, round(axis / (0.55 * half_width)) + 1)
        place = np.linspace(-1, 1, count)
        # Bands are thinner in the middle; the lobes of a segmented nucleus are rounded.
        profile = 1 + rng.uniform(-0.02, 0.1) * (2 * place**2 - 1) if lobes == 1 else 1 - 0.12 * place**2
        profile = profile * (1 + rng.uniform(-0.08, 0.08, count))
        widths = half_width * profile
        between = [GAP + rng.uniform(0.3, 5.0) + radii[-1] + widths[0]] if i else [0.0]
        step += between + [axis / (count - 1)] * (count - 1)
        radii += widths.tolist()
        lobe += [i] * count
    return np.array(radii), np.array(lobe), np.array(step)


def _walk(
    rng: np.random.Generator, lobes: int, lobe: NDArray[np.int64], step: NDArray[np.float64], bend: float
) -> NDArray[np.float64]:
    """Walk along a C, an S or a zigzag; `bend` (length over room) says how far a long nucleus has to curl."""
    kind = rng.choice(3, p=(0.7, 0.15, 0.15) if lobes > 1 else (0.88, 0.12, 0.0))
    total = rng.uniform(0.75, 1.2) * min(np.deg2rad(125) * bend, np.deg2rad(300))
    length = np.cumsum(step) / step.sum()
    turn = total * np.diff(length, prepend=0.0)
    if kind == 1:
        turn = np.where(length > rng.uniform(0.4, 0.6), -turn, turn)
    joints = np.flatnonzero(np.diff(lobe, prepend=0))
    if kind == 2:
        turn[joints] += rng.choice((-1, 1)) * np.resize((1, -1), len(joints)) * rng.uniform(0.5, 1.3, len(joints))
    turn[joints] += rng.normal(0, 0.25, len(joints))
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(turn)
    points = np.cumsum(step[:, None] * np.stack([np.cos(heading), np.sin(heading)], 1), axis=0)
    return points - points.mean(0)


def _least_distances(radii: NDArray[np.float64], lobe: NDArray[np.int64]) -> NDArray[np.float64]:
    """Give the distance (N, N) that two discs have to keep; discs near each other in one lobe may overlap."""
    apart = np.abs(np.arange(len(radii))[:, None] - np.arange(len(radii)))
    least = radii[:, None] + radii + GAP
    return np.where((lobe[:, None] != lobe) | (apart > 4), least, 0.0)


def _overlap(points: NDArray[np.float64], radii: NDArray[np.float64], lobe: NDArray[np.int64]) -> float:
    distance = np.linalg.norm(points[:, None] - points, axis=-1)
    return float(np.max(_least_distances(radii, lobe) - distance))


def _relax(
    points: NDArray[np.float64],
    radii: NDArray[np.float64],
    lobe: NDArray[np.int64],
    step: NDArray[np.float64],
    room: float,
    rounds: int = 60,
) -> NDArray[np.float64]:
    """Move the discs until neighbours keep their distance, lobes don't overlap, and all lie within `room`."""
    points = points.copy()
    least = _least_distances(radii, lobe)
    stiff = np.flatnonzero(lobe[2:] == lobe[:-2])
    rest = np.linalg.norm(points[stiff + 2] - points[stiff], axis=1)[:, None]
    for _ in range(rounds):
        offset = points[:, None] - points
        distance = np.sqrt((offset**2).sum(-1)) + 1e-9
        push = np.maximum(least - distance, 0.0) / distance
        points = points + 0.3 * (push[..., None] * offset).sum(1)
        far = np.linalg.norm(points, axis=1)
        points *= np.minimum(1.0, (room - radii) / np.maximum(far, 1e-9))[:, None]
        for first, second, want, share in (
            (np.arange(len(radii) - 1), np.arange(1, len(radii)), step[1:, None], 0.35),
            (stiff, stiff + 2, rest, 0.2),
        ):
            offset = points[second] - points[first]
            distance = np.sqrt((offset**2).sum(-1, keepdims=True)) + 1e-9
            move = share * (1 - want / distance) * offset
            np.add.at(points, first, move)
            np.add.at(points, second, -move)
    return points


def _tube(x: Array, y: Array, a: NDArray[np.float64], b: NDArray[np.float64], ra: float, rb: float) -> Array:
    """Signed distance to the segment from `a` to `b` thickened by radii that go from `ra` to `rb`."""
    bx, by = np.float32(b[0] - a[0]), np.float32(b[1] - a[1])
    px, py = x - np.float32(a[0]), y - np.float32(a[1])
    along = np.clip((px * bx + py * by) / max(float(bx * bx + by * by), 1e-6), 0, 1)
    distance = np.hypot(px - along * bx, py - along * by) - (np.float32(ra) + along * np.float32(rb - ra))
    return distance.astype(np.float32, copy=False)


def nucleus_distance(chain: Chain, filaments: NDArray[np.float64], x: Array, y: Array) -> Array:
    """Signed distance (negative inside) to the nucleus at points `x`, `y` of any one shape.

    Args:
        chain: The laid out lobes.
        filaments: Half widths (lobes - 1,) of the threads that join each lobe to the next.
        x: Field coordinates, to the right.
        y: Field coordinates, downwards.
    """
    nearest = np.full(x.shape, 1e3, np.float32)
    second = np.full(x.shape, 1e3, np.float32)
    threads = np.full(x.shape, 1e3, np.float32)
    for i in range(chain.lobes):
        discs = np.flatnonzero(chain.lobe == i)
        body = np.full(x.shape, 1e3, np.float32)
        for j, k in pairwise(discs):
            body = np.minimum(
                body, _tube(x, y, chain.points[j], chain.points[k], float(chain.radii[j]), float(chain.radii[k]))
            )
        second = np.minimum(second, np.maximum(nearest, body))
        nearest = np.minimum(nearest, body)
        if i:
            a, b, half = chain.points[discs[0] - 1], chain.points[discs[0]], float(filaments[i - 1])
            threads = np.minimum(threads, _tube(x, y, a, b, half, half))
    lobes = np.maximum(nearest, CLEFT - (second - nearest) / 2)
    # A smooth minimum widens a thread where it enters a lobe, as chromatin does.
    blend = np.maximum(1 - np.abs(lobes - threads) / np.float32(BLEND), 0)
    distance = np.minimum(lobes, threads) - blend * blend * np.float32(BLEND / 4)
    return distance.astype(np.float32, copy=False)
