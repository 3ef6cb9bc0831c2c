"""The checkpoints of dials.hybrid_refine: begin, go on, and tidy up."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dials_hybrid_refine.command_line.launch import CHOICE
from dials_hybrid_refine.diffraction.ranks import Ranks
from dials_hybrid_refine.io.checkpoint import (
    Provenance,
    decisive_parameters,
    read_checkpoint,
    saver,
)
from dials_hybrid_refine.io.command_input import CommandInput
from dials_hybrid_refine.io.summary_json import InputFiles
from dials_hybrid_refine.io.versions import versions
from dials_hybrid_refine.models.effects import NamedEffect
from dials_hybrid_refine.refinement.journal import Journal

logger = logging.getLogger("dials.hybrid_refine")


def begin_journal(
    command: CommandInput, files: InputFiles, effects: Sequence[NamedEffect], ranks: Ranks
) -> Journal:
    """The journal of a run, with what the run it goes on from has done.

    Of several processes the first writes it, when all have read what they go on from.

    Raises:
        ValueError: for a checkpoint that cannot be read or belongs to another refinement, or if
            processes do not have the same files, parameters and checkpoint.
        ProcessLost: if a process has ended.
    """
    chosen = command.params.checkpoint
    provenance = Provenance(
        files.digests,
        decisive_parameters(command.changed),
        versions(),
        {effect.name: f"{effect.package} {effect.version}" for effect in effects},
    )
    journal = Journal()
    if chosen.resume is not None:
        journal = read_checkpoint(chosen.resume, provenance)
        logger.info("Going on from %s", chosen.resume)
    elif chosen.file is not None and Path(chosen.file).exists():
        logger.warning(
            "%s of a run that was not finished will be replaced: to go on from there instead, stop now "
            "and add checkpoint.resume=%s",
            chosen.file,
            chosen.file,
        )
    done = [entry.name for entry in (*journal.entries, journal.running) if entry is not None]
    if not ranks.agree(f"{provenance} {done}"):
        raise ValueError(
            "the processes of this run have different files, parameters, versions or checkpoints: give "
            f"all the same, or set {CHOICE}=none if each is to refine by itself"
        )
    if not ranks.is_first:
        return journal
    return replace(journal, save=saver(chosen.file, provenance), every=chosen.every)


def end_journal(checkpoint: Any, status: str) -> None:
    """Remove the checkpoint of a refinement whose results are written, unless it may go on.

    Args:
        checkpoint: the scope of that name.
        status: of the result.
    """
    if checkpoint.file is None:
        return
    if status == "converged":
        Path(checkpoint.file).unlink(missing_ok=True)
    elif status == "interrupted" and Path(checkpoint.file).exists():
        logger.info("To go on, repeat the command with checkpoint.resume=%s", checkpoint.file)
