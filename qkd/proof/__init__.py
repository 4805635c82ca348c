"""Proof that a device computes the graph's meaning, what that costs, and the results as data and pages."""
