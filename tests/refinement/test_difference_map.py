"""The difference map: what was left out is found, nothing is found where nothing is missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from examples import (
    EXACT,
    atoms_of,
    constant_rotation,
    fixed_thickness,
    perovskite_structure,
    quartz_structure,
    small_example,
    triclinic_structure,
)

from cctbx import xray

from benchmarks.left_out import LeftOut, crystals, distance_to, refine_without
from dials_hybrid_refine.diffraction.electron import relativistic_factor
from dials_hybrid_refine.diffraction.simulator import PhysicalModels
from dials_hybrid_refine.refinement import difference_map as module
from dials_hybrid_refine.refinement.result import Result


@pytest.fixture(scope="module", params=["urea H4", "PbTiO3 O4"])
def found(request: pytest.FixtureRequest) -> tuple[LeftOut, Result]:
    """A hydrogen of a molecule, and an oxygen beside lead, left out; the rest is refined."""
    example = replace(crystals()[request.param], width=36.0)
    return example, refine_without(example)


def test_the_atom_left_out_is_the_highest_peak(found: tuple[LeftOut, Result]) -> None:
    """Within 0.1 Angstrom, and clearly above the second, which is an error of the map."""
    example, result = found
    difference = result.difference_map
    assert difference is not None
    first, second = difference.peaks[:2]
    assert distance_to(example.structure, example.label, first.site) < 0.1
    assert first.height > 1.5 * second.height > 0
    assert first.height > 4 * difference.rms
    assert difference.maximum >= first.height > -difference.minimum


def test_neighbour_and_height(found: tuple[LeftOut, Result]) -> None:
    """N-H 1.0 or Ti-O 1.8 Angstrom; the height is some 20 to 110 % of that of the atom itself.

    The prior lowers it, and neighbours whose U has grown are part of the misfit.
    """
    example, result = found
    difference = result.difference_map
    assert difference is not None
    label, distance = {"H4": ("N3", 1.0), "O4": ("Ti2", 1.8)}[example.label]
    peak = difference.peaks[0]
    if example.label == "H4":
        assert peak.nearest == label
    assert distance_to(example.structure, label, peak.site) == pytest.approx(distance, abs=0.2)
    alone = example.structure.select(
        example.structure.scatterers().extract_labels() == example.label
    )
    alone.scattering_type_registry(table="electron")
    atom = difference.coefficients.structure_factors_from_scatterers(
        xray_structure=alone, algorithm="direct"
    ).f_calc()
    expected = module.map_peaks(module.potential_map(atom), alone)[0]
    assert 0.2 * expected.height < peak.height < 1.1 * expected.height


def test_the_model_is_left_as_it_was(found: tuple[LeftOut, Result]) -> None:
    """F_c of the map, from the potential of the simulation, is that of the refined structure.

    2 %: Lobato's scattering factors against those of cctbx.
    """
    difference = found[1].difference_map
    assert difference is not None
    structure = found[1].structure.deep_copy_scatterers()
    structure.scattering_type_registry(table="electron")
    expected = difference.model.structure_factors_from_scatterers(
        xray_structure=structure, algorithm="direct"
    ).f_calc()
    one, other = (np.array(list(a.data())) for a in (difference.model, expected))
    assert np.abs(one - other).sum() < 0.02 * np.abs(other).sum()


@pytest.mark.parametrize(
    "make", [quartz_structure, perovskite_structure, triclinic_structure], ids=lambda m: m.__name__
)
def test_changes_have_the_symmetry_of_the_crystal(make) -> None:
    """The potential of the crystal itself is made of the free numbers, absences and all."""
    structure: xray.structure = make()
    simulator = small_example(structure).simulator(EXACT)
    crystal, group = simulator.crystal, structure.space_group()
    atoms = atoms_of(structure)
    amplitudes = crystal.wilson_amplitudes(atoms).numpy()
    index, direction = module._free_coefficients(crystal, group, 9.9, amplitudes)
    target = crystal.of_unique(atoms)[index]
    numbers = (target * direction.conj()).real / direction.abs().square()
    rebuilt = torch.zeros(len(crystal.unique_hkl), dtype=torch.complex128)
    rebuilt.index_add_(0, index, numbers * direction)
    expected = crystal(atoms)
    zero = (torch.from_numpy(crystal.hkl) == 0).all(1)
    torch.testing.assert_close(crystal.expand(rebuilt)[~zero], expected[~zero], rtol=0, atol=1e-12)
    # their mean square is that of Wilson's statistics, within what so few coefficients allow
    assert 0.5 < float(numbers.square().mean()) < 2


def test_a_change_of_the_potential_is_that_of_the_atoms() -> None:
    """Intensities of a crystal whose oxygen is in the change equal those of the whole one."""
    whole = quartz_structure()
    example = small_example(whole)
    simulator = example.simulator()
    atoms = atoms_of(whole)
    empty = replace(atoms, occupancies=atoms.occupancies * torch.tensor([1.0, 0.0]))
    change = simulator.crystal.of_unique(atoms) - simulator.crystal.of_unique(empty)
    rotation = constant_rotation(torch.zeros(3, dtype=torch.float64))
    models = PhysicalModels(fixed_thickness(300.0), rotation)
    with torch.no_grad():
        expected = simulator(atoms, models).value
        found = simulator(empty, replace(models, potential_change=change)).value
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_height_of_the_map_in_physical_units() -> None:
    """The map of an atom integrates to 2 pi a_0 f(0), its f being the Fourier transform."""
    structure = quartz_structure()
    simulator = small_example(structure).simulator(EXACT)
    crystal = simulator.crystal
    zero = torch.from_numpy((crystal.unique_hkl == 0).all(1))
    f_000 = float(
        crystal.of_unique(atoms_of(structure))[zero].real
        * np.pi * structure.unit_cell().volume() / relativistic_factor(crystal.wavelength)
    )  # fmt: skip
    # mean inner potential of quartz by independent atoms: 47.878 V A^2 F_000 / Omega
    volts = module._POTENTIAL * module.VOLT_PER_CHARGE * f_000 / structure.unit_cell().volume()
    assert volts == pytest.approx(47.878 * f_000 / structure.unit_cell().volume(), rel=1e-4)
    assert 9 < volts < 14
