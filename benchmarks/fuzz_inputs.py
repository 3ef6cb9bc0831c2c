"""Files and parameters changed at random: each is read, or refused with a sentence.

    python -m benchmarks.fuzz_inputs 1000

changes good files (bytes cut off, lost, replaced or put in; numbers replaced by others, by none or by text;
lines twice) and parameters, that many times for each kind, and counts what became of them. The allowed
outcomes are a ValueError of one line with a remedy, and data that are finite and within their limits.
``docs/robustness.md`` has figures.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import re
import resource
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: F401  before DIALS, which would limit it to one thread
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dials.array_family import flex

from dials_hybrid_refine.command_line import hybrid_refine, hybrid_simulate, import_pets
from dials_hybrid_refine.diffraction.scan import ScanGeometry
from dials_hybrid_refine.io.checkpoint import Provenance, read_checkpoint
from dials_hybrid_refine.io.command_input import (
    parse_command_line,
    read_experiment,
    read_reflections,
)
from dials_hybrid_refine.io.experiments import scan_geometry
from dials_hybrid_refine.io.pets import read_pets
from dials_hybrid_refine.io.pets_import import import_pets as imported
from dials_hybrid_refine.io.reflection_checks import check_signal
from dials_hybrid_refine.io.reflections import ReflectionFilter, check_positions, read_observations
from dials_hybrid_refine.io.structure import read_structure

#: what stands in place of a number
ODD_NUMBERS = (
    "nan -nan inf -inf 0 -0 -1 1e400 1e300 -1e300 1e-300 1e9 -1e9 99999999999999999999 2147483648 ? . x "
    "1,5 1e 0x10 None Auto true () '' 10.5 -10.5 21 1.5.2"
).split()
_NUMBER = re.compile(rb"(?<![\w.])[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?(?![\w.])")


@st.composite
def changed(draw: st.DrawFn, good: bytes) -> bytes:
    """Up to three changes of the content of a file."""
    content = good
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(
            st.sampled_from(["cut", "lose", "replace", "insert", "number", "number", "line"])
        )
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(1, 60)))
        if kind == "cut":
            content = content[:start]
        elif kind == "lose":
            content = content[:start] + content[end:]
        elif kind in ("replace", "insert"):
            noise = draw(st.binary(max_size=12))
            content = content[:start] + noise + content[end if kind == "replace" else start :]
        elif kind == "line":
            lines = content.splitlines(keepends=True) or [b""]
            i = draw(st.integers(0, len(lines) - 1))
            content = b"".join([*lines[:i], lines[i], *lines[i:]])
        else:
            numbers = list(_NUMBER.finditer(content))
            if numbers:
                chosen = draw(st.sampled_from(numbers))
                other = draw(st.sampled_from(ODD_NUMBERS)).encode()
                content = content[: chosen.start()] + other + content[chosen.end() :]
    return content


def read_model(path: str) -> None:
    """A model file; what is read is a crystal structure."""
    structure = read_structure(path).structure
    assert structure.scatterers().size() > 0 and structure.unit_cell().volume() > 1
    for atom in structure.scatterers():
        numbers = [*atom.site, atom.occupancy]
        numbers += atom.u_star if atom.flags.use_u_aniso() else [atom.u_iso]
        assert np.isfinite(numbers).all() and 0 < atom.occupancy <= 10, atom.label


def read_expt(path: str) -> None:
    """Experiments; what is read is a scan of a lattice."""
    scan = scan_geometry(read_experiment(path))
    assert 0 < scan.wavelength < 0.2 and (np.diff(scan.phi_points) > 0).all()
    for matrices in (scan.crystal_settings, scan.setting_rotations):
        assert np.isfinite(matrices).all() and (np.linalg.det(matrices) > 0).all()


def read_file_of_pets(path: str) -> None:
    """A PETS2 file; what is imported is finite."""
    table = imported(read_pets(path), 0.01, "fuzzed").reflections
    for name in ("intensity.prf.value", "intensity.prf.variance", "phi_start", "phi_end"):
        assert np.isfinite(table[name].as_numpy_array()).all(), name


@dataclass
class Observed:
    """Reads reflections of an experiment."""

    experiment: Any
    scan: ScanGeometry

    def check(self, table: flex.reflection_table) -> None:
        """What is left of a table is finite and in order."""
        found, excluded = read_observations(
            table, self.experiment, self.scan, ReflectionFilter(d_min=0.5)
        )
        check_positions(found, self.scan, "the experiments")
        check_signal(found)
        for numbers in (found.intensity, found.sigma, found.phi, found.phi_start, found.phi_end):
            assert np.isfinite(numbers).all()
        assert (found.sigma > 0).all() and (found.phi_end > found.phi_start).all()
        assert len(found) + sum(excluded.counts.values()) == len(table)

    def read(self, path: str) -> None:
        """The same of a file."""
        self.check(read_reflections(path))


def read_old_checkpoint(path: str) -> None:
    """A checkpoint; the run it belongs to is another, unless it is refused for what it is."""
    read_checkpoint(path, Provenance({}, {}, {"dials_hybrid_refine": "0.1.0"}, {}))


def outcome(run: Callable[[], None]) -> str:
    """ "read" or "refused".

    Raises:
        AssertionError: for what is neither.
    """
    try:
        run()
    except ValueError as error:
        message = str(error)
        assert message.strip() and len(message) < 1000, message
        assert not re.search(r"Traceback|<class|report this", message), message
        return "refused"
    return "read"


@st.composite
def changed_columns(draw: st.DrawFn, table: flex.reflection_table) -> flex.reflection_table:
    """A table with odd numbers in some rows of some columns, without some, or with few rows."""
    new = copy.deepcopy(table)
    names = st.sampled_from(sorted(set(table.keys()) - {"id", "panel", "entering"}))
    for _ in range(draw(st.integers(1, 4))):
        name = draw(names)
        kind = draw(st.sampled_from(["some", "all", "drop", "type", "rows"]))
        if kind == "drop" and name in new:
            del new[name]
        elif kind == "type":
            new[name] = draw(st.sampled_from([flex.int, flex.std_string, flex.vec3_double]))(
                len(new)
            )
        elif kind == "rows":
            new = new[: draw(st.integers(0, len(new)))]
        elif name in new and isinstance(new[name], flex.double):
            numbers = np.array(new[name].as_numpy_array())
            some = draw(st.integers(0, len(new))) if kind == "some" else len(new)
            numbers[:some] = draw(st.floats())
            new[name] = flex.double(numbers)
        elif (
            name == "miller_index"
            and name in new
            and isinstance(new[name], flex.miller_index)
            and len(new)
        ):
            column = new[name]
            index = st.integers(-(2**31), 2**31 - 1)
            column[0] = draw(st.tuples(index, index, index))
            new[name] = column
    return new


def check_parameters(scope: Any, arguments: list[str]) -> None:
    """Parse arguments; what is accepted is within the limits that PHIL states."""
    params = parse_command_line(scope, "fuzzed", "", arguments).params
    for definition in scope.all_definitions():
        if "restraints" in definition.path or definition.object.multiple:
            continue
        value = params
        for name in definition.path.split("."):
            value = getattr(value, name)
        kind = definition.object.type
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, (int, float)) and not isinstance(number, bool):
                assert math.isfinite(number), definition.path
                low, high = (getattr(kind, name, None) for name in ("value_min", "value_max"))
                assert low is None or number >= low, definition.path
                assert high is None or number <= high, definition.path


@st.composite
def odd_arguments(draw: st.DrawFn, scope: Any) -> list[str]:
    """Parameters, known and unknown, with values of all kinds."""
    names = [definition.path for definition in scope.all_definitions()]
    value = st.one_of(
        st.sampled_from(ODD_NUMBERS),
        st.floats().map(repr),
        st.integers().map(str),
        st.text(max_size=8),
    )
    name = st.one_of(st.sampled_from(names), st.text(min_size=1, max_size=8))
    pairs = draw(st.lists(st.tuples(name, value), min_size=1, max_size=3))
    return [f"{name}={value}" for name, value in pairs]


@dataclass
class Target:
    """A kind of input: what examples there are, and what is done with one."""

    examples: st.SearchStrategy[Any]
    check: Callable[[Any], None]


def _of_file(good: bytes, suffix: str, read: Callable[[str], None], folder: Path) -> Target:
    path = folder / f"fuzzed{suffix}"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        read(str(path))

    read_before = folder / f"good{suffix}"
    read_before.write_bytes(good)
    return Target(changed(good), check)


def targets(simulated: Path, folder: Path, pets: str, shelx: str, pdb: str) -> dict[str, Target]:
    """All kinds of input.

    Args:
        simulated: holds data.expt, data.refl and model.cif, and may hold a hybrid_refine.checkpoint.
        folder: for files.
        pets, shelx, pdb: contents of good files.
    """
    experiment = read_experiment(str(simulated / "data.expt"))
    observed = Observed(experiment, scan_geometry(experiment))
    table = flex.reflection_table.from_file(str(simulated / "data.refl"))
    found = {
        "CIF": _of_file((simulated / "model.cif").read_bytes(), ".cif", read_model, folder),
        "SHELX": _of_file(shelx.encode(), ".ins", read_model, folder),
        "PDB": _of_file(pdb.encode(), ".pdb", read_model, folder),
        "cif_pets": _of_file(pets.encode(), ".cif_pets", read_file_of_pets, folder),
        "expt": _of_file((simulated / "data.expt").read_bytes(), ".expt", read_expt, folder),
        "refl": _of_file((simulated / "data.refl").read_bytes(), ".refl", observed.read, folder),
        "columns": Target(changed_columns(table), observed.check),
    }
    checkpoint = simulated / "hybrid_refine.checkpoint"
    if checkpoint.exists():
        found["checkpoint"] = _of_file(
            checkpoint.read_bytes(), ".checkpoint", read_old_checkpoint, folder
        )
    for name, program in (
        ("parameters of hybrid_refine", hybrid_refine),
        ("parameters of hybrid_simulate", hybrid_simulate),
        ("parameters of import_pets", import_pets),
    ):
        scope = program.phil_scope
        found[name] = Target(
            odd_arguments(scope), lambda a, scope=scope: check_parameters(scope, a)
        )
    return found


def explore(target: Target, n: int, seed: int | None = None) -> Counter[str]:
    """Try n examples of a kind and count the outcomes.

    Raises:
        AssertionError: or whatever an example raises, shrunk to a small one.
    """
    counts: Counter[str] = Counter()

    @settings(
        max_examples=n,
        deadline=None,
        database=None,
        derandomize=seed is None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(target.examples)
    def try_one(example: Any) -> None:
        counts[outcome(lambda: target.check(example))] += 1

    if seed is not None:
        from hypothesis import seed as seeded

        try_one = seeded(seed)(try_one)
    try_one()
    return counts


def _simulate(folder: Path) -> None:
    """Make data.expt, data.refl, model.cif and a checkpoint."""
    shipped = resources.files("dials_hybrid_refine") / "data"
    (folder / "model.cif").write_text((shipped / "quartz_demo.cif").read_text())
    (folder / "data.expt").write_text((shipped / "quartz_demo.expt").read_text())
    arguments = ["data.expt", "model.cif", "d_min=1.2", "thickness.mean=300", "nproc=1"]
    hybrid_simulate.run([*arguments, "output.reflections=data.refl"])
    cheap = (
        "refinement.max_cycles=1 refinement.coarse_steps=1 refinement.max_steps=1 thickness.max=600"
    )
    output = "output.html=None difference_map=False absolute_structure.test=False nproc=1".split()
    hybrid_refine.run(["data.expt", "data.refl", "model.cif", *cheap.split(), *output])


def main() -> None:
    """Print a table."""
    import sys

    sys.path[:0] = ["tests", "tests/command_line"]  # good files of the tests
    from model_files import PDB, SHELX
    from pets_files import PetsFile

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("n", type=int, help="examples of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="kinds whose name holds this")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30, resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        _simulate(folder)
        print(
            "| input | tried | read | refused with a sentence | s |\n|---|---|---|---|---|",
            flush=True,
        )
        for kind, target in targets(folder, folder, PetsFile().text(), SHELX, PDB).items():
            if options.only in kind:
                begin = time.perf_counter()
                counts = explore(target, options.n, options.seed)
                took = time.perf_counter() - begin
                print(
                    f"| {kind} | {counts.total()} | {counts['read']} | {counts['refused']} | {took:.0f} |",
                    flush=True,
                )
        os.chdir(here)


if __name__ == "__main__":
    main()
