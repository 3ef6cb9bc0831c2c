"""Several experiments and their reflections, in any number of files."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from cctbx import sgtbx
from dials.array_family import flex
from dxtbx.model import Experiment, ExperimentList
from dxtbx.util import ersatz_uuid4

from dials_hybrid_refine.io.command_input import (
    check_belonging,
    read_experiments,
    read_reflections,
)

logger = logging.getLogger("dials.hybrid_refine")


@dataclass(frozen=True)
class Recorded:
    """One experiment and its reflections.

    Attributes:
        name: the experiments file, with the number of the experiment where it holds several.
        reflections: name of the reflection file.
    """

    name: str
    reflections: str
    experiment: Experiment
    table: flex.reflection_table

    def reindexed(self, operator: str) -> Recorded:
        """The same after a change of basis in the notation of cctbx, as dials.reindex makes it."""
        change = sgtbx.change_of_basis_op(operator)
        experiment, table = copy.deepcopy(self.experiment), copy.deepcopy(self.table)
        group = experiment.crystal.get_space_group()
        experiment.crystal.set_space_group(sgtbx.space_group())
        experiment.crystal = experiment.crystal.change_basis(change)
        experiment.crystal.set_space_group(group.change_basis(change))
        table["miller_index"] = change.apply(table["miller_index"])
        return Recorded(self.name, self.reflections, experiment, table)


def read_recorded(
    experiments: Sequence[str],
    reflections: Sequence[str],
    use: Sequence[int] | None = None,
    exclude: Sequence[int] | None = None,
) -> list[Recorded]:
    """The experiments of some files that are wanted, each with its reflections.

    They are matched by DIALS' experiment identifiers. Where these are missing, or the same in several
    files (copies, data simulated from one file), the k-th experiment goes with the k-th data set.

    Args:
        use, exclude: numbers from 0, as for dials.scale: ``dataset_selection.use_datasets`` and
            ``dataset_selection.exclude_datasets``.

    Raises:
        ValueError: names the files that do not belong together, or the number that is not there.
    """
    found = [
        (path if len(members) == 1 else f"{path} (experiment {k})", experiment)
        for path in experiments
        for members in [read_experiments(path)]
        for k, experiment in enumerate(members)
    ]
    tables = [(path, read_reflections(path)) for path in reflections]
    wanted = _selected(len(found), use, exclude)
    if len(found) == 1 and len(tables) == 1:
        (name, experiment), (path, table) = found[0], tables[0]
        check_belonging(table, experiment, (path, name))
        return [Recorded(name, path, experiment, table)]
    sets = [(path, part) for path, table in tables for part in _of_one_each(table)]
    identifiers = [experiment.identifier for _, experiment in found]
    given = [_identifier(table) for _, table in sets]
    if _are_unique(identifiers) and _are_unique(given):
        by_identifier = dict(zip(given, sets))
        _check_identifiers([found[k] for k in wanted], found, sets)
        pairs = [(found[k], by_identifier[identifiers[k]]) for k in wanted]
    elif len(found) == len(sets):
        pairs = [(found[k], sets[k]) for k in wanted]
    else:
        raise ValueError(
            f"{_listed(experiments)} {_hold(experiments)} {len(found)} "
            f"experiment{'' if len(found) == 1 else 's'} but "
            f"{_listed(reflections)} {_hold(reflections)} reflections of {len(sets)}: give files that "
            "belong together"
        )
    recorded = []
    for (name, experiment), (path, table) in pairs:
        check_belonging(table, experiment, (path, name))
        recorded.append(Recorded(name, path, experiment, table))
    return recorded


def _of_one_each(table: flex.reflection_table) -> list[flex.reflection_table]:
    """Tables of one experiment each, in the order of their ids; rows without one are left out."""
    numbers = sorted(set(table["id"]) - {-1}) if "id" in table else []
    if len(numbers) < 2:
        return [table]
    parts = []
    for number in numbers:
        part = table.select(table["id"] == number)
        identifiers = part.experiment_identifiers()
        for other in set(identifiers.keys()) - {number}:
            del identifiers[other]
        parts.append(part)
    return parts


def _identifier(table: flex.reflection_table) -> str:
    """The only identifier of a table, empty without."""
    identifiers = list(dict(table.experiment_identifiers()).values())
    return identifiers[0] if len(identifiers) == 1 else ""


def _are_unique(identifiers: Sequence[str]) -> bool:
    return all(identifiers) and len(set(identifiers)) == len(identifiers)


def _check_identifiers(
    wanted: Sequence[tuple[str, Experiment]],
    found: Sequence[tuple[str, Experiment]],
    sets: Sequence[tuple[str, flex.reflection_table]],
) -> None:
    """Whether wanted experiments have reflections, and reflections experiments.

    Raises:
        ValueError: names one that is alone.
    """
    own = {experiment.identifier for _, experiment in found}
    given = {_identifier(table): path for path, table in sets}
    for name, experiment in wanted:
        if experiment.identifier not in given:
            raise ValueError(
                f"no reflections belong to {name} (their experiment identifiers differ): give the files "
                "that one DIALS program has written together, or leave it out "
                "(dataset_selection.exclude_datasets)"
            )
    for identifier, path in given.items():
        if identifier not in own:
            raise ValueError(
                f"{path} holds reflections of an experiment that is in no experiments file (its identifier "
                f"is {identifier}): give the files that one DIALS program has written together"
            )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def _hold(names: Sequence[str]) -> str:
    return "holds" if len(names) == 1 else "hold"


def _selected(
    n_experiments: int, use: Sequence[int] | None, exclude: Sequence[int] | None
) -> list[int]:
    """Numbers of the experiments that are wanted.

    Raises:
        ValueError: for both at once, a number that is not there, or nothing left.
    """
    if use is not None and exclude is not None:
        raise ValueError(
            "dataset_selection.use_datasets and dataset_selection.exclude_datasets were both given: "
            "give one"
        )
    if use is None and exclude is None:
        return list(range(n_experiments))
    name = "use" if use is not None else "exclude"
    for number in use if use is not None else exclude or []:
        if not 0 <= number < n_experiments:
            raise ValueError(
                f"dataset_selection.{name}_datasets={number}: there is no such experiment, they are "
                f"numbered 0 to {n_experiments - 1}"
            )
    chosen = [
        k
        for k in range(n_experiments)
        if (k in use if use is not None else k not in (exclude or []))
    ]
    if not chosen:
        raise ValueError(f"dataset_selection.{name}_datasets leaves no experiment: leave it out")
    return chosen


def together(
    recorded: Sequence[tuple[Experiment, flex.reflection_table]],
) -> tuple[ExperimentList, flex.reflection_table]:
    """One list and one table of several experiments, numbered from 0, each with an identifier.

    An identifier that another experiment has, too, or that is missing, is replaced.
    """
    experiments, tables, known = ExperimentList(), [], set()
    for number, (experiment, table) in enumerate(recorded):
        if not experiment.identifier or experiment.identifier in known:
            experiment.identifier = ersatz_uuid4()
        known.add(experiment.identifier)
        experiments.append(experiment)
        numbered = copy.deepcopy(table)
        for key in list(numbered.experiment_identifiers().keys()):
            del numbered.experiment_identifiers()[key]
        numbered["id"] = flex.int(len(numbered), number)
        numbered.experiment_identifiers()[number] = experiment.identifier
        tables.append(numbered)
    return experiments, flex.reflection_table.concat(tables)
