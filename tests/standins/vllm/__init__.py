"""A stand-in for vLLM on CPUs: its add + RMSNorm in place, none of its code."""
