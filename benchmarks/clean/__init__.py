"""What the checks of strangers' files cost on clean ones."""
