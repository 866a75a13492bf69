"""What is freed stays with the process: a block of the same size costs no page faults again."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")

# 20 blocks of 64 MB, written to and freed: 327,680 pages of 4 KB.
PROGRAM = """
import resource, sys
import numpy as np
from medjax.memory import keep_freed_memory

if sys.argv[1] == "kept":
    print(keep_freed_memory(), keep_freed_memory())

def use():
    np.empty(64 << 20, np.uint8)[::4096] = 1

use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    out = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True).stdout.split()
    if how == "kept" and out[:2] != ["True", "True"]:
        pytest.skip("not glibc's allocator")
    return int(out[-1])


def test_freed_memory_is_not_faulted_in_again():
    assert faults("kept") < 500 < 5000 < faults("as it comes")


def test_elsewhere_and_where_it_is_not_wanted_nothing_is_done(monkeypatch):
    from medjax import memory

    monkeypatch.setenv("MEDJAX_KEEP_MEMORY", "off")
    assert memory.keep_freed_memory.__wrapped__() is False
    monkeypatch.delenv("MEDJAX_KEEP_MEMORY")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory.keep_freed_memory.__wrapped__() is False
