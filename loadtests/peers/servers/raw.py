"""No server: what ONNX Runtime alone does with the model on one thread, and what the right answers are.

`speed` prints images a second by batch size as JSON; `answers` writes the logits of images in an .npy file.
"""

import argparse
import json
import time

import numpy as np

from loadtests.peers.servers.session import SHAPE_CHW, open_session, run


def images_per_s(model: str, rows: int, seconds: float) -> float:
    session = open_session(model)
    images_BCHW = np.random.default_rng(0).integers(0, 256, (rows, *SHAPE_CHW), np.uint8)
    calls, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        run(session, images_BCHW)
        calls += 1
    return calls * rows / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    speed = commands.add_parser("speed")
    speed.add_argument("--seconds", type=float, default=2.0)
    answers = commands.add_parser("answers")
    answers.add_argument("--images", required=True)
    answers.add_argument("--out", required=True)
    for command in (speed, answers):
        command.add_argument("--model", required=True)
    arguments = parser.parse_args()
    if arguments.command == "speed":
        print(json.dumps({rows: images_per_s(arguments.model, rows, arguments.seconds) for rows in (1, 32)}))
    else:
        np.save(arguments.out, run(open_session(arguments.model), np.load(arguments.images)))


if __name__ == "__main__":
    main()
