"""Measurements of speed and of the method. Part of a checkout only, not of the wheel."""
