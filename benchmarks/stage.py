"""Run one stage of a contestant: call a function once and save its result.

`stage.py MODULE:FUNCTION OPTIONS FILE`. The function is in contestants/, and OPTIONS are its
arguments as JSON. FILE gets its result as JSON, and exists only when the stage is complete.
"""

import importlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "contestants"))


def main() -> None:
    """Run the stage of the command line."""
    module, function = sys.argv[1].split(":")
    answer = getattr(importlib.import_module(module), function)(**json.loads(sys.argv[2]))
    file = Path(sys.argv[3])
    writing = file.with_suffix(".writing")
    writing.write_text(json.dumps(answer) + "\n")
    writing.replace(file)


if __name__ == "__main__":
    main()
