"""Perch v2: its table, its weights out of a file, its torch definition, its stand-in."""
