"""The two aliases, with a registry that dies, fails or is moved by others at every one of its calls."""

import json
from typing import Any, cast

import pytest

from training.champion import MOVE_NOTE, Standing, crown, roll_back, standing
from training.registry import Registry, RegistryError

NAME = "toy.endpoint"


class Killed(BaseException):
    """The process died: nothing after it runs."""


class FakeRegistry:
    """Aliases and notes as MLflow keeps them. `die_at` and `fail_at` count its writing calls from 1."""

    def __init__(self, champion: int | None = None, previous: int | None = None, versions: int = 5) -> None:
        self.held = {"champion": champion, "previous": previous}
        self.versions = versions
        self.note: str | None = None
        self.writes = 0
        self.die_at: int | None = None
        self.fail_at: set[int] = set()
        self.seen: list[Standing] = []

    def resolve(self, reference: str) -> None:
        number = int(reference.partition("@")[2])
        if not 1 <= number <= self.versions:
            raise RegistryError(f"{reference!r} is not in the registry")

    def aliases(self, name: str) -> dict[str, int]:
        return {alias: number for alias, number in self.held.items() if number is not None}

    def promote(self, name: str, number: int, alias: str) -> None:
        self._write()
        self.held[alias] = number
        self._look()

    def drop_alias(self, name: str, alias: str) -> None:
        self._write()
        self.held[alias] = None
        self._look()

    def read_note(self, name: str, key: str) -> str | None:
        assert key == MOVE_NOTE
        return self.note

    def write_note(self, name: str, key: str, value: str | None) -> None:
        assert key == MOVE_NOTE
        self._write()
        self.note = value

    def _write(self) -> None:
        self.writes += 1
        if self.writes == self.die_at:
            raise Killed
        if self.writes in self.fail_at:
            raise RegistryError("the server is gone")

    def _look(self) -> None:
        self.seen.append(Standing(self.held["champion"], self.held["previous"]))

    def restart(self) -> None:
        self.writes, self.die_at, self.fail_at = 0, None, set()

    def __call__(self) -> Registry:
        return cast(Registry, self)


def _now(registry: FakeRegistry) -> Standing:
    return standing(registry(), NAME)


def test_crowning_moves_the_champion_to_previous() -> None:
    registry = FakeRegistry()
    assert crown(registry(), NAME, 1) == Standing(1, None)
    assert crown(registry(), NAME, 2) == Standing(2, 1)
    assert crown(registry(), NAME, 3) == Standing(3, 2)
    assert registry.note is None


def test_a_champion_crowned_again_does_not_become_its_own_predecessor() -> None:
    registry = FakeRegistry(3, 2)
    assert crown(registry(), NAME, 3) == Standing(3, 2)
    assert registry.writes == 0


def test_a_rollback_swaps_the_two_and_twice_it_changes_nothing() -> None:
    registry = FakeRegistry(3, 2)
    assert roll_back(registry(), NAME) == Standing(2, 3)
    assert roll_back(registry(), NAME) == Standing(3, 2)
    assert registry.note is None


@pytest.mark.parametrize(("champion", "previous"), [(None, None), (3, None), (None, 2), (3, 3)])
def test_without_another_there_is_nothing_to_roll_back_to(champion: int | None, previous: int | None) -> None:
    registry = FakeRegistry(champion, previous)
    with pytest.raises(RegistryError, match=r"cannot be rolled back: (champion is|champion and previous are both 3)"):
        roll_back(registry(), NAME)
    assert _now(registry) == Standing(champion, previous)
    assert registry.writes == 0


# Of either: the note, two aliases, the note struck out.
@pytest.mark.parametrize("die_at", [1, 2, 3, 4])
@pytest.mark.parametrize("what", ["crown", "rollback"])
def test_killed_at_any_call_a_champion_stands_and_the_same_command_ends_as_if_nothing_had_been(
    what: str, die_at: int
) -> None:
    registry = FakeRegistry(2, 1)
    registry.die_at = die_at

    def command() -> Standing:
        return crown(registry(), NAME, 3) if what == "crown" else roll_back(registry(), NAME)

    with pytest.raises(Killed):
        command()
    good = {2, 3} if what == "crown" else {2, 1}
    assert _now(registry).champion in good
    assert all(seen.champion in good for seen in registry.seen)
    registry.restart()
    assert command() == (Standing(3, 2) if what == "crown" else Standing(1, 2))
    assert registry.note is None
    assert all(seen.champion is not None for seen in registry.seen)


@pytest.mark.parametrize("die_at", [2, 3])
def test_a_rollback_that_was_cut_short_serves_the_good_version_first(die_at: int) -> None:
    registry = FakeRegistry(2, 1)
    registry.die_at = die_at
    with pytest.raises(Killed):
        roll_back(registry(), NAME)
    assert _now(registry).champion == (2 if die_at == 2 else 1)


def test_the_next_promotion_finishes_what_was_cut_short() -> None:
    registry = FakeRegistry(2, 1)
    registry.die_at = 3  # previous is 2 by now, champion still
    with pytest.raises(Killed):
        crown(registry(), NAME, 3)
    assert _now(registry) == Standing(2, 2)
    registry.restart()
    assert crown(registry(), NAME, 4) == Standing(4, 3)


def test_what_was_decided_since_is_not_undone_by_an_old_note() -> None:
    registry = FakeRegistry(2, 1)
    registry.die_at = 3
    with pytest.raises(Killed):
        crown(registry(), NAME, 3)
    registry.restart()
    registry.held = {"champion": 5, "previous": 1}  # somebody set both by hand
    assert roll_back(registry(), NAME) == Standing(1, 5)
    assert registry.note is None


def test_a_note_that_cannot_be_read_is_struck_out() -> None:
    registry = FakeRegistry(2, 1)
    registry.note = json.dumps({"kind": "crown"})
    assert crown(registry(), NAME, 3) == Standing(3, 2)
    assert registry.note is None


@pytest.mark.parametrize("fail_at", [2, 3])
@pytest.mark.parametrize("what", ["crown", "rollback"])
def test_a_call_that_fails_leaves_both_as_they_were(what: str, fail_at: int) -> None:
    registry = FakeRegistry(2, 1)
    registry.fail_at = {fail_at}
    with pytest.raises(
        RegistryError, match=rf"the {what} of 'toy\.endpoint' failed \(the server is gone\); both aliases are as"
    ):
        crown(registry(), NAME, 3) if what == "crown" else roll_back(registry(), NAME)
    assert _now(registry) == Standing(2, 1)
    assert registry.note is None


def test_a_first_crowning_that_fails_leaves_no_previous_behind() -> None:
    registry = FakeRegistry(2, None)
    registry.fail_at = {3}
    with pytest.raises(RegistryError, match="both aliases are as they were: champion is 2, previous is none"):
        crown(registry(), NAME, 3)
    assert _now(registry) == Standing(2, None)


def test_a_server_that_stays_away_is_said_and_the_next_command_finishes() -> None:
    registry = FakeRegistry(2, 1)
    registry.fail_at = set(range(3, 20))
    with pytest.raises(RegistryError, match=r"could not be put back: .*; give the command again"):
        crown(registry(), NAME, 3)
    assert _now(registry).champion == 2
    registry.restart()
    assert crown(registry(), NAME, 3) == Standing(3, 2)


def test_an_unknown_version_is_refused_before_anything_moves() -> None:
    registry = FakeRegistry(2, 1)
    with pytest.raises(RegistryError, match="not in the registry"):
        crown(registry(), NAME, 9)
    assert registry.writes == 0


def test_somebody_who_moves_them_meanwhile_is_noticed_and_not_undone() -> None:
    registry = FakeRegistry(2, 1)
    promote = registry.promote

    def meddled(name: str, number: int, alias: str) -> None:
        promote(name, number, alias)
        if alias == "champion":
            registry.held["champion"] = 5

    registry.promote = cast(Any, meddled)  # type: ignore[method-assign]
    with pytest.raises(RegistryError, match=r"somebody else moved them meanwhile: champion is 5.*; now champion is 5"):
        crown(registry(), NAME, 3)
    assert _now(registry).champion == 5
