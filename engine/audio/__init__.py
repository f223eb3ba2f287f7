"""Find recordings, read their names, decode them."""
