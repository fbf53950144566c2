"""Jobs on Slurm: scripts, submission, the queue, failures and what is done about them."""
