"""Estimate what a training costs and learns on this machine, before it starts."""
