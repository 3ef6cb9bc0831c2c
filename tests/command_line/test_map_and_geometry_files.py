"""Bonds and the difference map in the files of dials.hybrid_refine."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command_runs import FAST, INPUT

import iotbx.cif
import iotbx.mrcfile
import iotbx.mtz
from cctbx import uctbx
from libtbx.utils import Sorry

from dials_hybrid_refine.command_line import hybrid_refine
from dials_hybrid_refine.refinement.difference_map import potential_map


def test_bonds_in_cif_json_and_log(refined) -> None:
    summary = json.loads((refined / "dials.hybrid_refine.json").read_text())
    bonds, angles = (summary["geometry"][name] for name in ("bonds", "angles"))
    assert len(bonds) == 4 and len(angles) == 7 and not summary["geometry"]["torsions"]
    block = iotbx.cif.reader(file_path=str(refined / "hybrid_refined.cif")).model()
    loop = block["hybrid_refined"]
    for name, entries in (("_geom_bond_distance", bonds), ("_geom_angle", angles)):
        assert len(loop[name]) == len(entries)
        for text, entry in zip(loop[name], entries):
            number, _, su = text.rstrip(")").partition("(")
            unit = 10.0 ** -len(number.partition(".")[2])
            assert abs(float(number) - entry["value"]) <= 0.5001 * unit
            assert abs(int(su) * unit - entry["su"]) <= 0.5001 * unit
    assert list(loop["_geom_bond_site_symmetry_2"]) == [b["symmetry"][1] for b in bonds]
    log = (refined / "dials.hybrid_refine.log").read_text()
    assert f"{bonds[0]['atoms'][0]}-{bonds[0]['atoms'][1]} " in log
    # the same length from the coordinates of the file
    atoms = {a["label"]: a["site"] for a in summary["structure"]["atoms"]}
    cell = uctbx.unit_cell(summary["structure"]["unit_cell"])
    plain = [b for b in bonds if b["symmetry"] == [".", "."]]
    for bond in plain:
        one, other = (tuple(atoms[label]) for label in bond["atoms"])
        assert bond["value"] == pytest.approx(cell.distance(one, other), abs=1e-6)


def test_map_and_coefficients(files) -> None:
    """Both files hold the same map, and its extremes are those of the summary."""
    hybrid_refine.run([*INPUT, *FAST, "output.map=d.ccp4", "output.map_coefficients=d.mtz"])
    summary = json.loads((files / "dials.hybrid_refine.json").read_text())["difference_map"]
    content = iotbx.mtz.object("d.mtz")
    assert content.column_labels() == [
        *("H", "K", "L", "DELFWT", "PHDELWT", "FWT", "PHWT", "FC", "PHIC")
    ]
    arrays = {a.info().labels[0]: a for a in content.as_miller_arrays()}
    grid = np.array(iotbx.mrcfile.map_reader(file_name="d.ccp4").map_data().as_1d())
    again = np.array(potential_map(arrays["DELFWT"]).real_map_unpadded().as_1d())
    assert np.ptp(grid) > 0
    np.testing.assert_allclose(np.sort(again), np.sort(grid), atol=1e-3 * np.ptp(grid))
    assert grid.min() == pytest.approx(summary["min"], abs=1e-3 * np.ptp(grid))
    assert grid.std() == pytest.approx(summary["rms"], rel=1e-2)
    heights = [peak["height"] for peak in summary["peaks"]]
    assert heights == sorted(heights, reverse=True) and heights[0] <= summary["max"]
    parts = [np.array(arrays[name].data()) for name in ("FWT", "DELFWT", "FC")]
    np.testing.assert_allclose(parts[0], parts[1] + parts[2], atol=1e-3)
    assert "1 e/Angstrom = 14.40 V" in (files / "dials.hybrid_refine.log").read_text()


def test_a_map_that_is_not_calculated(files) -> None:
    with pytest.raises(Sorry, match="output.map needs the difference map"):
        hybrid_refine.run([*INPUT, *FAST, "difference_map=False", "output.map=d.ccp4"])
