"""What a step frees is there for the next, and costs no page faults again."""

import ctypes
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from fromnoise.training.step import keep_freed_memory

STEPS = """
import ctypes, resource, sys
import torch
mallopt = ctypes.CDLL(None).mallopt
mallopt(-3, 2**17)  # every larger block is a mapping of its own, given back when it is freed
mallopt(-1, 2**17)
from fromnoise.training.step import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def step():
    kept = [torch.empty(6 * 2**20, dtype=torch.uint8).fill_(1) for _ in range(20)]
    kept = [each + 1 for each in kept]
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    command = [sys.executable, "-c", STEPS, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
@pytest.mark.skipif(
    HUGE.is_file() and "[always]" in HUGE.read_text(), reason="a fault brings 2 MiB at once"
)
def test_steps_after_the_first_take_no_new_pages():
    pages = 5 * 20 * 6 * 2**20 // 4096  # what the tensors of one moment of five steps are in
    assert faults("leave") > pages / 2
    assert faults("keep") < pages / 20


def test_where_there_is_no_glibc_nothing_happens(monkeypatch):
    class Other:
        """A C library without mallopt."""

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Other())
    keep_freed_memory()
