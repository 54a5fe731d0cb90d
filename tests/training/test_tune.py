import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from apps.launcher.local import LocalCluster
from training import tune
from training.registry import Registry
from training.tuning.ledger import Ledger, Trial
from training.tuning.space import parse_space
from training.tuning.sweep import Outcome, Request, SweepError, most_epochs

ROOT = Path(__file__).resolve().parents[2]
TOY = "tests.toys:image_recipe"
RATE = ("--range", "optimizer.lr=log:1e-4..1e-1")


def request(*arguments: str) -> Request:
    return tune._request(tune._parser().parse_args(arguments))


def documented() -> list[list[str]]:
    """The arguments of every command in docs/tuning.md."""
    text = (ROOT / "docs" / "tuning.md").read_text()
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[3:] for line in lines if line.startswith("python -m training.tune")]


@pytest.mark.parametrize("arguments", documented(), ids=" ".join)
def test_a_documented_command_asks_for_something_that_can_be_run(arguments: list[str]) -> None:
    asked = request(*arguments)
    space = parse_space(asked.recipe, asked.ranges)
    asked.method.require_fitting(space, asked.trials, most_epochs(asked.recipe, space))


def test_a_sweep_is_named_by_recipe_and_search_unless_told() -> None:
    assert request(TOY, *RATE).name == "tests.toys.image_recipe-asha"
    assert request("digits", "--search", "tpe", *RATE).name == "digits-tpe"
    assert request("digits", "--name", "mine", *RATE).name == "mine"


def test_the_longest_trial_counts_where_epochs_vary() -> None:
    asked = request(TOY, "--range", "epochs=int:2..7")
    assert most_epochs(asked.recipe, parse_space(asked.recipe, asked.ranges)) == 7
    asked = request(TOY, "--range", "epochs=choice:3,12,5")
    assert most_epochs(asked.recipe, parse_space(asked.recipe, asked.ranges)) == 12
    assert most_epochs(request(TOY, *RATE).recipe, parse_space(asked.recipe, RATE[1:])) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trials", "0"], "0 trials"),
        (["--name", "../x"], "cannot be a folder's"),
        (["--search", "pbt", "--max-concurrent", "2"], "leave --max-concurrent out"),
        (["--grace", "0"], "grace 0"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        request(TOY, *RATE, *arguments)


def _run_main(monkeypatch: pytest.MonkeyPatch, uri: str, tmp_path: Path, *arguments: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["training.tune", *arguments, "--storage", str(tmp_path)])
    tune.main()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such", *RATE], "training.tune: recipe 'no_such' is not one of digits"),
        ([TOY], "training.tune: a sweep needs at least one --range"),
        ([TOY, "--range", "optimizer.speed=lin:0..1"], "training.tune: unknown setting 'optimizer.speed'"),
        ([TOY, *RATE, "--grace", "4"], "training.tune: asha has nothing to decide"),
        ([TOY, *RATE, "--set", "task=no_such"], "training.tune: 'no_such' names neither"),
    ],
)
def test_the_command_answers_a_mistake_in_one_line_and_writes_nothing(
    mlflow_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        _run_main(monkeypatch, mlflow_uri, tmp_path, *arguments)
    assert str(caught.value.code).startswith(message)
    assert "\n" not in str(caught.value.code)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_sweep_of_failures_says_what_of(
    mlflow_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ledger of a sweep all of whose trials failed: nothing is left to run, and nothing to publish."""
    arguments = [TOY, *RATE, "--trials", "2", "--search", "random", "--name", "bad"]
    monkeypatch.setattr("training.tuning.sweep._search", _all_fail)
    monkeypatch.setattr("training.tuning.sweep._room", lambda request, trials: object())
    with pytest.raises(SystemExit, match="all 2 trials failed; trial 0 with: it broke"):
        _run_main(monkeypatch, mlflow_uri, tmp_path, *arguments)
    client = MlflowClient(mlflow_uri, mlflow_uri)
    assert client.get_run(Ledger(tmp_path / "bad").run_id).info.status == "FAILED"


def _all_fail(request: Request, space: object, epochs: int, queue: object, room: object, *more: object) -> bool:
    logbook = more[1]
    for number in range(request.trials):
        logbook.started(number, {"optimizer.lr": 0.1})  # type: ignore[attr-defined]
        logbook.failed(number, "it broke")  # type: ignore[attr-defined]
    return True


@pytest.mark.slow
def test_the_best_point_is_trained_and_registered_on_request(
    mlflow_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = request(TOY, *RATE, "--storage", str(tmp_path / "tune"))
    seen = {}

    def train(reference: str, recipe: object, source: object, registry: Registry, compute: object) -> object:
        seen.update(reference=reference, lr=recipe.optimizer.lr)  # type: ignore[attr-defined]
        raise SweepError("enough")

    monkeypatch.setattr(tune, "train", train)
    with pytest.raises(SweepError, match="enough"):
        tune._train_best(asked, Trial(0, {"optimizer.lr": 0.05}, ""), Registry(mlflow_uri))
    assert seen == {"reference": TOY, "lr": 0.05}


def test_the_table_on_the_terminal_ends_in_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    trial = Trial(3, {"optimizer.lr": 0.05}, "", "failed", error="x")
    tune._show(request(TOY, *RATE), Outcome({3: trial}, "", complete=False))
    out = capsys.readouterr().out
    assert "interrupted: the same command goes on" in out
    assert "failed" in out


@pytest.mark.cluster
def test_a_failing_trial_is_named_and_the_others_go_on(cluster: LocalCluster, tmp_path: Path) -> None:
    """Three points of a grid, one with a rate at which no training is finite."""
    command = [
        *(sys.executable, "-m", "training.tune", TOY, "--search", "grid", "--name", "grid"),
        *("--range", "optimizer.lr=choice:0.01,0.05,1e30", "--set", "optimizer.name=sgd", "--set", "clip_norm=1e30"),
        *("--set", "epochs=2", "--max-concurrent", "9", "--storage", str(tmp_path)),
    ]
    done = subprocess.run(
        command, env=cluster.environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    trials = Ledger(tmp_path / "grid").trials()
    assert [trials[number].status for number in range(3)] == ["finished", "finished", "failed"]
    assert trials[2].error.startswith("TrainingError: the loss")
    assert re.search(
        r"trial +2  failed: TrainingError: the loss .*not finite at epoch 1.*optimizer\.lr=1e30", done.stdout
    )
    assert "best: python -m training.train tests.toys:image_recipe --set optimizer.lr=0.0" in done.stdout

    client = MlflowClient(cluster.tracking_uri, cluster.tracking_uri)
    run_id = Ledger(tmp_path / "grid").run_id
    assert client.get_run(run_id).info.status == "FINISHED"
    artifacts = {entry.path for entry in client.list_artifacts(run_id)}
    assert {"sweep.html", "trials.json", "best.txt", "plots"} <= artifacts
    page = Registry(cluster.tracking_uri).read_artifact(run_id, "sweep.html").decode()
    assert "TrainingError" in page
    assert not (tmp_path / "grid" / "checkpoints").exists()
