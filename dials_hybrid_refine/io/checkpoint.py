"""Checkpoints: the journal of a refinement in a file, and what it belongs to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import libtbx.phil

from dials_hybrid_refine.io.array_archive import read_archive, write_archive
from dials_hybrid_refine.io.output_files import write_atomically
from dials_hybrid_refine.refinement.journal import Entry, Journal

logger = logging.getLogger("dials.hybrid_refine.checkpoint")

CHECKPOINT_PHIL = """
checkpoint {
  file = hybrid_refine.checkpoint
    .type = path
    .help = "Where the refinement notes how far it has come, complete at any moment. The file is"
            "removed when a converged refinement has written its results. None: not written."
  every = 1
    .type = int(value_min=1)
    .help = "Steps after which it is written, beside the end of every stage and cycle."
    .expert_level = 1
  resume = None
    .type = path
    .help = "A checkpoint of a run that was interrupted or killed, to go on from. Files and"
            "parameters must be the same, but for output, threads and most cycles."
}
"""

#: what a checkpoint has in its first line
_PROGRAM, _FORMAT = "dials.hybrid_refine checkpoint", 2

#: parameters, or scopes of them, that do not change the result, but for round-off
_FREE = (
    "input",
    "output",
    "cif",
    "checkpoint",
    "data_checks",
    "frames",
    "difference_map",
    "convergence",
    "nproc",
    "memory",
    "device",
)
#: and those that do not change what a stage has found, but which stages there are
_OF_LATER_STAGES = ("absolute_structure", "refinement.max_cycles")


@dataclass(frozen=True)
class Provenance:
    """What a refinement depends on.

    Attributes:
        sha256: of the input files, by what they are ("experiments" ...).
        parameters: those that are not at their defaults, as texts, by their names.
        versions: of programs and libraries, by their names.
        effects: versions of the effects of other packages that are used, by their names.
    """

    sha256: Mapping[str, str]
    parameters: Mapping[str, str]
    versions: Mapping[str, str]
    effects: Mapping[str, str]


def decisive_parameters(changed: str, stages_only: bool = True) -> dict[str, str]:
    """Parameters that change what a refinement finds.

    Args:
        changed: PHIL of all that are not at their defaults.
        stages_only: leave those out that only decide which stages follow.
    """
    free_ones = _FREE + (_OF_LATER_STAGES if stages_only else ())
    found: dict[str, str] = {}
    for definition in libtbx.phil.parse(changed).all_definitions():
        name = definition.path
        if not any(name == free or name.startswith(f"{free}.") for free in free_ones):
            value = " ".join(str(word) for word in definition.object.words)
            # of a scope that may be given several times, all in their order
            found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def saver(path: str | None, provenance: Provenance) -> Callable[[Journal], None]:
    """A function that writes a journal to a file; where that fails it says so once and goes on."""
    failed = False

    def save(journal: Journal) -> None:
        nonlocal failed
        if path is None or failed:
            return
        content = {
            "program": _PROGRAM,
            "format": _FORMAT,
            "provenance": asdict(provenance),
            "entries": [_plain(entry) for entry in journal.entries],
            "running": None if journal.running is None else _plain(journal.running),
        }
        try:
            write_atomically(path, lambda name: write_archive(name, content))
        except ValueError as error:
            failed = True
            logger.warning("%s: the refinement goes on without checkpoints", error)

    return save


def read_checkpoint(path: str, provenance: Provenance) -> Journal:
    """The journal of an earlier run.

    Args:
        provenance: what the present run depends on.

    Raises:
        ValueError: if the file is no checkpoint, is damaged, or belongs to another refinement.
    """
    if not Path(path).is_file():
        raise ValueError(f"checkpoint.resume={path} does not exist: check its name and directory")
    try:
        content = read_archive(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): check it") from error
    except ValueError as error:
        raise ValueError(
            f"{path} is no checkpoint of dials.hybrid_refine or is damaged ({error}): "
            "start without checkpoint.resume"
        ) from error
    if (content.get("program"), content.get("format")) != (_PROGRAM, _FORMAT):
        raise ValueError(
            f"{path} is no checkpoint of this version of dials.hybrid_refine: start without "
            "checkpoint.resume"
        )
    try:
        earlier = Provenance(**content["provenance"])
        if not all(isinstance(value, dict) for value in asdict(earlier).values()):
            raise TypeError
        journal = Journal([_entry(e) for e in content["entries"]])
        if content["running"] is not None:
            journal.running = _entry(content["running"])
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} lacks parts of a checkpoint: start without checkpoint.resume"
        ) from error
    _check_same(path, earlier, provenance)
    return journal


def _check_same(path: str, earlier: Provenance, now: Provenance) -> None:
    """Whether a checkpoint belongs to a run.

    Raises:
        ValueError: says what differs.
    """
    remedy = "or start without checkpoint.resume"
    program = "dials_hybrid_refine"
    if earlier.versions.get(program) != now.versions[program]:
        raise ValueError(
            f"{path} was written by version {earlier.versions.get(program)} of {program}, and this "
            f"is {now.versions[program]}: use that version, {remedy}"
        )
    for kind in dict.fromkeys([*now.sha256, *earlier.sha256]):
        if earlier.sha256.get(kind) != now.sha256.get(kind):
            raise ValueError(
                f"{path} belongs to another {kind} file (their SHA-256 differ): give the file it was "
                f"made from, {remedy}"
            )
    for name in sorted({*earlier.parameters, *now.parameters}):
        before, after = (p.parameters.get(name, "its default") for p in (earlier, now))
        if before != after:
            raise ValueError(
                f"{path} was made with {name} at {before}, and now it is {after}: give the same "
                f"value, {remedy}"
            )
    if earlier.effects != now.effects:
        raise ValueError(
            f"{path} was made with other versions of effects of other packages: use those, {remedy}"
        )
    changed = [name for name, value in now.versions.items() if earlier.versions.get(name) != value]
    if changed:
        logger.warning(
            "Versions of %s are others than those of %s: results may differ by round-off",
            ", ".join(changed),
            path,
        )


def _plain(entry: Entry) -> dict[str, Any]:
    return {"name": entry.name, "content": entry.content}


def _entry(content: Mapping[str, Any]) -> Entry:
    name, inner = content["name"], content["content"]
    if not (isinstance(name, str) and isinstance(inner, dict)):
        raise TypeError
    return Entry(name, inner)
