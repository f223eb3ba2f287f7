"""The commands of the engine: parse, call, print."""
