"""ktool's command line: click commands and rich output, nothing else."""
