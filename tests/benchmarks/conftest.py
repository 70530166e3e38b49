"""The modules of `benchmarks/` are plain scripts: they import each other by name alone."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
