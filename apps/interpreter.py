"""What a serving process asks of the Python interpreter; Python's own settings are for programs of one thread."""

import gc
import sys

# A model's thread that has its answer waits this long for the event loop to hand over the interpreter, and once more
# for each batch that it takes; Python's 5 ms are longer than a small model's call.
SWITCH_INTERVAL_S = 0.0002
# Allocations between collections: a request makes hundreds of objects, nearly all of which go with it.
YOUNG_OBJECTS = 10_000


def settle() -> None:
    """Call it when what the process keeps is loaded: collections look at none of that again."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 100)
