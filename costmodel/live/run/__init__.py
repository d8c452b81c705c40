"""One run: what is asked, how it is started, the schedule, the harness, what is kept."""
