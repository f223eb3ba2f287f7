"""Labelled synthetic soundscapes in BirdCLEF layout."""
