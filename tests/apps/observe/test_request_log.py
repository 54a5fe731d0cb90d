"""One JSON line a request, and ids that are safe to write."""

import json
import logging
import logging.handlers
import re

import pytest

from apps.observe import request_log
from apps.observe.request_log import (
    Entry,
    FileRequestLog,
    NoRequestLog,
    RequestIds,
    RequestLogArgs,
    open_request_log,
)


def entry(request_id="a", status=200):
    return Entry(request_id, "digits", "7", "student", "confident", "http", status, 2, 3.14159, 0.5, 4)


def lines(folder):
    (path,) = folder.glob("*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_request_is_one_line_that_says_all_but_the_payload(tmp_path):
    log = open_request_log(RequestLogArgs(folder=str(tmp_path)), "tandem#Ingress#x1")
    log.write(entry())
    log.close()
    (line,) = lines(tmp_path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line.pop("time"))
    assert line == {
        "request_id": "a",
        "model": "digits",
        "release": "7",
        "variant": "student",
        "reason": "confident",
        "protocol": "http",
        "status": 200,
        "rows": 2,
        "latency_ms": 3.142,
        "parse_ms": 0.5,
        "queue_rows": 4,
    }


def test_each_replica_writes_a_file_of_its_own(tmp_path):
    for replica in ("tandem#Ingress#x1", "../x2"):
        log = open_request_log(RequestLogArgs(folder=str(tmp_path)), replica)
        log.write(entry())
        log.close()
    assert {path.name for path in tmp_path.iterdir()} == {
        "tandem_requests_tandem_Ingress_x1.jsonl",
        "tandem_requests_.._x2.jsonl",
    }


def test_sampling_leaves_out_successes_and_keeps_every_failure(tmp_path):
    draws = iter([0.2, 0.8])
    log = FileRequestLog(tmp_path / "a.jsonl", sample_ratio=0.5, draw=lambda: next(draws))
    log.write(entry("kept"))
    log.write(entry("left out"))
    log.write(entry("failed", status=503))
    log.close()
    assert [line["request_id"] for line in lines(tmp_path)] == ["kept", "failed"]


def test_what_is_too_much_is_counted_and_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(request_log, "MAX_WAITING", 2)
    monkeypatch.setattr(request_log, "_FLUSH_S", 60)
    log = FileRequestLog(tmp_path / "a.jsonl")
    for i in range(5):
        log.write(entry(str(i)))
    log.close()
    assert [line.get("request_id", line.get("lost_lines")) for line in lines(tmp_path)] == ["0", "1", 3]


def test_a_full_file_is_set_aside_and_one_is_kept(tmp_path):
    for i in range(5):
        log = FileRequestLog(tmp_path / "a.jsonl", max_bytes=10_000)
        for _ in range(30):
            log.write(entry(str(i)))
        log.close()
    assert {path.name for path in tmp_path.iterdir()} == {"a.jsonl", "a.jsonl.1"}
    assert max(path.stat().st_size for path in tmp_path.iterdir()) <= 10_000
    assert lines(tmp_path)[-1]["request_id"] == "4"


def test_a_clients_id_is_taken_over():
    assert RequestIds()({"x-request-id": "order-66"}) == "order-66"


@pytest.mark.parametrize("given", ["", "a\nb", "a\x00", "é", "x" * 129, "\x1b[31m"])
def test_an_id_that_is_unfit_for_a_log_is_replaced(given):
    assert re.fullmatch(r"[0-9a-f]{16}-0", RequestIds()({"x-request-id": given}))


def test_made_ids_differ_in_and_between_replicas():
    first, second = RequestIds(), RequestIds()
    assert len({ids({}) for ids in (first, second) for _ in range(100)}) == 200


def test_off_by_default(tmp_path):
    log = open_request_log(None, "x")
    assert isinstance(log, NoRequestLog)
    log.write(entry())
    log.close()


def test_serves_own_log_folder_is_the_default(tmp_path):
    logger = logging.getLogger("ray.serve")
    handler = logging.FileHandler(tmp_path / "replica.log")
    buffered = logging.handlers.MemoryHandler(10, target=handler)
    before, logger.handlers = logger.handlers, [logging.StreamHandler(), buffered]
    try:
        log = open_request_log(RequestLogArgs(), "x")
        log.write(entry())
        log.close()
        logger.handlers = []
        with pytest.raises(ValueError, match=r"set access_log\.folder"):
            open_request_log(RequestLogArgs(), "x")
    finally:
        logger.handlers = before
        buffered.close()
        handler.close()
    assert len(lines(tmp_path)) == 1
