"""``bce-export``: options, putting a bundle together, the command."""
