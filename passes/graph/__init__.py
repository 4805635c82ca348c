"""Passes over the integer graph: QuantGraph → QuantGraph."""
