#!/usr/bin/env bash
#SBATCH --cpus-per-task=4
#SBATCH --mem=4G
#SBATCH --time=02:00:00
#SBATCH --signal=B:INT@120
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(sed -n "${SLURM_ARRAY_TASK_ID}p" folders.txt)
cd "$folder"
# exec, so that the signal reaches the program: two minutes before the end it writes what it has
exec dials.hybrid_refine integrated.expt integrated.refl model.cif \
    nproc="${SLURM_CPUS_PER_TASK:-1}" memory=3 "$@"
