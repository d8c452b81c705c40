"""One run: what is asked, the schedule, the harness, the directory, the processes."""
