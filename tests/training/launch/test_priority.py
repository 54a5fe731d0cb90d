import subprocess
import sys

import pytest

PROGRAM = """
import os, threading
from training.launch.priority import give_way
ready, done, found = threading.Event(), threading.Event(), []
def before():
    ready.set()
    done.wait()
    found.append(os.getpriority(os.PRIO_PROCESS, 0))
threads = [threading.Thread(target=before)]
threads[0].start()
ready.wait()
give_way()
give_way()
threads.append(threading.Thread(target=before))
threads[1].start()
done.set()
for thread in threads:
    thread.join()
print(os.getpriority(os.PRIO_PROCESS, 0), *found)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="niceness is each thread's own on Linux alone")
def test_every_thread_gives_way_once_those_begun_before_and_those_to_come() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["10", "10", "10"]
