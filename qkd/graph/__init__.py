"""The integer graph, its arithmetic, its meaning in NumPy and its file."""
