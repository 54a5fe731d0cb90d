import platform
import subprocess
import sys

import pytest

# Takes and frees 24 MB in a thread, as a training step does, and counts page faults of the later times.
PROGRAM = """
import ctypes, resource, sys, threading
from training.launch.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_void_p], [ctypes.c_size_t]

def step():
    blocks = [libc.malloc(4 * 2**20) for _ in range(6)]
    for block in blocks:
        ctypes.memset(block, 1, 4 * 2**20)
    for block in blocks:
        libc.free(block)

def train():
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        step()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 5)

thread = threading.Thread(target=train)
thread.start()
thread.join()
"""


def _faults_a_step(how: str) -> float:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's own settings")
def test_what_a_step_frees_the_next_one_finds_again() -> None:
    pages = 24 * 2**20 / 4096
    assert _faults_a_step("usual") > pages / 4, "without it this would test nothing"
    assert _faults_a_step("kept") < pages / 100
