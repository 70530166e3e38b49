"""Decode image files to arrays of the requested size and channels."""
