"""Stages: what a person sees of a long step, in a log and on a terminal."""

import io
import os
import sys

import pytest
from rich.console import Console

from apps.launcher.process import ProcessError
from apps.launcher.stages import Stages, newest_line


def plain():
    return Console(file=io.StringIO(), width=200)


def run(stages, tmp_path, code, **options):
    return stages.run(
        "Train it", [sys.executable, "-c", code], env=os.environ, log_path=tmp_path / "t.log", cwd=tmp_path, **options
    )


def said(stages):
    return stages.console.file.getvalue()


def test_a_stage_says_that_it_began_and_how_long_it_took(tmp_path):
    stages = Stages(plain())
    run(stages, tmp_path, "pass")
    assert said(stages).startswith("Train it ...\n✓ Train it ")
    assert said(stages).endswith(" s\n")


def test_the_output_goes_to_the_log_and_its_newest_line_to_the_console(tmp_path):
    stages = Stages(plain(), note_every_s=0.0)
    run(stages, tmp_path, "import time; print('epoch 1 [bold] of 3', flush=True); time.sleep(0.6)")
    assert (tmp_path / "t.log").read_text() == "epoch 1 [bold] of 3\n"
    assert said(stages).count("Train it: epoch 1 [bold] of 3") == 1


def test_a_failed_stage_shows_the_end_of_its_log_and_where_it_lies(tmp_path):
    stages = Stages(plain())
    with pytest.raises(ProcessError, match=r"Train it failed with status 4[\s\S]*t\.log[\s\S]*out of data"):
        run(stages, tmp_path, "print('out of data'); raise SystemExit(4)")
    assert "✗ Train it" in said(stages)


def test_a_status_may_be_an_answer_instead_of_a_failure(tmp_path):
    assert run(Stages(plain()), tmp_path, "raise SystemExit(1)", check=False) == 1


def test_on_a_terminal_the_stage_spins_and_leaves_one_line(tmp_path):
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    run(Stages(console), tmp_path, "import time; print('half [way]', flush=True); time.sleep(0.6)")
    text = console.file.getvalue()
    assert "half [way]" in text
    assert "0:00:00" in text
    assert "✓" in text.splitlines()[-1]


def test_the_newest_telling_line_is_found_among_the_libraries_chatter():
    log = (
        "epoch 1/40\n"
        "\x1b[36m(RayTrainWorker pid=7)\x1b[0m epoch 2/40 loss 0.5\n"
        "(RayTrainWorker pid=7) HTTP Request: GET /health\n"
        "2026-11-20 12:11:39,220 INFO worker.py:2029 -- Connected\n"
        "(RayTrainWorker pid=7) Reported checkpoint=Checkpoint(filesystem=local, path=/x)\n\n"
    )
    assert newest_line(log) == "epoch 2/40 loss 0.5"
    assert newest_line("INFO only\n") == ""
