#!/usr/bin/env bash
# Refines the data set of a folder, or goes on with it: refine_folder.sh FOLDER [NAME=VALUE ...]
set -euo pipefail
export OMP_NUM_THREADS=1
cd "$1"
shift

summary=dials.hybrid_refine.json
checkpoint=hybrid_refine.checkpoint
if grep -qs '"status": "converged"' "$summary"; then exit 0; fi
# what is there from an earlier run is no result of this one
rm -f "$summary"
resume=
if [ -e "$checkpoint" ]; then resume=checkpoint.resume=$checkpoint; fi

# exec, so that signals reach the program
exec dials.hybrid_refine integrated.expt integrated.refl model.cif ${resume:+"$resume"} "$@" \
    2> dials.hybrid_refine.err
