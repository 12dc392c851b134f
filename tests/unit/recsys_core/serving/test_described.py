"""What `/openapi.json` says of the service holds for whatever is made up by it."""

import hypothesis
import schemathesis
from hypothesis import given
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

# That all of what fits is answered is not among them: histories of one row are equally long, which no schema says.
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
_settings = hypothesis.settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[*hypothesis.HealthCheck],
    phases=[hypothesis.Phase.generate],
)


def test_requests_that_are_made_of_the_page_are_answered_as_it_says(folders, run_service):
    service = run_service({"release": folders["a"], "rank_release": folders["ctr"]})
    asked = _ask_all(f"http://127.0.0.1:{service.port}/openapi.json")
    assert {*asked} >= {"/recommend", "/embed", "/rank", "/recommend_and_rank", "/health", "/ready", "/version"}
    assert {200, 422} <= asked["/recommend"]


def _ask_all(url: str) -> dict[str, set[int]]:
    """Ask each path for what fits its schema, and for what does not; return the statuses."""
    statuses: dict[str, set[int]] = {}
    for found in schemathesis.openapi.from_url(url).get_all_operations():
        operation = found.ok()
        seen = statuses.setdefault(operation.path, set())
        modes = [GenerationMode.POSITIVE] + ([GenerationMode.NEGATIVE] if operation.method == "post" else [])
        for mode in modes:
            given(operation.as_strategy(generation_mode=mode))(_settings(_asking(seen)))()
    return statuses


def _asking(seen: set[int]):
    def ask(case):
        seen.add(case.call_and_validate(checks=CHECKS, timeout=600).status_code)

    return ask
