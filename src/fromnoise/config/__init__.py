"""The recipe: its schema, its components by name, its overrides, and its errors."""
