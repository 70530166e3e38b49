"""A run, or several side by side, as one HTML page that needs nothing else."""

from fromnoise.report.report import write_report

__all__ = ["write_report"]
