"""`tests.serve.slow_teacher:build`: the real graph with a teacher that sleeps for 40 ms a row.

It needs no core while it sleeps, so that a machine with two can show three of them at work.
"""

import time
from unittest.mock import patch

from ray import serve

import apps.load
from apps.args import AppArgs
from apps.graph import build as build_graph
from apps.model import Model

ROW_S = 0.04


class SlowRunner:
    def __init__(self, runner):
        self._runner = runner

    def __call__(self, rows_B):
        time.sleep(ROW_S * len(rows_B))
        return self._runner(rows_B)

    def __getattr__(self, name):
        return getattr(self._runner, name)


class SlowTeacher(Model):
    """Only this class's replicas run in their process, so what it puts in place of `open_runner` slows no other."""

    def __init__(self, source):
        with patch("apps.load.open_runner", _open_slow(apps.load.open_runner)):
            super().__init__(source)


def _open_slow(open_runner):
    return lambda *arguments, **settings: SlowRunner(open_runner(*arguments, **settings))


def build(args: AppArgs) -> serve.Application:
    with patch("apps.graph.Model", SlowTeacher):
        return build_graph(args)
