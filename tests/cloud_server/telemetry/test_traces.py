"""One trace from a capture on the edge to the result in the log, exported over OTLP."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from PIL import Image

from tests.support.servers import ROOT, server_process


class Collector:
    """Takes spans as an OTLP collector does."""

    def __init__(self) -> None:
        outer = self
        self.spans: list[tuple[str, Any]] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = ExportTraceServiceRequest()
                request.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
                for resource in request.resource_spans:
                    service = next(
                        a.value.string_value
                        for a in resource.resource.attributes
                        if a.key == "service.name"
                    )
                    for scope in resource.scope_spans:
                        outer.spans += [(service, span) for span in scope.spans]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def test_a_trace_goes_from_the_capture_to_the_result(
    collector: Collector, tiny_bundle: Any, image: Any, tmp_path: Path
) -> None:
    Image.fromarray(image).save(tmp_path / "photo.png")
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
    options = ("--bundle", str(tiny_bundle.origin), "--bundles", "none", "--tasks", "none")
    with server_process(*options, environment=variables) as (process, ready):
        command = [
            sys.executable, "-c", "from edge_client.cli import main; main()", "send",
            tmp_path / "photo.png", "--server", ready["listening"],
            "--bundle", tiny_bundle.origin, "--json", "--picture", "-o", tmp_path / "back",
        ]  # fmt: skip
        environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin", "HOME": str(tmp_path)}
        subprocess.run(command, check=True, env={**environment, **variables}, timeout=120)
        process.terminate()
        assert process.wait(60) == 0
    spans = {(service, span.name): span for service, span in collector.spans}
    root = spans["featherwire-edge", "frame"]
    names = {name for _, name in spans}
    assert {"describe", "frame", "log", "analyse", "record"} <= names
    assert {span.trace_id for span in spans.values()} == {root.trace_id}
    served = spans["featherwire-cloud", "frame"]
    assert served.parent_span_id == root.span_id
    assert spans["featherwire-cloud", "analyse"].parent_span_id == served.span_id
    told = {a.key: a.value for a in served.attributes}
    assert told["featherwire.sequence"].int_value == 1
    assert told["featherwire.device"].string_value
    stages = {a.key for a in spans["featherwire-cloud", "analyse"].attributes}
    assert {"featherwire.ms.decode", "featherwire.ms.total"} <= stages


def test_a_parent_that_is_none_is_passed_over() -> None:
    from shared.wire.tracing import parent_of

    assert parent_of("00-" + "a" * 32 + "-" + "b" * 16 + "-01") is not None
    for text in ("", "x", "00-zz-1-01", "00-" + "a" * 32 + "-" + "b" * 16 + "-01" + "x" * 9999):
        assert parent_of(text) is None
