from loadtests.peers.cpu import spent
from loadtests.peers.profile import Frame, Stacks

RAW = """\
_run (asyncio/events.py:84);__call__ (apps/front.py:40);run (onnxruntime/capi/onnxruntime_inference_collection.py:9) 30
_run (asyncio/events.py:84);__call__ (apps/front.py:41) 10
_run (asyncio/events.py:84);handle (uvicorn/protocols/http/httptools_impl.py:7) 20
"""


def test_samples_are_counted_by_the_innermost_package() -> None:
    stacks = Stacks.parse(RAW)
    assert stacks.samples == 60
    assert stacks.by_package() == {"onnxruntime": 30, "apps/front.py": 10, "uvicorn": 20}
    assert stacks.anywhere["apps/front.py"] == 40


def test_ours_is_told_by_file_and_others_by_package() -> None:
    assert Frame("f", "/x/lib/python3.11/site-packages/ray/serve/replica.py").package == "ray"
    assert Frame("f", "apps/router.py").package == "apps/router.py"
    assert Frame("f", "/usr/lib/python3.11/json/encoder.py").package == "python: json/encoder.py"


def test_cpu_between_two_looks_is_told_largest_first() -> None:
    assert spent({"a": 1.0}, {"a": 1.5, "b": 2.0, "c": 0.001}) == {"b": 2.0, "a": 0.5}
