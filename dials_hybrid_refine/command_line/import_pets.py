# LIBTBX_SET_DISPATCHER_NAME dials.import_pets
"""Import 3D electron diffraction data processed with PETS2, for dials.hybrid_refine.

Reads a .cif_pets file, as PETS2 and dials.export format=pets write them, and writes an
experiment (beam, rotation axis, scan, crystal with an orientation for each angle) and integrated
reflections. Units are those of DIALS: Angstrom, degrees, intensities as in the file. The axes are
those of PETS2: the beam travels along -z, the crystal turns about x.

An intensity that overlapping frames repeat becomes one reflection, integrated over its passage
through the Ewald sphere; intensities that differ between frames become one reflection each,
integrated over the range of rotation of the frame. The columns phi_start and phi_end hold these
ranges in degrees. Which of the two was found is written to the log; intensities= overrules it.

Examples::

  dials.import_pets data.cif_pets

  dials.hybrid_refine imported_pets.expt imported_pets.refl model.cif
"""

from __future__ import annotations

import hashlib
import logging
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch  # noqa: F401  before DIALS, which would limit it to one thread

import iotbx.phil
from dials.util import show_mail_handle_errors
from dxtbx.model import ExperimentList

from dials_hybrid_refine.command_line.start import errors_for_users, start
from dials_hybrid_refine.io.command_input import exactly_one, naming, parse_command_line
from dials_hybrid_refine.io.output_files import write_atomically
from dials_hybrid_refine.io.pets import read_pets
from dials_hybrid_refine.io.pets_import import import_pets
from dials_hybrid_refine.io.reflection_file import write_reflections
from dials_hybrid_refine.refinement.frames import FrameFilter

logger = logging.getLogger("dials.import_pets")

phil_scope = iotbx.phil.parse(
    """
input {
  experiments = None
    .type = path
    .multiple = True
    .expert_level = 3
    .help = "Not used."
  reflections = None
    .type = path
    .multiple = True
    .expert_level = 3
    .help = "Not used."
}
unit_cell = *cell UB
  .type = choice
  .help = "Where the unit cell of the file and that of its orientation matrix UB differ. cell: the"
          "stated one, in the orientation of UB: it has the symmetry of the crystal. UB: that of UB."
intensities = *auto whole_passages frames
  .type = choice
  .help = "What an intensity is the integral of. auto: what neighbouring frames say. whole_passages:"
          "the rocking curve. frames: the range of rotation of its frame, which is how programs that"
          "work frame by frame take it; a reflection then counts in each frame that lists it."
frames {
  rsg = None
    .type = float(value_min=0)
    .help = "With intensities of frames: reflections are left out whose excitation error S in the"
            "middle of the frame is not below rsg times dS, by which it changes until the end of"
            "the frame. None: 0.66 where frames repeat intensities or dsg is given, else all"
            "are taken."
  dsg = None
    .type = float(value_min=0)
    .help = "With intensities of frames: and those of which dS - |S| is not above dsg (1/Angstrom)."
            "None: 0.0015 wherever rsg applies."
}
window {
  excitation_error = 0.01
    .type = float(value_min=1e-4, value_max=0.1)
    .help = "Where intensities are those of whole passages: the excitation error (1/Angstrom) at"
            "which the ranges of integration end. Slow reflections, whose range would be longer"
            "than 4 degrees, end as early as at half of it."
}
output {
  experiments = imported_pets.expt
    .type = path
    .help = "The experiment. None: not written; so for all output files."
  reflections = imported_pets.refl
    .type = path
    .help = "The reflections, with their windows of rotation in phi_start and phi_end."
  log = dials.import_pets.log
    .type = path
}
""",
    process_includes=True,
)


def _identifier(path: str) -> str:
    """The same for the same file."""
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return str(uuid.uuid5(uuid.NAMESPACE_OID, digest))


def _frame_filter(params: Any) -> FrameFilter | None:
    given = {name: value for name in ("rsg", "dsg") if (value := getattr(params, name)) is not None}
    return FrameFilter(**given) if given else None


@show_mail_handle_errors()
def run(args: Sequence[str] | None = None, phil: Any = phil_scope) -> None:
    """Run the program with command-line arguments (default: those of the process)."""
    usage = "dials.import_pets [options] data.cif_pets"
    arguments = list(sys.argv[1:] if args is None else args)
    with errors_for_users():
        command = parse_command_line(phil, usage, __doc__, arguments or ["-h"])
        params = command.params
        start(command, "dials.import_pets")
        remedy = "dials.import_pets needs a .cif_pets file"
        for name in (*command.experiments, *command.reflections):
            raise ValueError(f"{name} is not needed: {remedy}")
        path = exactly_one(command.structures, "PETS2 file", remedy)
        with naming(path):
            data = read_pets(path)
            imported = import_pets(
                data,
                params.window.excitation_error,
                _identifier(path),
                params.unit_cell,
                params.intensities,
                _frame_filter(params.frames),
            )
        for message in imported.messages:
            logger.info("%s", message)
        for warning in imported.warnings:
            logger.warning("%s: %s", path, warning)
        experiments = ExperimentList([imported.experiment])
        if params.output.experiments is not None:
            logger.info("Saving the experiment to %s", params.output.experiments)
            write_atomically(params.output.experiments, lambda name: experiments.as_file(name))
        if params.output.reflections is not None:
            n = len(imported.reflections)
            logger.info("Saving %d reflections to %s", n, params.output.reflections)
            write_atomically(
                params.output.reflections,
                lambda name: write_reflections(imported.reflections, name),
            )


if __name__ == "__main__":
    run()
