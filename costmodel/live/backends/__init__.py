"""What runs the op: one interface, and a back end for each way of running it."""
