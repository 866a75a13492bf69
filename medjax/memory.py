"""How this process takes memory from the system, which a CPU program that allocates a gigabyte a step feels."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys

# glibc, malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
MADV_HUGEPAGE = 14
SHARE = 4  # a fourth of the machine's memory is reserved, as addresses; it is taken only as it is written to


@functools.cache
def keep_freed_memory() -> bool:
    """Have the allocator keep what is freed and take it in large pages; True where that could be set (Linux with glibc).

    XLA allocates the temporary memory of a CPU program anew at each call. By default glibc maps blocks of that size from the
    system and gives them back, so that every step faults in, and the kernel clears, every page again: a tenth to a fifth of a
    training step. What is kept in exchange is the process's peak memory, until it ends. It must come before JAX starts its
    threads, whose blocks would lie elsewhere. The first compilation takes some two thirds longer, since its threads now share
    one heap. MEDJAX_KEEP_MEMORY=off leaves all as it is. Called again, it does nothing.
    """
    if not sys.platform.startswith("linux") or os.environ.get("MEDJAX_KEEP_MEMORY") == "off":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "gnu_get_libc_version"):  # musl has none of this
        return False
    for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_ARENA_MAX, 1)):  # -1: never
        if not libc.mallopt(option, value):
            return False
    with contextlib.suppress(OSError, ValueError, AttributeError):
        _advise_large_pages(libc)
    return True


def give_back_memory() -> None:
    """Return what is free now to the system: after compiling, which takes gigabytes that no step needs again."""
    if keep_freed_memory():
        ctypes.CDLL(None).malloc_trim(0)


def _advise_large_pages(libc: ctypes.CDLL) -> None:
    """Reserve addresses at the heap's end and ask for large pages there (madvise(2), MADV_HUGEPAGE)."""
    page = 2 << 20
    libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
    libc.free.argtypes, libc.malloc.argtypes, libc.sbrk.argtypes = [ctypes.c_void_p], [ctypes.c_size_t], [ctypes.c_ssize_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // SHARE
    begin = libc.sbrk(0)
    block = libc.malloc(size)
    if not block:  # the system reserves no more than it has
        return
    libc.free(block)
    begin, end = -(-begin // page) * page, libc.sbrk(0) // page * page
    if end > begin:
        libc.madvise(begin, end - begin, MADV_HUGEPAGE)
