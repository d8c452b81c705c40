"""The project's own kernels, in Triton."""
