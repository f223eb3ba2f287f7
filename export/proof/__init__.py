"""The proof that a bundle gives the numbers of its source."""
