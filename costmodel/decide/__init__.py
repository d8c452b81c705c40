"""A setting and a workload give a decision; everything that answers a question starts here."""
