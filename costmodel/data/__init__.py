"""What is known: measurements and their readers, hardware, kernels, models, workloads, facts."""
