"""Passes that train: TrainState → TrainState."""
