"""The command against a real MLflow: promotions, refusals, dry runs and rollbacks of tiny pairs."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from optimization import promote as promote_module
from optimization.promote import PROMOTION_TAG, main
from tests import duel
from training.champion import MOVE_NOTE, Standing, crown, standing
from training.registry import Registry, RegistryError, Version

pytestmark = pytest.mark.slow

ENDPOINT = "duel.endpoint"
FAST = ("--rows", "40", "--margin", "0.03")
Command = Callable[..., str]


@pytest.fixture(scope="module")
def registry(mlflow_uri: str) -> Registry:
    return Registry(mlflow_uri)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def teacher(registry: Registry, folder: Path) -> Version:
    return duel.publish_model(registry, duel.write_model(folder / "teacher", "teacher", work=200_000))


@pytest.fixture(scope="module")
def good(registry: Registry, folder: Path, teacher: Version) -> Version:
    student = duel.publish_model(registry, duel.write_model(folder / "student", "student", flaw=1.0))
    return duel.publish_pair(registry, teacher, student)


@pytest.fixture(scope="module")
def bad(registry: Registry, folder: Path, teacher: Version) -> Version:
    """Its student answers everything, and errs on every hundredth row and more."""
    student = duel.publish_model(registry, duel.write_model(folder / "bad", "bad", flaw=3.0))
    return duel.publish_pair(registry, teacher, student, threshold=0.0)


@pytest.fixture
def command(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    def run(*arguments: str) -> str:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.tracking_uri)
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setattr(sys, "argv", ["optimization.promote", *arguments, "--cache-dir", str(tmp_path / "cache")])
        main()
        return capsys.readouterr().out

    return run


@pytest.fixture(autouse=True)
def _no_champion(registry: Registry, good: Version) -> None:
    """Every test begins before the first promotion."""
    for alias in set(registry.aliases(ENDPOINT)) & {"champion", "previous"}:
        registry.drop_alias(ENDPOINT, alias)


def _runs(registry: Registry) -> int:
    client = MlflowClient(registry.tracking_uri, registry.tracking_uri)
    return len(client.search_runs([client.get_experiment_by_name("duel").experiment_id]))


def test_a_pair_that_passes_becomes_the_champion_with_its_verdict(
    registry: Registry, good: Version, command: Command
) -> None:
    said = command(good.reference, *FAST)
    assert "has no champion yet: its own teacher alone stands in for one" in said
    assert f"{good.reference} passed and is the champion" in said
    assert standing(registry, ENDPOINT) == Standing(good.number, None)
    tags = registry.resolve(good.reference).tags
    assert tags[PROMOTION_TAG] == "passed"
    assert "the teacher alone" in tags[f"{PROMOTION_TAG}_against"]
    run_id = tags[f"{PROMOTION_TAG}_run"]
    outcome = json.loads(registry.read_artifact(run_id, "promotion.json"))
    assert outcome["verdict"]["passed"] and outcome["speedup"]["lower"] > 1
    assert b"<svg" in registry.read_artifact(run_id, "report.html")
    assert registry.read_artifact(run_id, "plots/classes.png").startswith(b"\x89PNG")
    client = MlflowClient(registry.tracking_uri, registry.tracking_uri)
    assert client.get_run(run_id).data.metrics["challenger/accuracy"] == pytest.approx(592 / 600)
    assert "is the champion already; nothing was changed" in command(good.reference, *FAST)


def test_a_pair_that_fails_is_tagged_and_the_champion_stays(
    registry: Registry, good: Version, bad: Version, command: Command
) -> None:
    crown(registry, ENDPOINT, good.number)
    with pytest.raises(SystemExit, match=rf"{bad.reference} did not pass; the champion stays"):
        command(bad.reference, *FAST)
    assert standing(registry, ENDPOINT) == Standing(good.number, None)
    tags = registry.resolve(bad.reference).tags
    assert (tags[PROMOTION_TAG], tags[f"{PROMOTION_TAG}_against"]) == ("failed", good.reference)


@pytest.mark.parametrize("which", ["good", "bad"])
def test_a_dry_run_judges_and_changes_nothing(
    registry: Registry, good: Version, bad: Version, command: Command, tmp_path: Path, which: str
) -> None:
    version = good if which == "good" else bad
    before = _runs(registry), registry.resolve(version.reference).tags, standing(registry, ENDPOINT)
    report = tmp_path / "report.html"
    arguments = (version.reference, *FAST, "--dry-run", "--against", "teacher", "--report", str(report))
    if which == "good":
        assert "passed; nothing was changed" in command(*arguments)
    else:
        with pytest.raises(SystemExit, match="did not pass; the champion stays \\(nothing was changed\\)"):
            command(*arguments)
    assert "<svg" in report.read_text()
    assert (_runs(registry), registry.resolve(version.reference).tags, standing(registry, ENDPOINT)) == before


def test_other_data_than_the_challengers_is_refused_with_both_hashes(
    registry: Registry, folder: Path, teacher: Version, good: Version, command: Command
) -> None:
    other = duel.publish_model(registry, duel.write_model(folder / "elsewhere", "elsewhere"), rows=300)
    mixed = duel.publish_pair(registry, teacher, other)
    before = _runs(registry)
    with pytest.raises(
        SystemExit, match=rf"{mixed.reference} cannot be compared: its model {teacher.reference} was made"
    ):
        command(mixed.reference, *FAST)
    assert _runs(registry) == before
    assert PROMOTION_TAG not in registry.resolve(mixed.reference).tags


def test_a_rollback_is_one_command_and_the_one_after_it_goes_forth_again(
    registry: Registry, good: Version, bad: Version, command: Command
) -> None:
    crown(registry, ENDPOINT, good.number)
    crown(registry, ENDPOINT, bad.number)
    said = command(ENDPOINT, "--rollback")
    assert f"{good.reference} is the champion again, {bad.reference} is previous" in said
    assert standing(registry, ENDPOINT) == Standing(good.number, bad.number)
    assert f"{bad.reference} is the champion again" in command(ENDPOINT, "--rollback")
    assert "nothing was changed" in command(ENDPOINT, "--rollback", "--dry-run")
    assert standing(registry, ENDPOINT) == Standing(bad.number, good.number)


def test_a_rollback_killed_between_its_two_calls_is_finished_by_the_same_command(
    registry: Registry, good: Version, bad: Version, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    crown(registry, ENDPOINT, good.number)
    crown(registry, ENDPOINT, bad.number)
    promote = Registry.promote

    def killed(self: Registry, name: str, number: int, alias: str) -> None:
        if alias == "previous":
            raise KeyboardInterrupt
        promote(self, name, number, alias)

    with monkeypatch.context() as patched:
        patched.setattr(Registry, "promote", killed)
        with pytest.raises(KeyboardInterrupt):
            command(ENDPOINT, "--rollback")
    # The good Release serves already; what is missing is the memory of the other.
    assert standing(registry, ENDPOINT) == Standing(good.number, good.number)
    assert registry.read_note(ENDPOINT, MOVE_NOTE) is not None
    command(ENDPOINT, "--rollback")
    assert standing(registry, ENDPOINT) == Standing(good.number, bad.number)
    assert registry.read_note(ENDPOINT, MOVE_NOTE) is None


def test_a_previous_release_that_cannot_be_served_is_not_gone_back_to(
    registry: Registry, good: Version, bad: Version, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    crown(registry, ENDPOINT, good.number)
    crown(registry, ENDPOINT, bad.number)

    def lost(*arguments: object) -> None:
        raise RegistryError("its files are gone")

    monkeypatch.setattr(promote_module, "fetch_contender", lost)
    with pytest.raises(SystemExit, match="its files are gone"):
        command(ENDPOINT, "--rollback")
    assert standing(registry, ENDPOINT) == Standing(bad.number, good.number)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([ENDPOINT, "--rollback"], r"'duel.endpoint' cannot be rolled back: champion is none, previous is none"),
        ([f"{ENDPOINT}@candidate", "--rollback"], "a rollback takes the endpoint's name alone, duel.endpoint"),
        (["nobody.endpoint", "--rollback"], "cannot read the aliases of 'nobody.endpoint'"),
        ([f"{ENDPOINT}@nobody"], "'duel.endpoint@nobody' is not in the registry"),
        (["duel@1"], "holds no Release"),
        ([f"{ENDPOINT}@1", "--against", "1"], "duel.endpoint@1 is what it is to be compared with"),
        ([f"{ENDPOINT}@1", "--max-slowdown", "0.5"], "max_slowdown is 0.5"),
        ([f"{ENDPOINT}@1", "--against", "teacher", "--margin", "2"], "margin is 2.0"),
    ],
)
def test_the_command_answers_a_mistake_in_one_line(command: Command, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        command(*arguments)
    said = str(caught.value.code)
    assert said.startswith("optimization.promote: ") and message.replace("\\", "") in said
    assert "\n" not in said
