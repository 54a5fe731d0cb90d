"""The OpenAPI document held against the app: whatever a client makes of the document, the app does as it says."""

import warnings

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.apps.test_ingress import IMAGE, Served
from training.encoding import Encoder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

BOUNDED = settings(
    max_examples=25,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
OPERATIONS = {
    ("GET", "/v2/health/live"),
    ("GET", "/v2/models/{model}"),
    ("POST", "/v2/models/{model}/infer"),
    ("POST", "/v2/models/{model}/versions/{version}/infer"),
    ("POST", "/v1/models/{model}:predict"),
}


@pytest.fixture(scope="module")
def served():
    return Served(Encoder(IMAGE), max_rows=4, max_body_bytes=20_000)


@pytest.fixture(scope="module")
def schema(served):
    with warnings.catch_warnings():
        # Of the libraries' own doing, while they are imported.
        warnings.simplefilter("ignore")
        import schemathesis
    return schemathesis.openapi.from_asgi("/openapi.json", served.app)


@pytest.fixture(scope="module")
def checks():
    """That the answer is as documented, and no failure of the server.

    That every documented body is accepted and every other one refused is not asked: which tensors a model takes is in
    its metadata, and no document of the API can say it.
    """
    from schemathesis import checks

    names = (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    )
    return checks.CHECKS.get_by_names(names)


def any_model(case):
    return case


def served_model(case):
    """The case, asked of a model that is there."""
    for name, value in (("model", "tiny"), ("version", "3")):
        if name in (case.path_parameters or {}):
            case.path_parameters[name] = value
    return case


def right_tensor(case):
    """The case with an input that the model takes; its headers and its other fields are left as they were made up."""
    case = served_model(case)
    if isinstance(case.body, dict) and "inputs" in case.body:
        case.body["inputs"] = [{"name": "image", "datatype": "UINT8", "shape": [1, 1, 2, 2], "data": [255, 0, 0, 0]}]
        # Random ones are nearly always wrong, and the request would not come further.
        case.body.pop("parameters", None)
        case.body.pop("outputs", None)
    return case


def operations(schema):
    return [result.ok() for result in schema.get_all_operations()]


def statuses_of(operation, mode, change, checks, excluded=()):
    """Every status that made-up requests of one operation were answered with; each answer is checked."""
    statuses = set()

    @BOUNDED
    @given(operation.as_strategy(generation_mode=mode).map(change))
    def ask(case):
        response = case.call()
        statuses.add(response.status_code)
        case.validate_response(response, checks=[check for check in checks if check.__name__ not in excluded])

    ask()
    return statuses


def test_the_document_names_the_operations(schema):
    assert {(operation.method.upper(), operation.path) for operation in operations(schema)} >= OPERATIONS


@pytest.mark.parametrize("change", [any_model, served_model, right_tensor])
def test_what_the_document_allows_is_answered_as_documented(schema, checks, change):
    from schemathesis import GenerationMode

    for operation in operations(schema):
        statuses = statuses_of(operation, GenerationMode.POSITIVE, change, checks)
        if change is any_model:
            assert statuses <= {200, 404}, operation.label
        elif operation.method == "get":
            assert statuses == {200}, operation.label
        elif change is right_tensor:
            assert 200 in statuses, operation.label


@pytest.mark.parametrize("change", [served_model, right_tensor])
def test_what_breaks_the_document_is_the_clients_fault(schema, checks, change):
    from schemathesis import GenerationMode

    for operation in operations(schema):
        # Nothing but a body can be wrong here: any text is a name or a header's value.
        if operation.method == "post":
            statuses = statuses_of(operation, GenerationMode.NEGATIVE, change, checks)
            assert 400 in statuses, operation.label


def test_an_overloaded_teacher_is_documented_too(served, schema, checks):
    from schemathesis import GenerationMode

    def without_fallback(case):
        case = right_tensor(case)
        case.headers = {"x-tandem-mode": "teacher"}
        return case

    served.teacher.refuse = "overload"
    try:
        for operation in operations(schema):
            if operation.path == "/v2/models/{model}/infer":
                excluded = ("not_a_server_error",)
                statuses = statuses_of(operation, GenerationMode.POSITIVE, without_fallback, checks, excluded)
                assert 503 in statuses
                assert statuses <= {400, 503}
    finally:
        served.teacher.refuse = None
