"""Run one contestant: build its workload, then run a round for each line of standard input.

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
from work import Work, forget_peak


def main() -> None:
    """Answer requests until `end`."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keep the output of libraries out of the answers

    def answer(**facts: object) -> None:
        print(json.dumps(facts), file=answers, flush=True)

    module, function = sys.argv[1].split(":")
    work = getattr(importlib.import_module(module), function)(**json.loads(sys.argv[2]))
    if work.device != "cpu":  # exclude the memory for building it
        forget_peak(work.device)
    answer(how=work.how, images=work.images, chosen=work.chosen)
    for line in sys.stdin:
        what, *times = line.split()
        if what == "end":
            answer(peak_gib=peak_gib(work.device))
            return
        if what == "profile":
            answer(table=profiled(work))
        else:
            answer(seconds=seconds_of(work, int(times[0])))


def seconds_of(work: Work, times: int) -> float:
    """Repeat the workload; return the mean seconds."""
    started = time.perf_counter()
    for _ in range(times):
        work.round()
    wait_for(work.device)
    return (time.perf_counter() - started) / times


def profiled(work: Work) -> str:
    """Profile three rounds; return torch's table of operations and kernels."""
    from torch.profiler import ProfilerActivity, profile

    kinds, order = [ProfilerActivity.CPU], "self_cpu_time_total"
    if work.device != "cpu":
        kinds, order = [*kinds, ProfilerActivity.CUDA], "self_device_time_total"
    with profile(activities=kinds) as found:
        for _ in range(3):
            work.round()
        wait_for(work.device)
    return found.key_averages().table(sort_by=order, row_limit=40, max_name_column_width=80)


def wait_for(device: str) -> None:
    """Wait for a GPU, which computes asynchronously."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize(device)


def peak_gib(device: str) -> float:
    """Return the peak memory of this process (on a GPU, of the device)."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**30
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux, ru_maxrss includes the memory of the parent at the fork
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20  # kB
    kept = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kept / (2**30 if sys.platform == "darwin" else 2**20)


if __name__ == "__main__":
    main()
