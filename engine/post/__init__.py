"""Logits to scores: priors, smoothing over time and taxonomy."""
