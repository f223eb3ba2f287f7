"""A whole run: threads, order, the deadline, what is written and said."""
