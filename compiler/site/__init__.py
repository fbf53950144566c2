"""A cluster: its profile, what Slurm tells of it, its draft and its doctor."""
