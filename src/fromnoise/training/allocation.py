"""What happens on a CPU to the memory that a step frees."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as malloc.h numbers them
LARGEST = 32 * 2**20  # bytes; above it glibc maps every block anew, whatever it is told


def keep_freed_memory() -> None:
    """Let this process keep what a step frees, for the next step to take again.

    Otherwise glibc gives it back to the system, and the next step gets new pages, each with a fault
    and full of zeros: 27,000 in a step of `stacked`, a tenth of its time. Where there is no glibc,
    nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
