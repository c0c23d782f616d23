"""The OpenAPI document, and what requests that it describes are answered."""

import schemathesis
from hypothesis import settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.support.serving import InProcess

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    negative_data_rejection,
    unsupported_method,
]

HEADERS = {"host": "localhost"}

schema = schemathesis.openapi.from_asgi("/openapi.json", InProcess().gate, headers=HEADERS)


@schema.hook
def map_body(context, body):
    """Requests for models that there are, so that others than 404 are seen."""
    model = body.get("model") if isinstance(body, dict) else None
    is_valid = isinstance(model, str) and len(model) <= 500
    return body | {"model": "policy"} if is_valid else body


@schema.parametrize()
@settings(max_examples=40, deadline=None, derandomize=True)
def test_what_the_document_describes_is_answered_as_it_says(case):
    case.call_and_validate(checks=CHECKS, headers=HEADERS)
