"""Recipes, scripts that measure, and their results as JSON."""
