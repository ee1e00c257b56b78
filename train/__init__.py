"""Training in PyTorch: the backbone, Stage I (mapping) and Stage II (composing)."""
