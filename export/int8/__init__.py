"""int8 forms of a network: weights rounded on recordings, products chosen by what they cost and what they do."""
