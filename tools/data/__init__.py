"""Labelled recordings, real and synthetic."""
