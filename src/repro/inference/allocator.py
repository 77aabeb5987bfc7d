"""Memory that a process frees and takes again at every step."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # glibc's <malloc.h>


def keep_pages(keep: bool = True) -> None:
    """Let this process keep the memory it frees, for its next use; False: as glibc does.

    A step takes and frees as much memory as all gradients hold, a run as much again for AdamW.
    glibc hands large blocks back to the system, which must find and zero every page that is
    asked for again: 130,000 page faults and a fifth of the time of a step of SmolLM2-135M, and
    more at the start of a run. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0 if keep else 1 << 16)
    libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)  # where glibc's own adjustment ends, as does 64 MB
    libc.mallopt(M_TRIM_THRESHOLD, -1 if keep else 64 << 20)
    if not keep:
        libc.malloc_trim(0)
