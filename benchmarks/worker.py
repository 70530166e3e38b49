"""One contestant: builds its work, then does a round of it whenever its line says so.

`worker.py MODULE:FUNCTION OPTIONS`. The function returns a `Work`. Answers are lines of JSON.
"""

import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "contestants"))


def main() -> None:
    """Serve until told to end."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer

    def answer(**facts: object) -> None:
        print(json.dumps(facts), file=answers, flush=True)

    module, function = sys.argv[1].split(":")
    work = getattr(importlib.import_module(module), function)(**json.loads(sys.argv[2]))
    answer(how=work.how, images=work.images)
    for line in sys.stdin:
        if line.strip() == "end":
            answer(peak_gib=peak_gib(work.device))
            return
        started = time.perf_counter()
        work.round()
        wait_for(work.device)
        answer(seconds=time.perf_counter() - started)


def wait_for(device: str) -> None:
    """A GPU works on after the call has returned."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize(device)


def peak_gib(device: str) -> float:
    """Of this process; on a GPU, of the device."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**30
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, whose ru_maxrss begins with what the process that forked had
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20  # kB
    kept = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kept / (2**30 if sys.platform == "darwin" else 2**20)


if __name__ == "__main__":
    main()
