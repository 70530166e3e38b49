"""One stage of one contestant: calls a function once and keeps what it returns.

`stage.py MODULE:FUNCTION OPTIONS FILE`. The function is one of contestants/, OPTIONS are its
arguments as JSON, and FILE, which is there only when all is done, holds its answer as JSON.
"""

import importlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "contestants"))


def main() -> None:
    """Do what the line says."""
    module, function = sys.argv[1].split(":")
    answer = getattr(importlib.import_module(module), function)(**json.loads(sys.argv[2]))
    file = Path(sys.argv[3])
    writing = file.with_suffix(".writing")
    writing.write_text(json.dumps(answer) + "\n")
    writing.replace(file)


if __name__ == "__main__":
    main()
