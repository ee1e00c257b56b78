"""The training loop: steps, processes, precision, logs, checkpoints and cached features."""
