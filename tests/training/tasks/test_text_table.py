"""A published set, read as any table: the general way must come to what the set's own task comes to."""

from pathlib import Path

import numpy as np
import pytest

from training.task import SPLIT_NAMES, Source, load_task

HELD_BACK = 40  # contradictory rows, which only the general way looks for


@pytest.mark.long
def test_ag_news_read_as_a_table_is_cut_as_its_own_task_cuts_it(real_data: Path, tmp_path: Path) -> None:
    own = load_task("ag_news", Source(real_data))
    columns = {"header": False, "label_column": 1, "title_column": 2, "text_column": 3}
    labels = {"labels": list(own.encoding.labels), "labels_from": 1, "max_tokens": 96}
    table = load_task("text_table", Source(real_data / "ag-news", reader="local", cache_dir=tmp_path), columns | labels)
    assert table.encoding == own.encoding
    for name in SPLIT_NAMES:
        fewer = len(own.splits[name]) - len(table.splits[name])
        assert 0 <= fewer <= HELD_BACK
        if not fewer:
            np.testing.assert_array_equal(table.splits[name].labels, own.splits[name].labels)
    assert sum(len(own.splits[name]) == len(table.splits[name]) for name in SPLIT_NAMES) >= 3
