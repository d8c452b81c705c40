"""The command line: options and printing, nothing else."""
