"""How well something hears: evaluation, probe, priors."""
