"""Tables of scores and features on disk, and blends of them."""
