"""Train a recipe: the loop, its state, and the files in the run folder."""
