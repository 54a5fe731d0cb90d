import json
import re

from optimization.measure.host import Load, describe_host
from optimization.search.book import Result
from optimization.search.choice import Wish, choose
from optimization.search.page import Findings, search_page
from optimization.search.pipeline import Pipeline
from tests.optimization.search.candidates import TEACHER, candidate

QUICK = candidate(2, wrong=52, ms=1.0, size_bytes=2000)
BEATEN = candidate(3, wrong=60, ms=2.0, size_bytes=3000)


def _findings() -> Findings:
    wish, every = Wish("latency", 0.02), [TEACHER, QUICK, BEATEN]
    pipelines = {one.number: one.pipeline for one in every} | {4: Pipeline(), 5: Pipeline()}
    return Findings(
        "What can be made of <it>", wish, TEACHER, every, choose(every, TEACHER, wish), pipelines,
        failed={4: "nothing is taken out: every width rounds to itself"}, dropped={5: (1, Result(5, BEATEN.made))},
        host=describe_host(1), load=Load(0.1, 0.0, 0.0), seconds=90.0,
        versions={2: "toy@7"}, releases={2: "toy.endpoint@3"},
    )  # fmt: skip


def test_the_front_leaves_out_what_is_beaten_in_everything() -> None:
    assert [one.number for one in _findings().front] == [1, 2]


def test_the_page_says_what_was_chosen_and_what_became_of_the_rest() -> None:
    page = search_page(_findings())
    assert "What can be made of &lt;it&gt;" in page
    for said in ("toy.endpoint@3", "nothing is taken out", "after rung 1", "Beaten by a point", "1.5 min"):
        assert said in page


def test_the_plots_points_are_those_of_the_table_and_close_no_element() -> None:
    page = search_page(_findings())
    data = re.search(r"const points = (\[.*?\]);\n", page)
    assert data is not None and "<" not in data[1]
    points = json.loads(data[1])
    assert [(one["number"], one["front"], one["chosen"]) for one in points] == [
        (1, True, False), (2, True, True), (3, False, False),
    ]  # fmt: skip


def test_the_json_holds_every_pipeline_of_the_search() -> None:
    said = json.loads(json.dumps(_findings().to_json()))
    assert {one["number"] for one in said["points"]} | {int(n) for n in (*said["failed"], *said["dropped"])} == {
        1, 2, 3, 4, 5,
    }  # fmt: skip
