"""Measure the engine: stages, peers, budget."""
