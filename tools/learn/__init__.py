"""Features, heads and small backbones."""
