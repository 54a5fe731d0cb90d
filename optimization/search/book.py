"""Book: what a search has found out so far, on disk, so that the same command goes on after a kill."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from optimization.measure.host import Load
from optimization.measure.latency import Latency
from optimization.search.making import Made
from training.tuning.undertaking import Undertaking, write_json

TIMES_FILE = "times.json"


@dataclass(frozen=True)
class Result:
    """What became of a pipeline on one rung: `made`, or the reason why it could not be carried out."""

    number: int
    made: Made | None
    error: str = ""


@dataclass(frozen=True)
class Times:
    """The latency of every graph of a rung, by digest, all of one run, and the load that others made meanwhile."""

    latency: Mapping[str, Latency]
    load: Load


@dataclass(frozen=True)
class Book(Undertaking):
    """The folder of one search: `sweep.json` says which, `rung-R/NUMBER.json` and `rung-R/times.json` what was found;
    `stages/` and `trainings/` are the workshop's.
    """

    def results(self, rung: int) -> dict[int, Result]:
        files = sorted((self.folder / f"rung-{rung}").glob("[0-9]*.json"))
        return {found.number: found for found in (_result(json.loads(path.read_text())) for path in files)}

    def save(self, rung: int, result: Result) -> None:
        folder = self.folder / f"rung-{rung}"
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{result.number:04d}.json", asdict(result))

    def times(self, rung: int) -> Times | None:
        """None before they were measured."""
        path = self.folder / f"rung-{rung}" / TIMES_FILE
        if not path.exists():
            return None
        data = json.loads(path.read_text())
        found = {digest: Latency.from_json(one) for digest, one in data["latency"].items()}
        return Times(found, Load(**data["load"]))

    def save_times(self, rung: int, times: Times) -> None:
        latency = {digest: one.to_json() for digest, one in times.latency.items()}
        write_json(self.folder / f"rung-{rung}" / TIMES_FILE, {"latency": latency, "load": asdict(times.load)})


def _result(data: Mapping[str, Any]) -> Result:
    said = data["made"]
    return Result(data["number"], None if said is None else Made.from_json(said), data["error"])
