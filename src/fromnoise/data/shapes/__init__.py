"""A synthetic data set of colored solids, in the layout of i-CLEVR."""
