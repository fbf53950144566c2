"""What a job and the submission share of Slurm: limits, sbatch, the backlog, requeues, policies."""
