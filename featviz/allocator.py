"""How the C library hands out memory on Linux: what is freed is kept for the next step of an ascent."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def keep_memory() -> bool:
    """Keep freed memory in the process; whether that could be asked for.

    Tensors over 32 MiB are otherwise given back and fetched anew at each use, cleared page by page: a quarter
    of a large dream's time. It holds for the whole process, so the command line asks for it, not the library.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(_TRIM_THRESHOLD, (1 << 31) - 1))
