"""The classifier that says which labels an image shows."""
