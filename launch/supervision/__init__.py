"""Supervisors of the ranks of a job: one a rank, which starts it, watches it and starts it again with all others."""
