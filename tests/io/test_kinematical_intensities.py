"""Merged intensities freed of dynamical effects, and the MTZ file that holds them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from examples import WAVELENGTH
from numpy.testing import assert_allclose, assert_array_equal

import iotbx.mtz
from cctbx import miller
from cctbx.array_family import flex

from dials_hybrid_refine.io.kinematical_intensities import (
    kinematical_intensities,
    structure_factors,
)
from dials_hybrid_refine.io.refined_mtz import write_mtz


def test_structure_factors_are_those_of_cctbx(result):
    """ITC's electron scattering factors differ from Lobato's by some per cent, phases do not."""
    hkl = result.observations.hkl
    own = structure_factors(result.structure, hkl, WAVELENGTH)
    structure = result.structure.deep_copy_scatterers()
    structure.scattering_type_registry(table="electron")
    indices = flex.miller_index([tuple(map(int, h)) for h in hkl])
    in_order = miller.set(structure, indices, anomalous_flag=True)
    other = in_order.structure_factors_from_scatterers(structure, algorithm="direct").f_calc()
    other = np.array(other.data().as_numpy_array())
    assert np.abs(own - other).sum() < 0.03 * np.abs(other).sum()
    strong = np.abs(other) > np.median(np.abs(other))
    assert np.abs(np.angle(own / other))[strong].max() < 0.1


def test_the_factor_of_each_measurement_is_taken_out(result):
    """I_o / I_c is 0.9 or 1.1 (see ``finished``) whatever the dynamical factor."""
    data = kinematical_intensities(result, WAVELENGTH)
    ratio = data.intensity / np.abs(data.f_calc) ** 2
    assert set(ratio.round(9)) == {0.9, 1.1}
    assert data.n_measured.sum() == len(result.observations) - 1  # one is rejected
    assert len(data.hkl) == len(np.unique(result.observations.unique_index[1:]))


def test_uncertainty_is_that_of_the_weights(results):
    """Var(r) = 1 / sum w I_c^2, recomputed for one reflection."""
    result = results["quartz"]
    data = kinematical_intensities(result, WAVELENGTH)
    largest = int(np.argmax(data.n_measured))
    (unique,) = set(
        result.observations.unique_index[
            (result.observations.hkl == data.hkl[largest]).all(1)
            | (result.observations.hkl == -data.hkl[largest]).all(1)
        ]
    )
    rows = (result.observations.unique_index == unique) & ~result.rejected
    assert rows.sum() == data.n_measured[largest] > 2
    size = (result.weight * result.calculated**2)[rows].sum()
    assert data.sigma[largest] == pytest.approx(np.abs(data.f_calc[largest]) ** 2 / size**0.5)


def test_mtz(result, tmp_path):
    data = kinematical_intensities(result, WAVELENGTH)
    path = str(tmp_path / "merged.mtz")
    write_mtz(data, WAVELENGTH, path)
    written = iotbx.mtz.object(path)
    assert written.column_labels() == (
        ["H", "K", "L", "IOBS", "SIGIOBS", "FOBS", "SIGFOBS", "FC", "PHIC", "FreeR_flag"]
    )
    assert written.space_group() == result.structure.space_group()
    # five decimals are the format's
    wavelength = written.crystals()[1].datasets()[0].wavelength()
    assert wavelength == pytest.approx(WAVELENGTH, abs=5.1e-6)
    arrays = {a.info().labels[0]: a for a in written.as_miller_arrays()}
    expected = data.intensities()
    for label, array in (
        ("IOBS", expected),
        ("FC", data.structure_factors()),
        ("FOBS", expected.f_sq_as_f()),
    ):
        ours, read = array.common_sets(arrays[label])
        assert len(read.data()) == len(data.hkl)
        assert flex.max(flex.abs(ours.data() - read.data())) < 1e-5 * flex.max(
            flex.abs(ours.data())
        )
    flags = arrays["FreeR_flag"].common_set(expected).data()
    assert_array_equal(np.array(flags), data.held_out.astype(int))
    assert 0 < data.held_out.mean() < 0.3


def test_mtz_in_gemmi(results, tmp_path):
    gemmi = pytest.importorskip("gemmi")
    data = kinematical_intensities(results["CsPbBr3"], WAVELENGTH)
    path = str(tmp_path / "merged.mtz")
    write_mtz(data, WAVELENGTH, path)
    mtz = gemmi.read_mtz_file(path)
    assert mtz.spacegroup.hm == "P b n m" and mtz.nreflections == len(data.hkl)
    rows = {tuple(map(int, row[:3])): row for row in np.array(mtz, copy=False)}
    columns = mtz.column_labels()
    for h, f in zip(data.hkl, data.f_calc):
        row = rows[tuple(h)]
        f_c, phi = (row[columns.index(name)] for name in ("FC", "PHIC"))
        assert_allclose(f_c * np.exp(1j * np.radians(phi)), f, atol=1e-4)


def test_no_free_flags_where_stretches_were_held_out(results, tmp_path):
    result = results["quartz"]
    result = replace(result, statistics=replace(result.statistics, held_out_by="frames"))
    data = kinematical_intensities(result, WAVELENGTH)
    path = str(tmp_path / "merged.mtz")
    write_mtz(data, WAVELENGTH, path)
    assert "FreeR_flag" not in iotbx.mtz.object(path).column_labels()


def test_negative_intensities(results, tmp_path):
    """Kept in IOBS; FOBS is 0."""
    result = results["polar"]
    observations = result.observations
    weak = observations.unique_index == observations.unique_index[-1]
    intensity = np.where(weak, -0.2 * observations.intensity, observations.intensity)
    result = replace(result, observations=replace(observations, intensity=intensity))
    data = kinematical_intensities(result, WAVELENGTH)
    assert (data.intensity < 0).sum() == 1
    path = str(tmp_path / "merged.mtz")
    write_mtz(data, WAVELENGTH, path)
    arrays = {a.info().labels[0]: a.data() for a in iotbx.mtz.object(path).as_miller_arrays()}
    assert flex.min(arrays["IOBS"]) < 0 and flex.min(arrays["FOBS"]) == 0
    assert len(arrays["FOBS"]) == len(arrays["IOBS"])
