"""The REST API, driven from its own description with every check on: no 500, and no answer beyond the description.

The budget is fixed (examples per operation), and in CI the examples are the same each time.
"""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig

from tests.support import ServerProcess
from tracewatch.server.routes import description

pytestmark = pytest.mark.slow
EXAMPLES = 40  # of each operation


RULES = ["2xx", 404, 409, 410, 412, 422]
CONFIG = SchemathesisConfig.from_dict(
    {
        # What a schema can't say: two headers that go together, a goal that must exist, an event's own rules
        "checks": {"positive_data_acceptance": {"expected-statuses": RULES}},
        # ... and that lines are JSON
        "operations": [
            {
                "include-path": "/api/import",
                "checks": {"positive_data_acceptance": {"expected-statuses": [*RULES, 400]}},
            }
        ],
    }
)
schema = schemathesis.openapi.from_dict(description(), config=CONFIG)
schemathesis.serializer("application/x-ndjson")(lambda ctx, value: str(value).encode("utf-8", "surrogatepass"))


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_that_is_described(case: Any, server: ServerProcess) -> None:
    case.call_and_validate(base_url=server.url, timeout=20)
    assert server.process is not None and server.process.poll() is None
