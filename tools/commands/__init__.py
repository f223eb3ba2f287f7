"""``bce-tools``: a module for each command."""
