"""The real op on ROCm GPUs, through AITER."""
