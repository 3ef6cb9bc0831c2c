"""From command-line arguments to parameters and input files, each failure a clear sentence."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import libtbx
import libtbx.phil
from dials.array_family import flex
from dials.util.options import ArgumentParser
from dxtbx.model import Experiment, ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory
from libtbx.utils import Sorry

_EXPERIMENT_SUFFIXES = {".expt", ".json"}
_REFLECTION_SUFFIXES = {".refl", ".pickle", ".mpack", ".h5"}

#: for ``include scope``: where files may be named beside the positional arguments
INPUT_PHIL = """
input {
  experiments = None
    .type = path
    .multiple = True
    .help = "The experiments file (.expt) that dials.integrate or dials.scale has written."
  reflections = None
    .type = path
    .multiple = True
    .help = "The reflection file (.refl) with the integrated intensities."
  structure = None
    .type = path
    .help = "The starting structure: CIF, SHELX .ins or .res, or PDB."
}
"""


@dataclass(frozen=True)
class Parameters:
    """``params`` is the PHIL extract, ``changed`` the parameters that differ from their defaults."""

    params: Any
    verbosity: int
    changed: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Files that are read, which no output may replace."""
        return ()


@dataclass(frozen=True)
class CommandInput(Parameters):
    """Parameters and the names of the input files."""

    experiments: tuple[str, ...]
    reflections: tuple[str, ...]
    structures: tuple[str, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Files that are read, which no output may replace."""
        return (*self.experiments, *self.reflections, *self.structures)


class Parser(ArgumentParser):
    """DIALS' parser, whose errors are ValueErrors instead of a usage text and exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def parse_arguments(
    scope: libtbx.phil.scope, usage: str, epilog: str, args: Sequence[str]
) -> tuple[Parameters, list[str]]:
    """Parameters, and the arguments that are none: names of files.

    Raises:
        ValueError: for an unknown parameter or option, or a value of the wrong type.
        SystemExit: after -h, -c and the like.
    """
    parser = Parser(usage=usage, phil=scope, epilog=epilog)
    try:
        params, options, unhandled = parser.parse_args(
            args=list(args), show_diff_phil=False, return_unhandled=True
        )
    except (RuntimeError, Sorry) as error:
        # DIALS 3.12 lets errors of PHIL through; newer versions call error()
        raise ValueError(_explain_value(_first_line(error), scope)) from error
    except OSError as error:  # of --phil
        raise ValueError(f"{error.filename} cannot be read ({error.strerror}): check it") from error
    except SystemExit as error:
        if error.code in (0, None):
            raise
        raise ValueError(f"the arguments are not understood: {error.code}") from error
    _choose_none(params, scope)
    _check_values(params, scope)
    for argument in unhandled:
        if "=" in argument and not Path(argument).exists():
            raise ValueError(_explain_parameter(argument, scope))
        if argument.startswith("-"):
            raise ValueError(f"the option {argument} is unknown: -h lists the options")
    return Parameters(params, options.verbose, parser.diff_phil.as_str()), unhandled


def parse_command_line(
    scope: libtbx.phil.scope, usage: str, epilog: str, args: Sequence[str]
) -> CommandInput:
    """Parse arguments; file names are sorted by suffix (anything unknown is a structure).

    Raises:
        ValueError: as ``parse_arguments``, and for a missing file.
        SystemExit: after -h, -c and the like.
    """
    given, names = parse_arguments(scope, usage, epilog, args)
    params = given.params
    files: dict[str, list[str]] = {
        "experiments": [name for name in params.input.experiments if name],
        "reflections": [name for name in params.input.reflections if name],
        "structures": [params.input.structure] if getattr(params.input, "structure", None) else [],
    }
    for argument in names:
        suffix = Path(argument).suffix.lower()
        if suffix in _EXPERIMENT_SUFFIXES:
            files["experiments"].append(argument)
        elif suffix in _REFLECTION_SUFFIXES:
            files["reflections"].append(argument)
        else:
            files["structures"].append(argument)
    for name in (name for names in files.values() for name in names):
        _check_file(name)
    return CommandInput(
        params=params,
        verbosity=given.verbosity,
        changed=given.changed,
        experiments=tuple(files["experiments"]),
        reflections=tuple(files["reflections"]),
        structures=tuple(files["structures"]),
    )


def _check_file(name: str) -> None:
    if Path(name).is_dir():
        raise ValueError(f"{name} is a directory: give a file")
    if not Path(name).is_file():
        raise ValueError(f"the file {name} does not exist: check its name and directory")


def _choose_none(params: Any, scope: libtbx.phil.scope) -> None:
    """Let ``none`` be chosen where it is one of the choices: PHIL reads the word as None."""
    for definition in scope.all_definitions():
        choices = [word.value.lstrip("*") for word in definition.object.words]
        is_choice = str(definition.object.type) == "choice"
        if not (is_choice and "none" in choices):
            continue
        parent, _, name = definition.path.rpartition(".")
        for scope_extract in _values_of(params, parent) if parent else [params]:
            if getattr(scope_extract, name) is None:
                setattr(scope_extract, name, "none")


def _check_values(params: Any, scope: libtbx.phil.scope) -> None:
    """What PHIL lets pass: numbers that are not finite, None and Auto where they mean nothing.

    Raises:
        ValueError: names the parameter.
    """
    defaults = scope.extract()
    for definition in scope.all_definitions():
        name = definition.path
        if definition.object.multiple or name.startswith(("input.", "output.", "checkpoint.file")):
            found = _values_of(params, name)
            if any(
                v is libtbx.Auto for one in found for v in (one if isinstance(one, list) else [one])
            ):
                raise ValueError(f"{name} cannot be Auto: it takes {_described(definition.object)}")
            continue
        default = _values_of(defaults, name)[0]
        for value in _values_of(params, name):
            if (value is None and default is not None) or (
                value is libtbx.Auto and default is not libtbx.Auto
            ):
                takes = _described(definition.object)
                raise ValueError(f"{name} cannot be {value}: it takes {takes}")
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, float) and not math.isfinite(number):
                    raise ValueError(f"{name}={number} is not a finite number: give one")


def _values_of(params: Any, path: str) -> list[Any]:
    """The value of a parameter in each of the scopes it stands in: one, unless a scope is multiple."""
    found = [params]
    for name in path.split("."):
        values = [getattr(scope, name) for scope in found]
        found = [
            one
            for value in values
            for one in (value if isinstance(value, libtbx.phil.scope_extract_list) else [value])
        ]
    return found


def _described(definition: Any) -> str:
    """What values a PHIL definition takes, in words."""
    kind = str(definition.type)
    if kind == "choice":
        return "one of " + ", ".join(word.value.lstrip("*") for word in definition.words)
    if kind == "bool":
        return "True or False"
    return re.sub(r",? ?allow_none=True", "", kind).replace("()", "")


def _explain_value(message: str, scope: libtbx.phil.scope) -> str:
    """PHIL's message on a value it could not interpret, with the values the parameter takes."""
    message = re.sub(r" \(command line argument, line \d+\)$", "", message)
    message = re.sub(r": [A-Za-z]+Error: .*", "", message)
    message = re.sub(r"^Error interpreting", "this value is not understood:", message)
    for definition in scope.all_definitions():
        if re.search(rf"(?<![\w.]){re.escape(definition.path)}(?![\w.])", message):
            return f"{message}; {definition.path} takes {_described(definition.object)}"
    return message


def _first_line(error: BaseException) -> str:
    text = (
        str(error)
        .strip()
        .removeprefix("Please report this error to dials-support@lists.sourceforge.net:")
    )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # "dxtbx Internal Error: ./dxtbx/src/dxtbx/model/beam.h(181): ..." of C++ code
    first = re.sub(r"^\w+ (Internal )?Error: (\S+\(\d+\): )?", "", lines[0]) if lines else ""
    first = re.sub(r"<class '(\w+)'>", r"\1", first)
    return first.rstrip(".") or "it is not what it should be"


def _explain_parameter(argument: str, scope: libtbx.phil.scope) -> str:
    name, value = (part.strip() for part in argument.split("=", 1))
    known = {definition.path: definition.object for definition in scope.all_definitions()}
    meant = [path for path in known if path == name or path.endswith(f".{name}")]
    if len(meant) > 1:
        return f"the parameter {name} is ambiguous: write {' or '.join(meant)}"
    if meant:
        takes = _described(known[meant[0]])
        return f"the value {value!r} does not suit the parameter {meant[0]}: it takes {takes}"
    short = {path.split(".")[-1]: path for path in known} | {path: path for path in known}
    close = difflib.get_close_matches(name, list(short), n=1)
    hint = f"did you mean {short[close[0]]}?" if close else "-c -e 2 lists all parameters"
    return f"there is no parameter {name}: {hint}"


def at_least_one(names: Sequence[str], what: str, remedy: str) -> None:
    """Whether files of a kind were given.

    Raises:
        ValueError: if there is none.
    """
    if not names:
        raise ValueError(f"no {what} was given: {remedy}")


def exactly_one(names: Sequence[str], what: str, remedy: str) -> str:
    """The only name of a kind of file.

    Raises:
        ValueError: if there is none or more than one.
    """
    at_least_one(names, what, remedy)
    if len(names) > 1:
        raise ValueError(f"{len(names)} {what}s were given ({', '.join(names)}): give one")
    return names[0]


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Put the file's name before the text of an error."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_experiments(path: str) -> ExperimentList:
    """The experiments of a file, at least one.

    Raises:
        ValueError: if the file is no experiments file, or holds none.
    """
    try:
        experiments = ExperimentListFactory.from_json_file(path, check_format=False)
    except Exception as error:  # dxtbx raises many kinds for files that are not what they seem
        raise ValueError(
            f"{path} is not a readable experiments file ({_first_line(error)}): give the .expt "
            "file that dials.integrate has written"
        ) from error
    if len(experiments) == 0:
        raise ValueError(f"{path} holds no experiments: give the .expt file of dials.integrate")
    return experiments


def read_experiment(path: str) -> Experiment:
    """The only experiment of a file.

    Raises:
        ValueError: if the file is no experiments file, or holds none or several.
    """
    experiments = read_experiments(path)
    if len(experiments) > 1:
        raise ValueError(
            f"{path} holds {len(experiments)} experiments: choose one (dials.split_experiments writes a "
            "file for each)"
        )
    return experiments[0]


def read_reflections(path: str) -> flex.reflection_table:
    """A reflection table.

    Raises:
        ValueError: if the file is no reflection file or is empty.
    """
    try:
        table = flex.reflection_table.from_file(path)
    except Exception as error:  # msgpack, pickle and HDF5 each raise their own kinds
        raise ValueError(
            f"{path} is not a readable reflection file ({_first_line(error)}): give the .refl "
            "file that dials.integrate has written"
        ) from error
    if len(table) == 0:
        raise ValueError(f"{path} holds no reflections: give the .refl file of dials.integrate")
    return table


def check_belonging(
    table: flex.reflection_table, experiment: Experiment, names: tuple[str, str]
) -> None:
    """Whether a reflection table belongs to an experiment, by their identifiers.

    Raises:
        ValueError: names both files.
    """
    identifiers = set(dict(table.experiment_identifiers()).values())
    if "id" in table:
        ids = set(table["id"]) - {-1}
        if len(ids) > 1:
            raise ValueError(
                f"{names[0]} holds reflections of {len(ids)} experiments but {names[1]} only one: "
                "give files that belong together"
            )
    if identifiers and experiment.identifier and experiment.identifier not in identifiers:
        raise ValueError(
            f"{names[0]} and {names[1]} do not belong together (their experiment identifiers "
            "differ): give the two files that one DIALS program has written"
        )
