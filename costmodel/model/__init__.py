"""Physics: what a kernel does for a shape and how long that takes; pure functions of arrays."""
