"""A library becomes the folder that a firmware build takes in."""
