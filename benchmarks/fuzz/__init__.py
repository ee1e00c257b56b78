"""Files of strangers, made by chance: whether one of them does what it must not."""
