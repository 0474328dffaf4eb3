"""A device's half of the protocol, without sockets: none lost, none doubled, within credits."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import SessionError, TaskError
from shared.proto.featherwire.v1 import fleet_pb2, ingest_pb2, types_pb2
from shared.wire import error_to_message
from shared.wire.device_events import (
    Acknowledged,
    Answered,
    CommandReceived,
    CreditGranted,
    Drained,
    Event,
    Failed,
    Resent,
    Welcomed,
)
from shared.wire.device_protocol import MAX_CREDITS, DeviceProtocol, State
from shared.wire.requests import Hello
from shared.wire.transport import (
    BATCH_BYTES,
    BATCH_MESSAGES,
    HEARTBEAT_TIME_S,
    HEARTBEAT_TIMEOUT_S,
    PROTOCOL_VERSION,
)

BUNDLE = b"01234567"
HELLO = Hello("camera", "one", takes_batches=True)

Protocol = DeviceProtocol[str]


def frame(sequence: int = 0, payload: bytes = b"x") -> ingest_pb2.Frame:
    features = types_pb2.Features(
        width=32, height=32, state=3, bundle_short_id=BUNDLE,
        layers=[types_pb2.Layer(state=3, payload=payload)],
    )  # fmt: skip
    return ingest_pb2.Frame(sequence=sequence, features=[features])


def key(sequence: int) -> tuple[int, bytes, int]:
    return sequence, BUNDLE, 3


def say(**message: Any) -> ingest_pb2.ConnectResponse:
    return ingest_pb2.ConnectResponse(**message)


def welcome(credits: int = 4, **values: Any) -> ingest_pb2.ConnectResponse:
    return say(
        welcome=ingest_pb2.Welcome(
            **{"protocol_version": PROTOCOL_VERSION, "credits": credits, **values}
        )
    )


def ack(sequence: int, **values: Any) -> ingest_pb2.ConnectResponse:
    return say(ack=ingest_pb2.Ack(sequence=sequence, state=3, bundle_short_id=BUNDLE, **values))


def result(sequence: int, result_id: int) -> ingest_pb2.ConnectResponse:
    return say(
        result=ingest_pb2.Result(
            result_id=result_id, sequence=sequence, state=3, bundle_short_id=BUNDLE
        )
    )


def sent(protocol: Protocol) -> list[ingest_pb2.ConnectRequest]:
    """What goes out now, message by message."""
    found: list[ingest_pb2.ConnectRequest] = []
    while (data := protocol.next_message()) is not None:
        request = ingest_pb2.ConnectRequest.FromString(data)
        found += request.batch.requests or (request,)
    return found


def kinds(protocol: Protocol) -> list[str | None]:
    return [request.WhichOneof("message") for request in sent(protocol)]


def opened(credits: int = 4, remembers: bool = False, **values: Any) -> Protocol:
    protocol = Protocol(HELLO, remembers=remembers)
    protocol.connect(0.0)
    assert kinds(protocol) == ["hello"]
    assert [type(one) for one in protocol.receive(welcome(credits, **values), 0.0)] == [Welcomed]
    return protocol


# -- one stream ----------------------------------------------------------------------------------


def test_states_from_hello_to_the_end() -> None:
    protocol = Protocol(HELLO)
    assert protocol.state is State.CLOSED
    protocol.connect(0.0)
    assert protocol.state is State.OPENING
    assert not protocol.can_send
    protocol.receive(welcome(), 0.0)
    assert protocol.state is State.OPEN
    assert protocol.can_send
    protocol.receive(say(drain=ingest_pb2.Drain(deadline_s=5)), 0.0)
    assert protocol.state is State.DRAINING
    assert not protocol.can_send
    protocol.bye()
    assert protocol.state is State.CLOSING
    protocol.disconnected()
    assert protocol.state is State.CLOSED
    assert protocol.failure is not None
    assert protocol.failure.reason == "draining"


def test_frames_are_numbered_and_come_back_with_what_their_sender_gave() -> None:
    protocol = opened(resume_after_sequence=6)
    first, second = (protocol.send_frame(frame(), name, 1.0) for name in ("first", "second"))
    assert (first.sequence, second.sequence, protocol.credits) == (7, 8, 2)
    assert [one.frame.sequence for one in sent(protocol) if one.HasField("frame")] == [7, 8]
    (taken,) = protocol.receive(ack(7), 2.0)
    assert taken == Acknowledged(key(7), first, first=True)
    (again,) = protocol.receive(ack(7), 2.0)
    assert again == Acknowledged(key(7), first, first=False)
    (done,) = protocol.receive(result(7, 1), 3.0)
    assert isinstance(done, Answered)
    assert (done.sent, done.repeated, done.key) == (first, False, key(7))
    assert first.context == "first"
    assert [one.context for one in protocol.unanswered] == ["second"]
    (repeated,) = protocol.receive(result(7, 1), 3.0)
    assert isinstance(repeated, Answered)
    assert (repeated.sent, repeated.repeated) == (None, True)


def test_nothing_goes_out_without_credit_or_after_drain_or_bye() -> None:
    protocol = opened(credits=1)
    protocol.send_frame(frame(), "a", 0.0)
    with pytest.raises(SessionError, match="no frame now") as caught:
        protocol.send_frame(frame(), "b", 0.0)
    assert caught.value.reason == "no_credit"
    assert protocol.last_sequence == 1
    assert protocol.receive(say(credit=ingest_pb2.Credit(credits=2)), 0.0) == [CreditGranted()]
    protocol.receive(say(drain=ingest_pb2.Drain()), 0.0)
    with pytest.raises(SessionError, match="about to stop"):
        protocol.send_frame(frame(), "b", 0.0)
    protocol.bye()
    protocol.answer("late")
    protocol.send_status(1, 1)
    protocol.receive(say(heartbeat=ingest_pb2.Heartbeat(nonce=1)), 0.0)
    assert kinds(protocol) == ["frame", "bye"]


def test_a_message_that_is_too_large_changes_nothing() -> None:
    limits = ingest_pb2.ServerSettings(max_message_bytes=200)
    protocol = opened(settings=limits)
    with pytest.raises(SessionError) as caught:
        protocol.send_frame(frame(payload=bytes(200)), "large", 0.0)
    assert caught.value.reason == "message_too_large"
    assert (protocol.credits, protocol.busy, protocol.has_message) == (4, False, False)
    assert protocol.send_frame(frame(), "small", 0.0).sequence == 1


def test_messages_that_are_ready_together_go_out_together_where_the_server_takes_that() -> None:
    several = opened(credits=BATCH_MESSAGES + 1, takes_batches=True)
    for _ in range(BATCH_MESSAGES + 1):
        several.send_frame(frame(), "", 0.0)
    assert several.has_message
    first, second = (
        ingest_pb2.ConnectRequest.FromString(several.next_message() or b"") for _ in range(2)
    )
    assert len(first.batch.requests) == BATCH_MESSAGES
    assert second.frame.sequence == BATCH_MESSAGES + 1
    assert several.next_message() is None
    large = opened(takes_batches=True)
    for size in (BATCH_BYTES, 10, 10):
        large.send_frame(frame(payload=bytes(size)), "", 0.0)
    sizes = []
    while (data := large.next_message()) is not None:
        sizes.append(len(ingest_pb2.ConnectRequest.FromString(data).batch.requests))
    assert sizes == [0, 2]  # what is larger than a batch goes by itself
    single = opened()
    single.send_frame(frame(), "", 0.0)
    single.send_frame(frame(), "", 0.0)
    assert ingest_pb2.ConnectRequest.FromString(single.next_message() or b"").HasField("frame")


def test_the_owner_learns_of_every_message_with_its_size() -> None:
    queued: list[tuple[Any, int, bool]] = []
    protocol = Protocol(HELLO, queued=lambda *one: queued.append(one))
    protocol.connect(0.0)
    protocol.receive(welcome(), 0.0)
    protocol.send_frame(frame(), "", 0.0)
    refine = ingest_pb2.Refine(sequence=1)
    protocol.send_refine(refine, (1, BUNDLE, 2), "", 0.0)
    sizes = [request.ByteSize() for request in sent(protocol)]
    assert queued == [
        (None, sizes[0], False), (key(1), sizes[1], True), ((1, BUNDLE, 2), sizes[2], False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (welcome(), "invalid_message"),
        (say(credit=ingest_pb2.Credit(credits=MAX_CREDITS)), "invalid_message"),
    ],
)
def test_a_server_that_breaks_the_protocol_ends_the_stream(
    response: ingest_pb2.ConnectResponse, reason: str
) -> None:
    protocol = opened()
    batch = ingest_pb2.ResponseBatch(responses=[ack(1), response, ack(2)])
    acknowledged, failed = protocol.receive(say(batch=batch), 0.0)
    assert isinstance(acknowledged, Acknowledged)
    assert isinstance(failed, Failed)
    assert (failed.error.reason, failed.broken) == (reason, True)
    assert not protocol.can_send


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"protocol_version": PROTOCOL_VERSION + 1}, "unsupported_version"),
        ({"credits": MAX_CREDITS + 1}, "invalid_message"),
    ],
)
def test_a_welcome_that_cannot_be_taken_opens_nothing(changes: dict[str, Any], reason: str) -> None:
    protocol = Protocol(HELLO)
    protocol.connect(0.0)
    (failed,) = protocol.receive(welcome(**changes), 0.0)
    assert isinstance(failed, Failed)
    assert failed.error.reason == reason
    assert protocol.welcome is None


def test_the_servers_own_error_is_why_the_stream_ended() -> None:
    protocol = opened()
    open_frame = protocol.send_frame(frame(), "a", 0.0)
    error = SessionError("superseded", "another stream")
    (failed,) = protocol.receive(say(error=error_to_message(error)), 0.0)
    assert isinstance(failed, Failed)
    assert not failed.broken
    assert protocol.disconnected(SessionError("refused", "the status")) == [open_frame]
    assert protocol.failure is not None
    assert protocol.failure.reason == "superseded"


def test_what_a_newer_server_says_is_ignored() -> None:
    protocol = opened()
    assert protocol.receive(ingest_pb2.ConnectResponse(), 0.0) == []
    assert protocol.can_send


# -- commands ------------------------------------------------------------------------------------


def test_layers_that_a_command_asks_for_go_before_frames_and_answer_the_command() -> None:
    protocol = opened(credits=1)
    protocol.send_frame(frame(), "frame", 0.0)
    wanted = fleet_pb2.RefineFrame(sequence=1, bundle_short_id=BUNDLE, state=1)
    command = fleet_pb2.Command(command_id="c", refine_frame=wanted)
    (event,) = protocol.receive(say(command=command), 0.0)
    assert event == CommandReceived(command, pending=True)
    refine = ingest_pb2.Refine(sequence=1)
    protocol.queue_refine(refine, (1, BUNDLE, 1), "layers", 0.0, "c")
    assert kinds(protocol) == ["frame"]
    protocol.receive(result(1, 1), 0.0)
    protocol.receive(say(credit=ingest_pb2.Credit(credits=1)), 7.0)
    assert protocol.credits == 0
    assert kinds(protocol) == ["refine", "command_reply"]
    (refined,) = protocol.unanswered
    assert (refined.context, refined.refines, refined.sent_at) == ("layers", True, 7.0)
    (late,) = protocol.receive(say(command=command), 0.0)
    assert isinstance(late, CommandReceived)
    assert late.pending  # what was asked for before is still to come


def test_a_refusal_says_why() -> None:
    protocol = opened()
    protocol.answer("c", TaskError("no", "because"))
    (reply,) = sent(protocol)
    assert (reply.command_reply.command_id, reply.command_reply.error.reason) == ("c", "no")


def test_a_drain_gives_up_what_waits_for_credit_and_keeps_what_is_under_way() -> None:
    protocol = opened(credits=1)
    under_way = protocol.send_frame(frame(), "frame", 0.0)
    protocol.queue_refine(ingest_pb2.Refine(sequence=1), (1, BUNDLE, 1), "layers", 0.0, "c")
    (drained,) = protocol.receive(say(drain=ingest_pb2.Drain(deadline_s=3)), 0.0)
    assert isinstance(drained, Drained)
    assert ([one.context for one in drained.abandoned], drained.deadline_s) == (["layers"], 3)
    assert protocol.unanswered == (under_way,)
    (done,) = protocol.receive(result(1, 1), 0.0)
    assert isinstance(done, Answered)
    assert done.sent is under_way


# -- time ----------------------------------------------------------------------------------------


def test_an_idle_stream_is_asked_for_an_answer_and_given_up_without_one() -> None:
    protocol = opened()
    assert protocol.beat(HEARTBEAT_TIME_S - 1)
    assert kinds(protocol) == []
    assert protocol.beat(HEARTBEAT_TIME_S)
    (beat,) = sent(protocol)
    protocol.receive(
        say(heartbeat=ingest_pb2.Heartbeat(nonce=beat.heartbeat.nonce, reply=True)), 16.0
    )
    assert protocol.beat(16.0)
    assert protocol.beat(16.0 + HEARTBEAT_TIME_S)
    assert protocol.beat(16.0 + HEARTBEAT_TIME_S + HEARTBEAT_TIMEOUT_S - 1)
    assert not protocol.beat(16.0 + HEARTBEAT_TIME_S + HEARTBEAT_TIMEOUT_S)
    assert protocol.failure is not None
    assert protocol.failure.reason == "connection_lost"


def test_a_stream_with_frames_under_way_is_not_asked() -> None:
    protocol = opened()
    protocol.send_frame(frame(), "", 0.0)
    sent(protocol)
    assert protocol.beat(1000.0)
    assert kinds(protocol) == []


def test_a_servers_heartbeat_is_answered_and_a_status_is_sent_when_it_changes() -> None:
    protocol = opened()
    protocol.receive(say(heartbeat=ingest_pb2.Heartbeat(nonce=9)), 0.0)
    protocol.send_status(0, 0)  # as the server takes it to be
    protocol.send_status(3, 900)
    protocol.send_status(3, 900)
    beat, status = sent(protocol)
    assert (beat.heartbeat.nonce, beat.heartbeat.reply) == (9, True)
    assert (status.status.queued_frames, status.status.queued_bytes) == (3, 900)


# -- over several streams ------------------------------------------------------------------------


def test_without_a_memory_frames_end_with_their_stream() -> None:
    protocol = opened()
    ended = protocol.send_frame(frame(), "a", 0.0)
    assert protocol.disconnected() == [ended]
    assert not protocol.busy
    protocol.connect(1.0)
    assert kinds(protocol) == ["hello"]


def test_what_is_not_acknowledged_goes_out_again_and_the_rest_does_not() -> None:
    protocol = opened(remembers=True)
    frames = [protocol.send_frame(frame(), name, 0.0) for name in "abcd"]
    protocol.receive(ack(1), 0.0)
    protocol.receive(result(1, 1), 0.0)
    protocol.receive(ack(2), 0.0)
    assert protocol.disconnected() == []
    protocol.connect(1.0)
    (hello,) = sent(protocol)
    assert hello.hello.last_result_seen == 1
    events = protocol.receive(welcome(credits=1, resume_after_sequence=3), 1.0)
    assert events[1:] == [Acknowledged(key(3), frames[2], first=True), Resent(frames[3])]
    assert [one.frame.sequence for one in sent(protocol)] == [4]
    assert protocol.credits == 0
    (taken,) = protocol.receive(ack(4, duplicate=True), 1.0)
    assert taken == Acknowledged(key(4), frames[3], first=True, duplicate=True)
    assert protocol.last_sequence == 4


def test_frames_of_before_go_out_in_order_as_credit_comes_and_before_new_ones() -> None:
    protocol = opened(remembers=True)
    for name in "abc":
        protocol.send_frame(frame(), name, 0.0)
    protocol.disconnected()
    protocol.connect(1.0)
    protocol.receive(welcome(credits=1), 1.0)
    with pytest.raises(SessionError):
        protocol.send_frame(frame(), "new", 1.0)
    granted = protocol.receive(say(credit=ingest_pb2.Credit(credits=3)), 1.0)
    assert [type(one) for one in granted] == [Resent, Resent, CreditGranted]
    protocol.send_frame(frame(), "new", 1.0)
    numbers = [one.frame.sequence for one in sent(protocol) if one.HasField("frame")]
    assert numbers == [1, 2, 3, 4]


class ModelServer:
    """Keeps the server's promises: a frame that it acknowledges is processed once, and has one
    result, which is repeated to a device that has not seen it."""

    def __init__(self) -> None:
        self.processed: Counter[int] = Counter()
        self.log: list[int] = []
        """Sequence of each result, by its number less one."""
        self.unfinished: deque[int] = deque()
        self.room = 0
        self.connected = False

    def open(self, hello: ingest_pb2.Hello, credits: int) -> list[ingest_pb2.ConnectResponse]:
        self.connected, self.room = True, credits
        upto = 0
        while upto + 1 in self.processed:
            upto += 1
        seen = hello.last_result_seen
        return [
            welcome(credits, resume_after_sequence=upto, takes_batches=credits % 2 == 0),
            *(result(self.log[number], number + 1) for number in range(seen, len(self.log))),
        ]

    def take(self, sequence: int) -> list[ingest_pb2.ConnectResponse]:
        assert self.room > 0, "more frames than credits"
        self.room -= 1
        duplicate = sequence in self.processed
        if not duplicate:
            self.processed[sequence] += 1
            self.unfinished.append(sequence)
            return [ack(sequence)]
        answers = [ack(sequence, duplicate=True)]
        if sequence in self.log:
            answers += [result(sequence, self.log.index(sequence) + 1), self.grant()]
        return answers

    def finish(self) -> list[ingest_pb2.ConnectResponse]:
        if not self.unfinished:
            return []
        sequence = self.unfinished.popleft()
        self.log.append(sequence)
        return [result(sequence, len(self.log)), self.grant()] if self.connected else []

    def grant(self) -> ingest_pb2.ConnectResponse:
        self.room += 1
        return say(credit=ingest_pb2.Credit(credits=1))


class World:
    """A device, a server, and a line between them that loses what is on it when it is cut."""

    def __init__(self) -> None:
        self.device = Protocol(HELLO, remembers=True)
        self.server = ModelServer()
        self.up: deque[ingest_pb2.ConnectRequest] = deque()
        self.down: deque[ingest_pb2.ConnectResponse] = deque()
        self.sent = 0
        self.acknowledged: Counter[int] = Counter()
        self.answered: Counter[int] = Counter()
        self.now_s = 0.0

    def connect(self) -> None:
        if self.device.state is State.CLOSED:
            self.device.connect(self.now_s)

    def cut(self) -> None:
        if self.device.state is not State.CLOSED:
            assert self.device.disconnected() == []
        self.up.clear()
        self.down.clear()
        self.server.connected = False

    def send(self) -> None:
        if self.device.can_send:
            self.sent += 1
            assert self.device.send_frame(frame(), str(self.sent), self.now_s).sequence == self.sent

    def carry_up(self, credits: int) -> None:
        while (data := self.device.next_message()) is not None:
            request = ingest_pb2.ConnectRequest.FromString(data)
            self.up.extend(request.batch.requests or (request,))
        if self.up:
            request = self.up.popleft()
            if request.HasField("hello"):
                self.down.extend(self.server.open(request.hello, credits))
            elif request.HasField("frame"):
                self.down.extend(self.server.take(request.frame.sequence))

    def carry_down(self, together: int) -> None:
        messages = [self.down.popleft() for _ in range(min(together, len(self.down)))]
        if len(messages) > 1:
            messages = [say(batch=ingest_pb2.ResponseBatch(responses=messages))]
        for message in messages:
            for event in self.device.receive(message, self.now_s):
                self.note(event)

    def note(self, event: Event[str]) -> None:
        match event:
            case Acknowledged(sent=sent, first=True) if sent is not None:
                self.acknowledged[sent.sequence] += 1
            case Answered(sent=sent) if sent is not None:
                assert sent.context == str(sent.sequence)
                self.answered[sent.sequence] += 1
            case Failed(error=error):
                raise error

    def step(self, action: str, number: int) -> None:
        self.now_s += 0.1
        match action:
            case "connect":
                self.connect()
            case "cut":
                self.cut()
            case "cut and connect":
                self.cut()
                self.connect()
            case "send":
                for _ in range(number):
                    self.send()
            case "up":
                self.carry_up(number)
            case "down":
                self.carry_down(number)
            case "finish":
                self.down.extend(self.server.finish())

    def settle(self) -> None:
        """The line holds, and all comes to its end."""
        self.connect()
        for _ in range(20 * self.sent + 100):
            if not (self.up or self.down or self.device.has_message or self.device.busy):
                return
            for action in ("up", "finish", "down", "down"):
                self.step(action, 3)


ACTIONS = st.tuples(
    st.sampled_from(
        ["cut", "cut and connect", "connect", *["send", "up", "up", "down", "down", "finish"] * 2]
    ),
    st.integers(1, 4),
)


@settings(deadline=None)
@given(st.lists(ACTIONS, min_size=30, max_size=60))
def test_whatever_happens_to_the_line_every_frame_is_processed_and_answered_once(
    actions: list[tuple[str, int]],
) -> None:
    world = World()
    for action, number in actions:
        world.step(action, number)
        assert world.device.credits >= 0
    world.settle()
    once = dict.fromkeys(range(1, world.sent + 1), 1)
    assert world.server.processed == once
    assert world.answered == once
    assert all(count == 1 for count in world.acknowledged.values())
    assert not world.device.busy
