"""One file per outside system: its library is imported here and nowhere else."""
