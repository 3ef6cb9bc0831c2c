"""Threads and memory: they change nothing but time."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from evaluation import assert_identical, evaluate
from examples import (
    Example,
    atoms_of,
    fixed_thickness,
    no_rotation,
    perovskite_structure,
    quartz_structure,
    small_example,
    triclinic_structure,
)

from dials_hybrid_refine.diffraction.propagation_settings import PropagationSettings
from dials_hybrid_refine.diffraction.simulator import PhysicalModels
from dials_hybrid_refine.diffraction.workers import (
    MemoryBudget,
    in_threads,
    keep_bytes,
    one_torch_thread,
)

HEAVY = "centrosymmetric"
DTYPES = [torch.complex64, torch.complex128]
STRUCTURES = {
    "quartz": quartz_structure(),
    "triclinic": triclinic_structure(),
    HEAVY: perovskite_structure(),
}


@pytest.fixture(scope="module", params=STRUCTURES)
def example(request: pytest.FixtureRequest) -> Example:
    """With beams that are off at some tilts, and several batches."""
    return small_example(STRUCTURES[request.param])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("keep_bytes", [0, 10**9])
@pytest.mark.parametrize("absorption", [None, 0.06])
def test_threads_do_not_change_a_bit(
    example: Example, dtype: torch.dtype, keep_bytes: int, absorption: float | None
) -> None:
    assert len(example.simulator().batches) > 1
    results = [
        evaluate(
            example.simulator(PropagationSettings(dtype, n_threads, keep_bytes=keep_bytes)),
            example.structure,
            absorption,
        )
        for n_threads in (1, 2, 3)
    ]
    assert_identical(results[1], results[0])
    assert_identical(results[2], results[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("absorption", [None, 0.06])
def test_vectors_that_are_not_kept_are_made_again(
    example: Example, dtype: torch.dtype, absorption: float | None
) -> None:
    """All of them, or those of some batches only: the same bits."""
    kept, none, some = (
        evaluate(
            example.simulator(PropagationSettings(dtype, keep_bytes=keep_bytes)),
            example.structure,
            absorption,
        )
        for keep_bytes in (10**9, 0, 100_000)
    )
    assert_identical(none, kept)
    assert_identical(some, kept)


@pytest.mark.parametrize(
    "thickness, absorption", [(1400.0, None), (1400.0, 0.06), (1400.0, 0.15), (3760.0, 0.06)]
)
@pytest.mark.parametrize("keep_bytes", [0, 10**9])
def test_a_thick_absorbing_crystal(
    thickness: float, absorption: float | None, keep_bytes: int
) -> None:
    """Heavy atoms in single precision: within 1e-3 of the exact value and gradient.

    Absorption makes the Chebyshev vectors grow, and round-off with them: by 1e9 and more here.
    """
    structure = STRUCTURES[HEAVY]
    example, atoms = small_example(structure), atoms_of(structure)
    atoms.sites.requires_grad_()
    models = PhysicalModels(
        fixed_thickness(thickness),
        no_rotation,
        None if absorption is None else lambda a, c, u, e: absorption * u,
    )
    results = []
    for settings in (
        PropagationSettings(torch.complex128),
        PropagationSettings(torch.complex64, keep_bytes=keep_bytes),
    ):
        value = example.simulator(settings)(atoms, models).value
        results.append((value.detach(), torch.autograd.grad(value.sum(), atoms.sites)[0]))
    for exact, found in zip(*results):
        assert (found - exact).abs().max() < 1e-3 * exact.abs().max()


def test_a_crystal_that_absorbs_everything_is_refused() -> None:
    """Rather than a wrong number: nothing of 1e-13 of the beam would come through."""
    structure = STRUCTURES[HEAVY]
    models = PhysicalModels(fixed_thickness(4000.0), no_rotation, lambda a, c, u, e: 0.3 * u)
    with pytest.raises(ArithmeticError, match="absorbs everything"):
        small_example(structure).simulator()(atoms_of(structure), models)


def test_a_gradient_can_be_taken_once(example: Example) -> None:
    """What it needs is given back at once; asking again says so."""
    atoms = atoms_of(example.structure)
    atoms.sites.requires_grad_()
    models = PhysicalModels(fixed_thickness(200.0), no_rotation)
    total = example.simulator()(atoms, models).value.sum()
    torch.autograd.grad(total, atoms.sites, retain_graph=True)
    with pytest.raises(RuntimeError, match="evaluate it again"):
        torch.autograd.grad(total, atoms.sites)


def test_as_much_is_kept_as_allowed(example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of all vectors that a calculation holds between forward and backward."""
    from dials_hybrid_refine.diffraction import propagation

    sizes: list[int] = []
    original = propagation.forward_batch

    def spy(*arguments):  # type: ignore[no-untyped-def]
        result = original(*arguments)
        vectors = result[1].vectors
        if len(vectors.stored) == vectors.n_terms:
            sizes.append(vectors.stored.nbytes)
        return result

    monkeypatch.setattr(propagation, "forward_batch", spy)
    needed = {}
    for limit in (10**9, 500_000, 100_000, 0):
        sizes.clear()
        settings = PropagationSettings(torch.complex64, 2, keep_bytes=limit)
        evaluate(example.simulator(settings), example.structure)
        assert sum(sizes) <= limit
        needed[limit] = len(sizes)
    assert needed[10**9] == len(example.simulator().batches)
    assert needed[0] == 0


def test_a_forward_pass_without_gradient_keeps_nothing(
    example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(self: MemoryBudget, position: int, n_bytes: int) -> bool:
        raise AssertionError("asked to keep vectors")

    with_gradient = evaluate(example.simulator(), example.structure)["value"]
    monkeypatch.setattr(MemoryBudget, "take", forbidden)
    found = example.integrate([120.0, 310.0])
    assert np.isfinite(found).all()
    assert len(with_gradient) >= np.count_nonzero(found)
    with pytest.raises(AssertionError, match="asked"):
        evaluate(example.simulator(), example.structure)


def test_memory_budget() -> None:
    """What does not fit is refused and takes nothing away."""
    budget = MemoryBudget(100)
    asked = [60, 41, 40, 1, 0]
    granted = [budget.take(position, n_bytes) for position, n_bytes in enumerate(asked)]
    assert granted == [True, False, True, False, True]


def test_the_budget_does_not_depend_on_who_comes_first() -> None:
    """Tasks that ask in reverse order, or never, are served in the order of their positions."""
    budget = MemoryBudget(100)
    turns = [threading.Event() for _ in range(4)]

    def task(position: int) -> bool:
        if position < 3:
            assert turns[position + 1].wait(timeout=60)  # the next one asks before
        turns[position].set()
        try:
            return position != 1 and budget.take(position, 50)
        finally:
            budget.leave(position)

    tasks = [lambda i=i: task(i) for i in range(4)]  # type: ignore[misc]
    assert in_threads(tasks, n_threads=4) == [True, False, True, False]


def test_results_come_in_the_order_of_the_tasks() -> None:
    barrier = threading.Barrier(3, timeout=60)

    def task(i: int) -> tuple[int, int]:
        barrier.wait()  # three at the same time
        return i, threading.get_ident()

    results = in_threads([lambda i=i: task(i) for i in range(3)], n_threads=3)  # type: ignore[misc]
    assert [i for i, _ in results] == [0, 1, 2]
    assert len({thread for _, thread in results}) == 3


def test_an_error_in_a_task_comes_out() -> None:
    def fail() -> None:
        raise ArithmeticError("something")

    before = torch.get_num_threads()
    with pytest.raises(ArithmeticError, match="something"):
        in_threads([lambda: None, fail], n_threads=2)
    assert torch.get_num_threads() == before


def test_the_number_of_torch_threads_is_left_as_it_was(example: Example) -> None:
    before = torch.get_num_threads()
    assert in_threads([torch.get_num_threads] * 2, 2) == [1, 1]
    evaluate(
        example.simulator(PropagationSettings(torch.complex64, n_threads=2)), example.structure
    )
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("n_threads", [1, 2])
def test_workers_take_denormal_numbers_for_zero(n_threads: int) -> None:
    """They would be ten times slower; the thread that called them is left as it was."""
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor cannot flush denormal numbers")

    def product() -> float:
        small = torch.full((64,), 1e-30, dtype=torch.float32)
        return float((small * 1e-10).max())

    before = product()
    assert 0 < before < torch.finfo(torch.float32).tiny
    assert in_threads([product] * 4, n_threads) == [0.0] * 4
    assert product() == before


def test_torch_uses_one_thread_for_a_while() -> None:
    before = torch.get_num_threads()
    with one_torch_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_memory_that_is_held_already_is_taken_off() -> None:
    """1 GB more may be kept with 1 GB more of memory; nothing where there is none."""
    assert keep_bytes(0.5) == 0
    large = keep_bytes(64.0)
    assert 50e9 < large < 64e9
    assert keep_bytes(65.0) - large == pytest.approx(1e9, rel=0.01)
