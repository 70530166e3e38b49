"""Show runs side by side on one self-contained HTML page."""
