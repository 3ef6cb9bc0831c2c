"""The state of a refinement as the content of a journal's entry, and back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import torch

from dials_hybrid_refine.models.hybrid import HybridModel
from dials_hybrid_refine.refinement.journal import Entry
from dials_hybrid_refine.refinement.refinement_state import RefinementState
from dials_hybrid_refine.refinement.result import Iteration


def parameters_of(model: HybridModel) -> dict[str, Any]:
    """Copies of all refined parameters, by name."""
    return {
        name: parameter.detach().numpy().copy()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def set_parameters(model: HybridModel, entry: Entry) -> None:
    """Give a model the parameters of ``parameters_of``.

    Raises:
        ValueError: if they are those of another model.
    """
    refined = {n: p for n, p in model.named_parameters() if p.requires_grad}
    values = {n: torch.from_numpy(entry.array(n, p.shape)) for n, p in refined.items()}
    with torch.no_grad():
        for name, parameter in refined.items():
            parameter.copy_(values[name])


def fit_of(state: RefinementState) -> dict[str, Any]:
    """What decides on a calculation: parameters, rejected reflections, spread."""
    return {
        "parameters": parameters_of(state.model),
        "rejected": state.rejected.copy(),
        "spread": state.spread,
    }


def set_fit(state: RefinementState, entry: Entry) -> None:
    """Put a fit of ``fit_of`` in place.

    Raises:
        ValueError: if it is of another model or of other reflections.
    """
    set_parameters(state.model, entry.part("parameters"))
    state.rejected = entry.array("rejected", state.rejected.shape, "b")
    state.spread = entry.number("spread")


def progress_of(state: RefinementState, n_before: int) -> dict[str, Any]:
    """Everything of a state that a stage changes.

    Args:
        n_before: iterations in the history before the stage.
    """
    return {
        "fit": fit_of(state),
        "n_effective": state.n_effective,
        "structure_su": state.structure_su.copy(),
        "loss_start": state.loss_start,
        "history": [asdict(iteration) for iteration in state.history[n_before:]],
        "seconds": time.monotonic() - state.started,
    }


def set_progress(state: RefinementState, entry: Entry) -> list[Iteration]:
    """Put the progress of ``progress_of`` in place; returns the iterations it brings.

    Raises:
        ValueError: if it is of another refinement.
    """
    set_fit(state, entry.part("fit"))
    state.n_effective = entry.number("n_effective")
    state.structure_su = entry.array("structure_su", (None,))
    state.loss_start = entry.number("loss_start")
    state.started = time.monotonic() - entry.number("seconds")
    iterations = [_iteration(row.content) for row in entry.parts("history")]
    state.history += iterations
    return iterations


def _iteration(content: Mapping[str, Any]) -> Iteration:
    kinds: dict[str, tuple[type, ...]] = {
        "stage": (str,),
        "number": (int,),
        "r_obs": (float, type(None)),
        "r_obs_held_out": (float, type(None)),
    }
    names = [field.name for field in fields(Iteration)]
    if set(content) != set(names) or not all(
        isinstance(content[name], kinds.get(name, (float,))) for name in names
    ):
        raise ValueError(
            "the history in the checkpoint is not understood: start without checkpoint.resume"
        )
    return Iteration(**content)
