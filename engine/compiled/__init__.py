"""Our own kernels: a network's layers in, one native function out that runs one input with one arena."""
