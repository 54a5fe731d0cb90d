from pathlib import Path

import pytest

from optimization.measure.host import Load
from optimization.search.book import Book, Result, Times
from tests.optimization.search.candidates import TEACHER


def test_results_come_back_by_rung_and_number(tmp_path: Path) -> None:
    book = Book(tmp_path / "mine")
    good, bad = Result(3, TEACHER.made), Result(12, None, "nothing is taken out")
    book.save(1, good)
    book.save(1, bad)
    book.save(2, good)
    assert book.results(1) == {3: good, 12: bad}
    assert book.results(2) == {3: good}
    assert book.results(3) == {}


def test_times_come_back_whole_or_not_at_all(tmp_path: Path) -> None:
    book = Book(tmp_path / "mine")
    book.save(1, Result(1, TEACHER.made))
    assert book.times(1) is None
    times = Times({"digest-1": TEACHER.latency}, Load(0.5, 0.1, 0.0))
    book.save_times(1, times)
    assert book.times(1) == times
    assert book.results(1) == {1: Result(1, TEACHER.made)}, "the times are no result"


def test_another_search_is_kept_out_of_its_folder(tmp_path: Path) -> None:
    book = Book(tmp_path / "mine")
    book.begin({"teacher": "abc", "threads": 1})
    book.require_same({"teacher": "abc", "threads": 1})
    with pytest.raises(ValueError, match="threads was 1 and is 2"):
        book.require_same({"teacher": "abc", "threads": 2})
