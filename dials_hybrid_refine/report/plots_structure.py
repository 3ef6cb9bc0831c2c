"""A three-dimensional view of the structure before and after refinement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cctbx import adptbx, xray
from cctbx.eltbx import covalent_radii

from dials_hybrid_refine.refinement.result import Result
from dials_hybrid_refine.report.figure import GREY, LEGEND, SERIES, Figure, numbers

PANEL = "Structure"
#: half axes of the ellipsoid that holds an atom with probability 1/2, in standard deviations:
#: the median of the chi distribution with three degrees of freedom
_HALF = 1.5382
#: atoms of the whole cell are drawn where they are not more; else those of the asymmetric unit
_MOST_ATOMS = 150
#: bonds are drawn to 1.2 times the sum of covalent radii
_BOND = 1.2
#: closer atoms (Angstrom) share a disordered site
_CLOSEST = 0.6
#: size of the structure's diagonal in plotly's units, in which the view is about 2 high
_FILL = 2.2

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Atoms:
    """Labels and elements; centres (n, 3) and square roots of U (n, 3, 3), Cartesian, Angstrom."""

    labels: list[str]
    elements: list[str]
    centre: _Array
    root: _Array


def structure_figures(result: Result) -> Iterator[Figure]:
    """Displacement ellipsoids of the refined structure, and the starting one."""
    after = _drawn(result.structure)
    images = _images(after)
    atoms = _atoms(after, images)
    traces: list[dict[str, Any]] = [_cell(result.structure), _bonds(atoms)]
    for k, element in enumerate(sorted(set(atoms.elements))):
        traces.append(_ellipsoids(atoms, element, SERIES[k % len(SERIES)], element, 1.0))
    if result.start is not None:
        before = _atoms(_drawn(result.start), images)
        traces.append(_ellipsoids(before, None, GREY, "before refinement", 0.35))
    plain: dict[str, Any] = {"visible": False}
    yield Figure(
        "structure_view",
        PANEL,
        "Structure",
        "Displacement ellipsoids (probability 50 %) after refinement in colour, before it in grey. "
        "Drag to turn; a click on the legend hides a kind.",
        traces,
        {
            "scene": {
                "aspectmode": "manual",
                "aspectratio": _aspect(traces),
                "xaxis": plain,
                "yaxis": plain,
                "zaxis": plain,
                "camera": {
                    "eye": {"x": 0.4, "y": -1.6, "z": 0.5},
                    "projection": {"type": "orthographic"},
                },
            },
            "legend": LEGEND,
            "margin": {"l": 0, "r": 0, "t": 30, "b": 30},
        },
    )


def _aspect(traces: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Equal lengths on all axes, in a size that fills the view."""
    extent = {
        axis: float(np.ptp([v for trace in traces for v in trace[axis] if v is not None]))
        for axis in "xyz"
    }
    longest = float(np.linalg.norm(list(extent.values())))
    return {axis: _FILL * max(length / longest, 0.01) for axis, length in extent.items()}


def _drawn(structure: xray.structure) -> xray.structure:
    """All atoms of a cell, or of the asymmetric unit where they would be too many."""
    whole = structure.expand_to_p1()
    return whole if whole.scatterers().size() <= _MOST_ATOMS else structure


def _sites(structure: xray.structure) -> _Array:
    return np.array([s.site for s in structure.scatterers()], dtype=float).reshape(-1, 3)


def _images(structure: xray.structure) -> list[tuple[int, _Array]]:
    """Atom and lattice translation (3,) of all that is drawn: the cell and what is bonded to it."""
    sites = _sites(structure)
    elements = [s.element_symbol() for s in structure.scatterers()]
    to_cartesian = np.array(structure.unit_cell().orthogonalization_matrix()).reshape(3, 3)
    if len(sites) == 0 or structure.space_group().order_z() > 1:
        return [(i, np.zeros(3)) for i in range(len(sites))]
    home = -np.floor(sites + 1e-3)
    images = [
        (i, home[i] + shift)
        for shift in (np.array(s, dtype=float) for s in product((0, 1, -1), repeat=3))
        for i in range(len(sites))
    ]
    place = np.array([sites[i] + shift for i, shift in images])
    inside = ((place > -0.01) & (place < 1.01)).all(axis=1)
    members = np.array([i for i, _ in images])
    bonded = _bonded(
        place[inside] @ to_cartesian.T,
        place @ to_cartesian.T,
        [elements[i] for i in members[inside]],
        [elements[i] for i in members],
    ).any(axis=0)
    return [image for image, chosen in zip(images, inside | bonded) if chosen]


def _bonded(
    centre: _Array, other: _Array, elements: Sequence[str], others: Sequence[str]
) -> NDArray[np.bool_]:
    """Which of atoms (m, 3) and others (n, 3) are bonded, shape (m, n); Cartesian, Angstrom."""
    radius, other_radius = (
        np.array([covalent_radii.table(e).radius() for e in names]) for names in (elements, others)
    )
    distance = np.linalg.norm(centre[:, None] - other[None], axis=-1)
    near: NDArray[np.bool_] = distance < _BOND * (radius[:, None] + other_radius[None])
    return near & (distance > _CLOSEST)


def _atoms(structure: xray.structure, images: Sequence[tuple[int, _Array]]) -> _Atoms:
    cell, scatterers = structure.unit_cell(), structure.scatterers()
    roots = [_root(cell, scatterer) for scatterer in scatterers]
    members = [i for i, _ in images]
    return _Atoms(
        [scatterers[i].label for i in members],
        [scatterers[i].element_symbol() for i in members],
        np.array(
            [cell.orthogonalize(tuple(np.array(scatterers[i].site) + s)) for i, s in images]
        ).reshape(-1, 3),
        np.array([roots[i] for i in members]).reshape(-1, 3, 3),
    )


def _root(cell: Any, scatterer: Any) -> _Array:
    """A matrix (3, 3) that takes the unit sphere to the ellipsoid of one standard deviation."""
    if scatterer.flags.use_u_aniso():
        a, b, c, ab, ac, bc = adptbx.u_star_as_u_cart(cell, scatterer.u_star)
        values, axes = np.linalg.eigh([[a, ab, ac], [ab, b, bc], [ac, bc, c]])
        return np.asarray(axes * np.sqrt(np.clip(values, 0, None)))
    return np.eye(3) * np.sqrt(max(0.0, scatterer.u_iso))


def _sphere(n_rings: int = 8, n_meridians: int = 14) -> tuple[_Array, NDArray[np.int64]]:
    """Points (p, 3) of a unit sphere and triangles (t, 3) between them."""
    rings = np.pi * np.arange(1, n_rings) / n_rings
    turns = 2 * np.pi * np.arange(n_meridians) / n_meridians
    theta, phi = (grid.ravel() for grid in np.meshgrid(rings, turns, indexing="ij"))
    body = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], -1)
    vertices = np.concatenate([body, [[0, 0, 1], [0, 0, -1]]])
    top, bottom = len(body), len(body) + 1
    triangles = []
    for k in range(n_meridians):
        following = (k + 1) % n_meridians
        triangles.append((top, k, following))
        last = (n_rings - 2) * n_meridians
        triangles.append((bottom, last + following, last + k))
        for ring in range(n_rings - 2):
            a, b = ring * n_meridians + k, ring * n_meridians + following
            triangles += [(a, a + n_meridians, b), (b, a + n_meridians, b + n_meridians)]
    return vertices, np.array(triangles)


def _ellipsoids(
    atoms: _Atoms, element: str | None, colour: str, name: str, opacity: float
) -> dict[str, Any]:
    """One mesh of all ellipsoids of an element (None: of all)."""
    sphere, triangles = _sphere()
    members = [i for i, e in enumerate(atoms.elements) if element in (None, e)]
    vertices = np.concatenate([atoms.centre[i] + _HALF * sphere @ atoms.root[i].T for i in members])
    faces = np.concatenate([triangles + k * len(sphere) for k in range(len(members))])
    x, y, z = numbers(vertices.T)
    i, j, k = faces.T.tolist()
    return {
        "type": "mesh3d",
        "x": x, "y": y, "z": z, "i": i, "j": j, "k": k,
        "color": colour,
        "opacity": opacity,
        "name": name,
        "showlegend": True,
        "text": [atoms.labels[m] for m in members for _ in sphere],
        "hovertemplate": "%{text}<extra></extra>",
        "lighting": {"ambient": 0.7, "diffuse": 0.6, "specular": 0.2},
    }  # fmt: skip


def _segments(pairs: list[tuple[_Array, _Array]]) -> dict[str, Any]:
    """Unconnected lines between points (3,)."""
    gap = np.full(3, np.nan)
    path = np.array([p for pair in pairs for p in (*pair, gap)]).reshape(-1, 3)
    x, y, z = numbers(path.T)
    return {
        "type": "scatter3d", "mode": "lines", "x": x, "y": y, "z": z,
        "connectgaps": False, "hoverinfo": "skip",
    }  # fmt: skip


def _cell(structure: xray.structure) -> dict[str, Any]:
    corners = [np.array(c) for c in product((0, 1), repeat=3)]
    to_cartesian = np.array(structure.unit_cell().orthogonalization_matrix()).reshape(3, 3)
    edges = [
        (to_cartesian @ a, to_cartesian @ b)
        for a in corners
        for b in corners
        if (b - a).min() >= 0 and (b - a).sum() == 1
    ]
    return {**_segments(edges), "name": "unit cell", "line": {"color": "#AAAAAA", "width": 2}}


def _bonds(atoms: _Atoms) -> dict[str, Any]:
    bonded = _bonded(atoms.centre, atoms.centre, atoms.elements, atoms.elements)
    pairs = [(atoms.centre[i], atoms.centre[j]) for i, j in np.argwhere(np.triu(bonded))]
    return {**_segments(pairs), "name": "bonds", "line": {"color": "#555555", "width": 5}}
