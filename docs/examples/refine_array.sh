#!/usr/bin/env bash
#SBATCH --cpus-per-task=4
#SBATCH --mem=4G
#SBATCH --time=02:00:00
#SBATCH --signal=B:INT@120
set -euo pipefail

# the signal comes two minutes before the end: the program writes what it has
folder=$(sed -n "${SLURM_ARRAY_TASK_ID}p" folders.txt)
exec bash refine_folder.sh "$folder" nproc="${SLURM_CPUS_PER_TASK:-1}" memory=3 "$@"
