"""One picture as one call, without a stream."""

from __future__ import annotations

import time

import grpc

from edge_client.session.describe import Photo
from edge_client.session.direct import whole
from edge_client.session.opening import Link
from edge_client.session.outgoing import Wishes
from edge_client.session.pending import Reply
from edge_client.session.result import FrameResult, received
from shared.proto.featherwire.v1 import ingest_pb2, ingest_pb2_grpc
from shared.rpc.errors import error_from_call
from shared.wire.features import features_message
from shared.wire.requests import picture_request_message
from shared.wire.results import outcome_from_message


def analyze(link: Link, server: str, photo: Photo, wishes: Wishes) -> FrameResult:
    """See ``EdgeSession.analyze``."""
    frame = link.framer.frame(
        photo, wishes.rate, wishes.tasks, wishes.picture, False, wishes.send_with, keep=False
    )
    sent = [part.sent for part in frame.parts if part.sent is not None]
    request = ingest_pb2.AnalyzeRequest(
        features=[features_message(bitstream) for bitstream in sent],
        tasks=frame.tasks,
        picture=picture_request_message(frame.picture),
    )
    started = time.perf_counter()
    try:
        response = ingest_pb2_grpc.IngestServiceStub(link.channel).Analyze(
            request, timeout=frame.deadline_s
        )
    except grpc.RpcError as error:
        raise error_from_call(error, server) from None
    reply = Reply(
        outcome_from_message(response.outcome),
        0,
        sent[0].state,
        (time.perf_counter() - started) * 1e3,
        sent[0].bundle_id,
        sum(bitstream.file_bytes for bitstream in sent),
        sent[0].passes,
    )
    return whole(received(reply, photo))
