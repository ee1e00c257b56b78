"""What each rule for texts adds: on the validation queries, and on held-out training photos."""
