"""Stages on SLURM: scripts, submission, the queue, and what happens around a job's ranks."""
