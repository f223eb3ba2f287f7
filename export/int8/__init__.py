"""Products of a network in 8 bits: windows to measure on, rounded weights, sensitivity, and which products they are."""
