"""Standard uncertainties do not depend on how much of the crystal's symmetry the model states."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from examples import EXACT, crossing_reflections, make_scan, plan, quartz_structure

from cctbx import xray

from dials_hybrid_refine.diffraction.beams import BeamSelection
from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.models.orientation.smooth import SmoothOrientation
from dials_hybrid_refine.models.refined_flags import RefinedParameters
from dials_hybrid_refine.models.structure import StructureModel
from dials_hybrid_refine.models.thickness.constant import ConstantThickness
from dials_hybrid_refine.refinement.objective import Objective


def normal_matrix(structure: xray.structure) -> tuple[StructureModel, np.ndarray]:
    """The structure's part of the Gauss-Newton matrix, of data that it explains exactly."""
    scan = make_scan(structure, -4.0, 4.0)
    observations = crossing_reflections(scan, 0.9, 0.003)
    selection = BeamSelection(0.9, 0.006, 0.4, 2.0)
    simulator = plan(structure, scan, observations, selection).simulator(EXACT)
    model = HybridModel(
        StructureModel(structure, RefinedParameters()),
        ConstantThickness(300.0),
        SmoothOrientation([scan.phi_range]),
    )
    for other in (model.thickness, model.orientation):
        other.requires_grad_(False)
    intensity = np.zeros(len(observations))
    with torch.no_grad():
        parts = simulator(model.atoms(), model.physical_models())
    np.add.at(intensity, parts.observation.numpy(), 1e6 * parts.value.numpy())
    sigma = np.full(len(intensity), 0.01 * intensity.mean())
    measured = replace(observations, intensity=intensity, sigma=sigma)
    objective = Objective(model, simulator, measured, torch.from_numpy(sigma**-2), 1e-3)
    return model.structure, objective.gauss_newton_matrix().normal.numpy()


def crystallographic_parameters(structure: xray.structure) -> np.ndarray:
    """Coordinates and U* of all atoms, in the order of the parameter map."""
    return np.concatenate([[*s.site, *s.u_star] for s in structure.scatterers()])


def test_p1_and_the_space_group_agree() -> None:
    """Quartz, 14 parameters in P 32 2 1 and 81 in P 1: moving the nine atoms as symmetry has it, S in terms
    of the parameters of the one in those of the other, must give the same information, S^T N S.

    Derivatives are differences along parameters, good to some 0.3 %.
    """
    structure = quartz_structure()
    model, normal = normal_matrix(structure)
    in_p1, normal_in_p1 = normal_matrix(structure.expand_to_p1())
    n, n_in_p1 = model.n_parameters, in_p1.n_parameters
    assert (n, n_in_p1) == (14, 81)
    start = crystallographic_parameters(model.current_structure().expand_to_p1())
    columns = []
    for k in range(n):
        with torch.no_grad():
            model.shifts.zero_()
            model.shifts[k] = 1e-4
        moved = crystallographic_parameters(model.current_structure().expand_to_p1()) - start
        columns.append(np.linalg.lstsq(in_p1.jacobian().T, moved / 1e-4, rcond=None)[0])
    s = np.array(columns).T
    expected = s.T @ normal_in_p1[:n_in_p1, :n_in_p1] @ s
    su, su_expected = (np.sqrt(np.diag(np.linalg.inv(m))) for m in (normal[:n, :n], expected))
    np.testing.assert_allclose(su, su_expected, rtol=0.01)
