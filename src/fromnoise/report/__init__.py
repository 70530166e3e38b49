"""Show runs side by side on one self-contained HTML page."""

from fromnoise.report.report import write_report

__all__ = ["write_report"]
