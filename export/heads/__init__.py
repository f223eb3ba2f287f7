"""Heads trained on block features, and the files they come in."""
