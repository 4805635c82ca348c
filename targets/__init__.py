"""Devices: what they are, how kernels are chosen for them and how they are run."""
