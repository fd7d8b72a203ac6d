"""The server does what its own description says: generated requests, good and bad, never get an answer that is not described."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..lazy import later

schemathesis = later("schemathesis")
OPERATIONS = {
    "/health": "GET",
    "/metrics": "GET",
    "/v1/models": "GET",
    "/v1/models/{name}": "GET",
    "/v1/chat/completions": "POST",
    "/v1/completions": "POST",
    "/v1/images/generations": "POST",
    "/v1/images/edits": "POST",
    "/v1/images/variations": "POST",
}


@pytest.fixture(scope="module")
def described(server):
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def test_everything_is_described(described):
    found = {result.ok().path: result.ok().method.upper() for result in described.get_all_operations()}
    assert found == OPERATIONS


@pytest.fixture(scope="module")
def checks():
    """What every answer must keep to, last what only bad requests have."""
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    return [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
        checks.negative_data_rejection,
    ]


@pytest.mark.parametrize("path", OPERATIONS)
def test_generated_requests(described, server, checks, path):
    operation = described[path][OPERATIONS[path]]
    mode = schemathesis.GenerationMode
    modes = [mode.POSITIVE, mode.NEGATIVE] if OPERATIONS[path] == "POST" else [mode.POSITIVE]

    # As good as the same requests every time, which keeps the run short and the result steady.
    @settings(max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.one_of([operation.as_strategy(mode) for mode in modes]))
    def check(case: schemathesis.Case) -> None:
        case.validate_response(case.call(timeout=180), checks=checks)

    check()
    server.settled()


GOOD = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}], "n": 2, "reasoning_effort": "low"},
    "/v1/completions": {"prompt": ["a", "b"], "suffix": " c", "max_tokens": 3},
    "/v1/images/generations": {"prompt": "a cat", "n": 2, "response_format": "b64_json", "thinking": True},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", GOOD)
def test_good_requests_are_answered_as_described(described, checks, path, stream):
    case = described[path]["POST"].Case(body={**GOOD[path], "stream": stream}, media_type="application/json")
    answer = case.call(timeout=180)
    assert answer.status_code == 200
    assert answer.headers["content-type"][0].startswith("text/event-stream" if stream else "application/json")
    case.validate_response(answer, checks=checks[:-1])
