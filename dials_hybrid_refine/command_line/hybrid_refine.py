# LIBTBX_SET_DISPATCHER_NAME dials.hybrid_refine
"""Refine a crystal structure against 3D electron diffraction data integrated by DIALS.

Electrons are scattered so strongly that intensities follow many-beam (dynamical) theory. This
program simulates them by the Bloch-wave equations, together with a neural network that learns
the distribution of the crystal's thickness as a function of the rotation angle, and refines the
structure, thickness, orientation and scales together by one gradient.

It reads the experiments and reflections that dials.integrate or dials.scale has written (raw
intensities are used in both cases) and a starting structure as CIF, SHELX .ins or .res, or PDB.
It writes the refined structure with standard uncertainties, the experiments with the refined
orientation, the reflections with calculated intensities, and a summary as JSON; on request a SHELX model
(output.res) and merged intensities freed of dynamical effects (output.hkl, output.mtz).

The hand of the structure is used as given: the space group of the experiments is no evidence
of it and is never used to invert or reindex anything. Where the space group has no centre of
symmetry the inverse of the structure is refined too, and the log says which of them the data favour.

Examples::

  dials.hybrid_refine integrated.expt integrated.refl model.cif

  dials.hybrid_refine scaled.expt scaled.refl model.ins d_min=0.7 nproc=4

  dials.hybrid_refine integrated.expt integrated.refl model.cif thickness.model=constant

  dials.hybrid_refine first.expt first.refl second.expt second.refl model.cif crystals.exclude_bad=True
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

import iotbx.phil
from dials.util import show_mail_handle_errors
from smtbx.refinement.constraints import InvalidConstraint

from dials_hybrid_refine.command_line.failure_note import noted_failure
from dials_hybrid_refine.command_line.refine_checkpoint import begin_journal, end_journal
from dials_hybrid_refine.command_line.refine_crystals import refined_crystals, settled
from dials_hybrid_refine.command_line.refine_data_checks import check_data, with_data_checks
from dials_hybrid_refine.command_line.refine_files import check_formats
from dials_hybrid_refine.command_line.refine_input import (
    InputData,
    check_limits,
    read_input,
    virtual_frames,
)
from dials_hybrid_refine.command_line.refine_options import refinement_options
from dials_hybrid_refine.command_line.refine_output import (
    check_output,
    refined_data,
    refined_geometry,
    write_output,
)
from dials_hybrid_refine.command_line.refine_ranks import (
    going_on_from,
    joined_ranks,
    log_ranks,
)
from dials_hybrid_refine.command_line.start import errors_for_users, start
from dials_hybrid_refine.io.effect_plugins import (
    make_effects,
    parse_with_effects,
    warn_of_broken,
)
from dials_hybrid_refine.io.refine_phil import REFINE_PHIL
from dials_hybrid_refine.io.run_lock import sole_writer
from dials_hybrid_refine.models.effects import EffectContext
from dials_hybrid_refine.refinement.first_steps import STEPS_BEFORE_RESCAN
from dials_hybrid_refine.refinement.program import run_refinement
from dials_hybrid_refine.refinement.result import Result
from dials_hybrid_refine.refinement.schedule import Controls
from dials_hybrid_refine.report.log_result import log_result
from dials_hybrid_refine.report.progress import show_iterations, stop_on_signal

phil_scope = iotbx.phil.parse(REFINE_PHIL, process_includes=True)


@contextmanager
def explained_failures(structure: str) -> Iterator[None]:
    """Turn what libraries raise for an unsuitable model into sentences.

    Args:
        structure: name of the structure file.

    Raises:
        ValueError: instead of their errors.
    """
    try:
        yield
    except InvalidConstraint as error:
        raise ValueError(
            f"{structure}: {error}: correct its AFIX instructions or remove them"
        ) from error
    except MemoryError as error:
        raise ValueError(
            str(error) or "there is too little memory: lower beams.g_max or nproc"
        ) from error
    except (ArithmeticError, torch.linalg.LinAlgError) as error:
        raise ValueError(
            f"the refinement of {structure} broke down ({error}): start from a better model, or "
            "refine fewer parameters first"
        ) from error


@show_mail_handle_errors()
def run(args: Sequence[str] | None = None, phil: Any = phil_scope) -> None:
    """Run the program with command-line arguments (default: those of the process)."""
    usage = "dials.hybrid_refine [options] integrated.expt integrated.refl model.cif"
    arguments = list(sys.argv[1:] if args is None else args)
    # the errors of all processes are known when ``joined_ranks`` ends
    with errors_for_users(), ExitStack() as held, joined_ranks() as ranks:
        command, plugins = parse_with_effects(phil, usage, __doc__, arguments or ["-h"])
        check_limits(command.params)
        checkpoint = command.params.checkpoint
        if ranks.is_first:
            held.enter_context(sole_writer("output.log", command.params.output.log))
            start(
                command,
                "dials.hybrid_refine",
                lambda files, inputs: check_output(files, inputs, checkpoint.file),
            )
            held.enter_context(noted_failure(command.params.output.json))
        log_ranks(ranks)
        warn_of_broken(plugins)
        data = read_input(command)
        check_formats(command.params, data.model)
        options = refinement_options(command.params, ranks)
        virtual_frames(command.params, data)
        effects = make_effects(plugins, command.params, EffectContext(data.scans))
        journal = begin_journal(command, data.files, effects, ranks)
        most = (
            STEPS_BEFORE_RESCAN
            + options.schedule.coarse_steps
            + options.schedule.cycles * options.schedule.steps_per_cycle
        )
        with (
            going_on_from(checkpoint.file),
            stop_on_signal() as should_stop,
            show_iterations(most, ranks.is_first) as observer,
            explained_failures(data.files.structure),
        ):
            controls = Controls(observer, lambda: ranks.any(should_stop()), journal)
            data = settled(command, data, options, journal)
            is_checked = command.params.data_checks and ranks.is_first
            findings = check_data(data, options) if is_checked else {}

            def refine(data: InputData) -> Result:
                return run_refinement(
                    data.scans,
                    data.observations,
                    data.model.structure,
                    options,
                    controls,
                    data.model.constraints,
                    make_effects(plugins, command.params, EffectContext(data.scans)),
                    frames=virtual_frames(command.params, data),
                    disorder=data.model.disorder,
                    restraints=data.model.restraints,
                )

            data, result = refined_crystals(data, refine)
        if is_checked:
            result = with_data_checks(result, findings, data, options)
        if ranks.is_first:
            geometry = refined_geometry(result, data)
            log_result(result, geometry, [crystal.record for crystal in data.crystals])
            experiments, reflections = refined_data(data, result)
            # called from here so that dxtbx records this program in the history of the file
            write_output(
                command,
                options,
                data,
                result,
                geometry,
                reflections,
                lambda path: experiments.as_file(path),
            )
            end_journal(checkpoint, result.status)
    if result.status == "interrupted":
        sys.exit(130)


if __name__ == "__main__":
    run()
