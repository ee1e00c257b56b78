"""What is claimed about speed, runnable. Only in a checkout: it is in no wheel."""
