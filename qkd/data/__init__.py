"""Data sets, and how a pixel becomes a code."""
