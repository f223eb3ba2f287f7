"""Learn from labelled recordings: probe, heads, priors, evaluation, synthetic data."""
