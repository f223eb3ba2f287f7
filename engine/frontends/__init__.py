"""Audio to the input of a network, a module for each kind."""
