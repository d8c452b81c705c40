"""Live measurement: run the op on the machine at hand, and keep honest numbers of it."""
