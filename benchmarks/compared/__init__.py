"""What the SDK is compared with: PyTorch eager and compiled, on a processor and on a GPU."""
