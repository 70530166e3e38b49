"""Estimate what a training will cost and learn, before it starts."""
