"""A lasting link to an MQTT broker: one connection after the other, under one steady client id.

A connection is either there or lost, with all that it did not settle: nothing is sent again
behind the caller's back, so that a message that the broker can never take ends with its
connection, and whoever sent it decides what becomes of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from shared.backoff import Backoff

if TYPE_CHECKING:
    from paho.mqtt.client import Client
    from paho.mqtt.enums import MQTTProtocolVersion

KEEPALIVE_S = 30
SETTLE_S = 10.0
"""How long a broker that settles nothing is waited for."""
STEADY_S = 10.0
"""A connection that lasted for so long was a good one; the next is made without delay."""
MAX_SHORT_LIVES = 3
MAX_UNSETTLED = 3
IN_FLIGHT = 20
_REASON_TAKEN_OVER = 0x8E
_REASON_NO_RETAIN, _REASON_NO_QOS = 0x9A, 0x9B
_NO_LETTER = re.compile(r"[^0-9A-Za-z]")


class Address(Protocol):
    """Where a broker is, and how it lets this end in."""

    @property
    def host(self) -> str:
        """Its name or number."""

    @property
    def port(self) -> int:
        """Of TCP."""

    @property
    def tls(self) -> bool:
        """Whether it speaks TLS."""

    @property
    def ca(self) -> str | None:
        """A PEM file of who may have signed its certificate; None: whom this machine trusts."""

    @property
    def user(self) -> str | None:
        """Who this end is; None: nobody."""

    @property
    def password(self) -> str | None:
        """The user's."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message to publish."""

    topic: str
    payload: str
    qos: int = 1
    retain: bool = False


@dataclass(slots=True, eq=False)
class Ticket:
    """What becomes of a message, or of a subscription: settled, or lost with its connection.

    refusal: the broker's reason code (0x80 and above) and its words, when it settled it so.
    """

    about: str
    settled: bool = False
    lost: bool = False
    refusal: tuple[int, str] | None = None


class Connection:
    """One connection, from CONNECT to its end."""

    def __init__(self, client: Client, changed: threading.Condition, *, version5: bool) -> None:
        """changed: notified of all that happens here."""
        self.client = client
        self.accepted = False
        """The broker has let this end in."""
        self.ready = False
        """All that is said first is settled: reports may go out."""
        self.ended = False
        self.abandoned = False
        """It was ended from here, for the broker did not answer."""
        self.why = "no answer"
        """Why it ended, or was refused."""
        self.code = 0
        """The reason code of that; 0 when there was none."""
        self.max_packet_bytes: int | None = None
        self.max_in_flight = IN_FLIGHT
        self.version5 = version5
        self._max_qos = 2
        self._retains = True
        self._changed = changed
        self._open: dict[int, Ticket] = {}
        self._early: dict[int, tuple[int, str] | None] = {}
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe

    def publish(self, message: Message) -> Ticket:
        """Send a message; what the broker cannot do of its QoS and its retaining is left out."""
        qos = min(message.qos, self._max_qos)
        try:
            info = self.client.publish(
                message.topic, message.payload, qos=qos, retain=message.retain and self._retains
            )
        except (ValueError, RuntimeError) as error:  # the topic, or the payload's size, is none
            return Ticket(message.topic, settled=True, refusal=(0x90, str(error)))
        return self._register(info.mid, Ticket(message.topic), ok=info.rc == 0)

    def subscribe(self, topic: str) -> Ticket:
        """Ask for the messages of a topic."""
        result, mid = self.client.subscribe(topic, qos=0)
        return self._register(mid, Ticket(topic), ok=int(result) == 0)

    def wait(self, tickets: Iterable[Ticket], idle_s: float | None = None) -> bool:
        """Wait until all are settled or lost; False when the broker settles nothing at all for
        ``idle_s`` seconds (``SETTLE_S``)."""
        idle_s = SETTLE_S if idle_s is None else idle_s
        for ticket in tickets:
            while not (ticket.settled or ticket.lost):
                with self._changed:
                    before = len(self._open)
                    if not self._changed.wait_for(
                        lambda: ticket.settled or ticket.lost or len(self._open) < before,  # noqa: B023
                        idle_s,
                    ):
                        return False
        return True

    def packet_bytes(self, message: Message) -> int:
        """The size of a message as a packet, in bytes."""
        rest = 2 + len(message.topic.encode()) + len(message.payload.encode())
        rest += (2 if message.qos else 0) + (1 if self.version5 else 0)
        length_bytes = 1 + sum(rest >= 128**power for power in (1, 2, 3))
        return 1 + length_bytes + rest

    def abandon(self, why: str) -> None:
        """End it at once, without a word to the broker: it did not answer either."""
        with self._changed:
            if not self.ended:
                self.why, self.abandoned = why, True
        end: Any = self.client.socket()
        with contextlib.suppress(OSError, AttributeError):
            end.shutdown(socket.SHUT_RDWR)
        self.end()

    def end(self) -> None:
        """Note that it has ended: what is not settled is lost."""
        with self._changed:
            self.ended = True
            for ticket in self._open.values():
                ticket.lost = True
            self._open.clear()
            self._changed.notify_all()

    # -- paho's thread: it holds locks of its own here, so nothing of paho is called --------------

    def _register(self, mid: int | None, ticket: Ticket, *, ok: bool) -> Ticket:
        with self._changed:
            if mid is not None and mid in self._early:
                self._settle(ticket, self._early.pop(mid))
            elif not ok or mid is None or self.ended:
                ticket.lost = True
            else:
                self._open[mid] = ticket
            return ticket

    def _settle(self, ticket: Ticket, refusal: tuple[int, str] | None) -> None:
        ticket.refusal = refusal
        ticket.settled = True
        self._changed.notify_all()

    def _settled(self, mid: int, reason: Any) -> None:
        refusal = (int(reason.value), str(reason)) if reason.is_failure else None
        with self._changed:
            ticket = self._open.pop(mid, None)
            if ticket is None:
                self._early[mid] = refusal
            else:
                self._settle(ticket, refusal)

    def _on_connect(self, _: Any, __: Any, ___: Any, reason: Any, properties: Any) -> None:
        with self._changed:
            if reason.is_failure:
                self.why, self.code = str(reason), int(reason.value)
            else:
                self.accepted = True
                self.max_packet_bytes = getattr(properties, "MaximumPacketSize", None)
                self.max_in_flight = int(getattr(properties, "ReceiveMaximum", IN_FLIGHT))
                self._max_qos = int(getattr(properties, "MaximumQoS", 2))
                self._retains = bool(getattr(properties, "RetainAvailable", 1))
            self._changed.notify_all()

    def _on_disconnect(self, _: Any, __: Any, flags: Any, reason: Any, ___: Any) -> None:
        with self._changed:
            # Else the reason is why it was refused, or abandoned.
            if self.accepted and not self.ended:
                self.why = f"connection lost ({reason})"
                self.code = int(reason.value) if flags.is_disconnect_packet_from_server else 0
        self.end()

    def _on_publish(self, _: Any, __: Any, mid: int, reason: Any, ___: Any) -> None:
        self._settled(mid, reason)

    def _on_subscribe(self, _: Any, __: Any, mid: int, reasons: Sequence[Any], ___: Any) -> None:
        if reasons:
            self._settled(mid, reasons[0])


class BrokerLink:
    """Keeps a connection to a broker, in a thread of its own, and says at its beginning what is to
    be said: that this end is online, and more.

    Whoever else publishes that this end is offline is corrected: a broker does so when it notices
    a connection's death long after the next one has begun, and so does another process of the same
    name when it ends.
    """

    def __init__(
        self,
        address: Address,
        client_id: str,
        available: str,
        *,
        first: Callable[[], Sequence[Message]],
        birth: str | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        """available: the topic of ``online`` and ``offline``. first: what each connection begins
        with. birth: a topic on which ``online`` asks for all that once more. backoff: pauses
        between connections."""
        self._address = address
        self._own_id = client_id
        self._id = client_id
        self._available = available
        self._first = first
        self._birth = birth
        self._backoff = backoff or Backoff(1.0, 30.0)
        self._changed = threading.Condition()
        self._connection: Connection | None = None
        self._closing = False
        self._version5 = True
        self._will_qos, self._will_retains = 1, True
        self._in_flight = IN_FLIGHT
        self._short_lives = 0
        self._failures = 0
        self._other_version = False
        self._unsettled = 0
        self._why = "no answer"
        self._thread = threading.Thread(target=self._run, name="featherwire-mqtt", daemon=True)

    def open(self) -> None:
        """Begin to connect."""
        self._thread.start()

    @property
    def why(self) -> str:
        """Why there is no connection."""
        return self._why

    def ready(self, timeout_s: float) -> Connection | None:
        """The connection as soon as reports may go out; None when it is not there in time, or one
        more attempt has failed."""

        def there() -> bool:
            connection = self._connection
            return connection is not None and connection.ready and not connection.ended

        with self._changed:
            before = self._failures
            self._changed.wait_for(lambda: there() or self._failures > before, timeout_s)
            return self._connection if there() else None

    def close(self, settle_s: float = 2.0) -> None:
        """Say that this end goes, and end."""
        with self._changed:
            self._closing = True
            connection = self._connection
            self._changed.notify_all()
        if connection is not None and connection.accepted and not connection.ended:
            offline = connection.publish(self._said("offline"))
            connection.wait([offline], settle_s)
            connection.client.disconnect()
        self._thread.join(settle_s)

    # -- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            began_s = time.monotonic()
            connection = self._connect()
            if connection is not None:
                self._live(connection)
                self._note_end(connection, time.monotonic() - began_s)
                if self._other_version:
                    continue
            with self._changed:
                self._failures += 1
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._closing, self._backoff.next_s())

    def _connect(self) -> Connection | None:
        """A connection on which the broker was asked to let this end in."""
        try:
            client = self._client()
            connection = Connection(client, self._changed, version5=self._version5)
            client.on_message = self._on_message
            client.connect(self._address.host, self._address.port, KEEPALIVE_S)
        except (OSError, ValueError) as error:  # also of TLS: ssl.SSLError is an OSError
            self._why = str(error) or type(error).__name__
            return None
        with self._changed:
            self._connection = connection
        client.loop_start()
        return connection

    def _live(self, connection: Connection) -> None:
        """From the broker's answer to the end of the connection."""
        with self._changed:
            self._changed.wait_for(
                lambda: connection.accepted or connection.ended or self._closing, SETTLE_S
            )
        if connection.accepted and not connection.ended:
            self._begin(connection)
        elif not connection.ended:
            connection.abandon(connection.why)
        with self._changed:
            self._changed.wait_for(lambda: connection.ended or self._closing)
            if self._closing:
                self._changed.wait_for(lambda: connection.ended, 2.0)
        if not connection.ended:
            connection.abandon("closed")
        connection.client.loop_stop()

    def _begin(self, connection: Connection) -> None:
        """Say what is said first, and wait until the broker has it."""
        if connection.max_in_flight < self._in_flight:  # the library takes this before it connects
            self._in_flight = max(1, connection.max_in_flight)
            connection.abandon("the broker takes fewer messages at once")
            return
        online = connection.publish(self._said("online"))
        if not connection.wait([online]):
            connection.abandon("it did not take a message in time")
        if online.lost:
            return
        if self._unsettled < MAX_UNSETTLED:
            more = [connection.subscribe(self._available)]
            more += [connection.subscribe(self._birth)] if self._birth is not None else []
            more += [connection.publish(message) for message in self._first()]
            if not connection.wait(more):
                connection.abandon("it did not take a message in time")
            # Some brokers end the connection of who asks for what it may not have.
            self._unsettled = self._unsettled + 1 if any(one.lost for one in more) else 0
        with self._changed:
            connection.ready = not connection.ended
            self._changed.notify_all()

    def _note_end(self, connection: Connection, lasted_s: float) -> None:
        """Learn from how a connection ended."""
        self._why = connection.why
        tried_both, self._other_version = self._other_version, False
        if not connection.accepted:
            if connection.code == _REASON_NO_RETAIN:
                self._will_retains = False
            elif connection.code == _REASON_NO_QOS:
                self._will_qos = 0
            elif connection.code in (0, 0x84):  # none, or of the version: try the other one
                self._version5 = not self._version5
                self._other_version = not tried_both
            return
        if lasted_s >= STEADY_S:
            self._backoff.reset()
            self._short_lives = self._unsettled = 0
        else:
            self._short_lives += 1
        # Somebody else has this id, and lives: two that take it from each other would go on for
        # ever. Brokers without MQTT 5 do not say so.
        if connection.code == _REASON_TAKEN_OVER or self._short_lives >= MAX_SHORT_LIVES:
            if self._id == self._own_id:
                self._id = self._own_id + secrets.token_hex(2)
            self._short_lives = 0

    def _client(self) -> Client:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

        version: MQTTProtocolVersion
        version = MQTTProtocolVersion.MQTTv5 if self._version5 else MQTTProtocolVersion.MQTTv311
        client = Client(
            CallbackAPIVersion.VERSION2,
            self._id,
            protocol=version,
            reconnect_on_failure=False,
        )
        client.max_inflight_messages_set(self._in_flight)
        client.will_set(self._available, "offline", self._will_qos, self._will_retains)
        if self._address.user is not None:
            client.username_pw_set(self._address.user, self._address.password)
        if self._address.tls:
            client.tls_set(ca_certs=self._address.ca)
        return client

    def _said(self, word: str) -> Message:
        return Message(self._available, word, qos=1, retain=True)

    # -- paho's thread ---------------------------------------------------------------------------

    def _on_message(self, client: Client, _: Any, message: Any) -> None:
        connection = self._connection
        if self._closing or connection is None or connection.client is not client:
            return
        if message.topic == self._available and message.payload == b"offline":
            connection.publish(self._said("online"))
        # A retained one was there before this connection, which has just said all.
        elif message.topic == self._birth and message.payload == b"online" and not message.retain:
            for one in self._first():
                connection.publish(one)
            connection.publish(self._said("online"))


def client_id_of(client_name: str, base: str) -> str:
    """A steady id of at most 18 letters and digits, which every broker has to take (23)."""
    mark = hashlib.sha256(f"{client_name}\0{base}".encode()).hexdigest()[:8]
    return f"fw{_NO_LETTER.sub('', client_name)[:8]}{mark}"
