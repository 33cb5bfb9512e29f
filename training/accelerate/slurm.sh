#!/usr/bin/env bash
# Training on several nodes under Slurm: sbatch slurm.sh --config ours-192 --data DIR --output DIR --train-batch-size 160
# Change: nodes, GPUs and hours below. Two minutes before the time is over the run is told to stop: it saves and exits,
# is put into the queue again, and goes on from its newest checkpoint. A run that fails is not started again.
#SBATCH --job-name=wbc-train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

folder=${WBC_ACCELERATE:-training/accelerate}   # sbatch runs a copy of this script, so it cannot look beside itself
gpus=${SLURM_GPUS_ON_NODE:-8}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=1 FIRST="$first" FOLDER="$folder" PROCESSES=$((SLURM_NNODES * gpus))

stopped=no
trap 'stopped=yes; scancel --signal=TERM "$SLURM_JOB_ID.0"' USR1

# --resume latest starts anew where there is no checkpoint yet, so the first start and every later one are one command.
# srun does not take over the number of cores by itself (Slurm 22.05 and later).
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-32}" --kill-on-bad-exit=1 bash -c '
  exec accelerate launch --config_file "$FOLDER/several_nodes.yaml" \
    --num_machines "$SLURM_NNODES" --num_processes "$PROCESSES" --machine_rank "$SLURM_NODEID" \
    --main_process_ip "$FIRST" --main_process_port 29500 \
    -m wbc_diffusers train --resume latest "$@"' wbc "$@" &
step=$!
wait "$step"   # ends early where the signal comes, so it is waited for again
status=$?
[ "$stopped" = yes ] && { wait "$step"; status=$?; }

if [ "$stopped" = yes ] && [ "$status" -ne 0 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
