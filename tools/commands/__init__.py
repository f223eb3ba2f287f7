"""``bce-tools``: a module for each command: parse, call, print."""
