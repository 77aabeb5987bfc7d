#!/usr/bin/env bash
# A study on SLURM without Snakemake: two arrays of N parts, the second after the first.
#   MODEL=llama-3-8b PROFILE=full N=16 bash workflow/slurm_array.sh --gres=gpu:1 --mem=160G --time=4:00:00
# REPRO_CACHE must be a folder that every node sees. The words after the script's name go to sbatch.
set -euo pipefail
: "${MODEL:?set MODEL}" "${REPRO_CACHE:?set REPRO_CACHE to a folder that every node sees}"
N=${N:-4} PROFILE=${PROFILE:-default}
part="repro run '$MODEL' --profile '$PROFILE' --part \$SLURM_ARRAY_TASK_ID/$N"
mastery=$(sbatch --parsable --array="1-$N" --requeue "$@" --wrap "$part")
runs=$(sbatch --parsable --array="1-$N" --requeue --dependency="afterok:$mastery" "$@" --wrap "$part")
sbatch --parsable --dependency="afterok:$runs" "$@" \
  --wrap "repro run '$MODEL' --profile '$PROFILE' --missing && repro export '$MODEL' --profile '$PROFILE'"
