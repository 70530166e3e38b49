"""Check the settings, time and memory of a training on this machine, before it starts."""
