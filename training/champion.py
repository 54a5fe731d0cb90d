"""Champion: which Version serves, which served before it, and how the two change places.

MLflow moves one alias a call, so a change is two calls, and a process may die between them. In no state is there no
`champion`: each call points an alias that exists to another Version that exists. What is under way is noted with the
registered model before the first call and struck out after the last, so the next command finishes what was cut short.
Two that move the same aliases at once are not kept apart, since MLflow cannot compare and set; each looks at what it
left behind and says so where it is not what it meant.
"""

import contextlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

from training.registry import Registry, RegistryError

MOVE_NOTE = "tandem.move"
Kind = Literal["crown", "rollback"]


@dataclass(frozen=True)
class Standing:
    """The numbers of the Versions that serve and that served before; None where the alias points to none."""

    champion: int | None
    previous: int | None

    def __str__(self) -> str:
        return f"champion is {self.champion or 'none'}, previous is {self.previous or 'none'}"


@dataclass(frozen=True)
class _Move:
    kind: Kind
    before: Standing
    after: Standing

    @property
    def between(self) -> Standing:
        """What stands after the first call.

        A crowning keeps the old champion's number first. A rollback serves the good Version first.
        """
        if self.kind == "crown":
            return Standing(self.before.champion, self.after.previous)
        return Standing(self.after.champion, self.before.previous)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "_Move":
        data = json.loads(text)
        return _Move(data["kind"], Standing(**data["before"]), Standing(**data["after"]))


def standing(registry: Registry, name: str) -> Standing:
    aliases = registry.aliases(name)
    return Standing(aliases.get("champion"), aliases.get("previous"))


def crown(registry: Registry, name: str, number: int) -> Standing:
    """Make Version `number` the champion; the champion before it becomes `previous`.

    Raises RegistryError where there is no such Version or a call fails: both aliases are then as they were, or the
    message says what stands. A champion that is crowned again does not become its own predecessor.
    """
    registry.resolve(f"{name}@{number}")
    _finish(registry, name)
    before = standing(registry, name)
    if before.champion == number:
        return before
    kept = before.previous if before.champion is None else before.champion
    return _run(registry, name, _Move("crown", before, Standing(number, kept)))


def roll_back(registry: Registry, name: str) -> Standing:
    """The previous Version becomes the champion, and the champion `previous`: done twice, nothing has changed.

    After a rollback that was cut short this finishes that one and goes back no further. Raises RegistryError where
    there is nothing to go back to.
    """
    finished = _finish(registry, name)
    before = standing(registry, name)
    if finished == "rollback":
        return before
    if before.champion is None or before.previous is None:
        raise RegistryError(f"{name!r} cannot be rolled back: {before}, and a rollback needs both")
    if before.champion == before.previous:
        raise RegistryError(f"{name!r} cannot be rolled back: champion and previous are both {before.champion}")
    return _run(registry, name, _Move("rollback", before, Standing(before.previous, before.champion)))


def _run(registry: Registry, name: str, move: _Move) -> Standing:
    registry.write_note(name, MOVE_NOTE, move.to_json())
    try:
        for stand in (move.between, move.after):
            _set(registry, name, stand)
        found = standing(registry, name)
        if found != move.after:
            raise RegistryError(f"somebody else moved them meanwhile: {found}, though {move.after} was asked for")
    except RegistryError as error:
        raise RegistryError(f"the {move.kind} of {name!r} failed ({error}); {_undo(registry, name, move)}") from error
    registry.write_note(name, MOVE_NOTE, None)
    return move.after


def _undo(registry: Registry, name: str, move: _Move) -> str:
    """Puts back what stood before, unless that is not ours to decide; says what stands."""
    try:
        found = standing(registry, name)
        if found in (move.between, move.after):
            for stand in (move.between, move.before):
                _set(registry, name, stand)
            found = standing(registry, name)
        registry.write_note(name, MOVE_NOTE, None)
    except RegistryError as error:
        return f"what stood before ({move.before}) could not be put back: {error}; give the command again"
    return f"both aliases are as they were: {found}" if found == move.before else f"now {found}"


def _finish(registry: Registry, name: str) -> Kind | None:
    """Ends a move that was cut short half-way; returns its kind, None where none had begun."""
    try:
        note = registry.read_note(name, MOVE_NOTE)
    except RegistryError:
        return None  # a name that has no Version yet has nothing under way either; what follows says what is wrong
    if note is None:
        return None
    move, found = _read(note), standing(registry, name)
    if move is not None and found == move.between != move.before:
        _set(registry, name, move.after)
        found = standing(registry, name)
    registry.write_note(name, MOVE_NOTE, None)
    # Where other aliases stand by now, somebody has decided otherwise since.
    return move.kind if move is not None and found == move.after else None


def _read(note: str) -> _Move | None:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return _Move.from_json(note)
    return None


def _set(registry: Registry, name: str, wanted: Standing) -> None:
    """Points both aliases to `wanted`; those that are there already are not touched."""
    found = standing(registry, name)
    for alias, number, now in (
        ("champion", wanted.champion, found.champion),
        ("previous", wanted.previous, found.previous),
    ):
        if number is None and now is not None:
            registry.drop_alias(name, alias)
        elif number is not None and number != now:
            registry.promote(name, number, alias)
