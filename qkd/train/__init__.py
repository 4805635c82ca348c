"""The training loop and all that it keeps: state, checkpoints, teachers' knowledge."""
