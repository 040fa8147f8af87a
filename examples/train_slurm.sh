#!/bin/bash
# Train on several machines of a SLURM cluster: sbatch examples/train_slurm.sh recipes/lens/stage1.toml [--set a.b=c ...]
# Before the time limit SLURM sends SIGTERM: the run saves, ends, and is continued when the job is queued again.
#SBATCH --job-name=leanlens
#SBATCH --nodes=16
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 8 \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$first:29500" \
    -m leanlens train "$@"
