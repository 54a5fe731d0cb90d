"""What a serving process asks of the interpreter, asked in a process of its own."""

import json
import subprocess
import sys

from apps.launcher.local import ROOT

PROGRAM = """
import gc, json, sys
from apps.interpreter import settle
kept = [[number] for number in range(50_000)]
settle()
print(json.dumps([gc.isenabled(), gc.get_freeze_count(), len(gc.get_objects()), sys.getswitchinterval()]))
"""


def test_what_is_loaded_is_collected_no_more_and_what_comes_is():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    is_enabled, frozen, watched, switch_interval_s = json.loads(done.stdout)
    assert is_enabled
    assert frozen > 50_000 > watched
    assert switch_interval_s < 0.001
