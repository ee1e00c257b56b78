"""The stages of training: a small backbone, Stage I (map) and Stage II (compose)."""
