"""What effects report, and its standard uncertainties by the delta method."""

from __future__ import annotations

import numpy as np
import torch

from dials_hybrid_refine.models.effects import Effect, NamedEffect
from dials_hybrid_refine.refinement.effect_values import effect_values
from dials_hybrid_refine.refinement.gauss_newton import GaussNewton

NORMAL = torch.tensor(
    [
        [4.0, 1.0, 0.5, 0.0],
        [1.0, 3.0, 0.2, 0.0],
        [0.5, 0.2, 2.0, 0.0],
        [0.0, 0.0, 0.0, 0.0],
    ],
    dtype=torch.float64,
)


class Two(Effect):
    """Parameters 2 and 3 of four, of which the last has no influence on the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = torch.nn.Parameter(torch.tensor([0.3, 2.0], dtype=torch.float64))
        self.idle = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def report(self) -> dict[str, torch.Tensor]:
        return {
            "growth": self.pair[0].exp(),
            "both": torch.stack([self.pair.prod(), self.pair[1] ** 2]),
            "idle": self.idle * self.pair[0],
            "given": torch.tensor(7.0),
        }


def test_standard_uncertainties() -> None:
    """sqrt(d^T C d chi^2 / (N - P)), C the inverse of the whole matrix: others are marginalised."""
    effect, other = Two(), torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    (found,) = effect_values(
        [NamedEffect(effect, "two", "package", "1")],
        [other, *effect.parameters()],
        GaussNewton(NORMAL, torch.zeros_like(NORMAL), 0.0),
        2.5,
    )
    assert (found.name, found.package, found.version) == ("two", "package", "1")
    c = 2.5 * np.linalg.inv(NORMAL[:3, :3].numpy())[1:, 1:]
    a, b = 0.3, 2.0
    np.testing.assert_allclose(found.values["growth"], np.exp(a))
    np.testing.assert_allclose(found.su["growth"], np.exp(a) * c[0, 0] ** 0.5)
    np.testing.assert_allclose(found.values["both"], [a * b, b**2])
    product = np.array([b, a])
    np.testing.assert_allclose(
        found.su["both"], [(product @ c @ product) ** 0.5, 2 * b * c[1, 1] ** 0.5]
    )
    assert np.isnan(found.su["idle"]) and np.isnan(found.su["given"])
    assert found.values["given"] == 7
