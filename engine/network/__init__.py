"""Bundles, and the networks in them behind one call."""
