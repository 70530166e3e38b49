"""Render a synthetic data set of coloured solids, in the layout of i-CLEVR."""
