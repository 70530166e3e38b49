"""Compare generated images with real ones: scores with intervals, copies, sweeps, likelihood."""
