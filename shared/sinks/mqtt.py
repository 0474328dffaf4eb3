"""MQTT, with Home Assistant's discovery.

BASE/DEVICE/summary    the last report in short, retained
BASE/DEVICE/result     every report, as ``Report.to_dict`` has it
BASE/CLIENT/available  ``online`` or, by the broker's last will, ``offline``; retained

MQTT 5, for its brokers say what they do not take and why; with those that do not speak it, 3.1.1.
"""

from __future__ import annotations

import logging
import re
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from shared.addresses import split_address
from shared.backoff import Backoff
from shared.errors import SinkError
from shared.installation import require
from shared.json_text import to_json
from shared.results import counts_of
from shared.sinks.broker import (
    SETTLE_S,
    BrokerLink,
    Connection,
    Message,
    Ticket,
    client_id_of,
)
from shared.sinks.home_assistant import BIRTH, PREFIX, Announcer, is_announcement, summary
from shared.sinks.report import Report
from shared.words import counted

PORT, TLS_PORT = 1883, 8883
CONNECT_S = 5.0
LOOK_AGAIN_S = 1.0
AT_ONCE = 32
MAX_UNDER_WAY = 4 * AT_ONCE
MAX_STRIKES = 3
"""So many connections in a row that end over one message: the broker can never take it."""
PATIENCE_S = 10.0
"""How long a message is tried that the broker answers with a failure which may pass (a quota)."""
LIMIT_KEPT_S = 3600.0
"""How long something is left out that the broker has refused in words."""
PROBE_S = 60.0
"""How long something is left out that only seems to be refused: then one is sent, to see."""
FAR_LARGER = 1.25
"""So many times what has passed, and a few in a row: then it is the size."""
_NO_TOPIC = re.compile(r"[+#/\0]")
_TRUE = {"1", "true", "yes", PREFIX}
_TOO_LARGE = 0x95
_NEVER = {0x87: "not authorised", 0x90: "no such topic", 0x95: "too large", 0x99: "no such format"}
"""MQTT 5's reason codes of what is of no use to be tried again."""


@dataclass(frozen=True, slots=True)
class MqttAddress:
    """What ``mqtt[s]://[USER[:PASSWORD]@]HOST[:PORT]/TOPIC[?OPTION=VALUE&...]`` names.

    Options: ``qos`` (0, 1; default 1), ``discovery`` (``homeassistant``), ``ca`` (a PEM file).
    """

    host: str
    port: int
    tls: bool
    base: str
    user: str | None
    password: str | None = field(repr=False)
    qos: int
    discovery: bool
    ca: str | None

    @classmethod
    def parse(cls, url: str, password: str | None = None) -> MqttAddress:
        """password: where the URL has none. Raises ``SinkError("bad_sink")``."""
        try:
            parts = split_address(url)
            query = urlsplit(parts.bare).query
            options = {name: values[-1] for name, values in parse_qs(query).items()}
            qos = options.pop("qos", "1")
            if qos not in ("0", "1"):
                raise ValueError("qos is 0 or 1")
        except ValueError as error:
            raise SinkError(
                "bad_sink", f"MQTT is mqtt://HOST[:PORT]/TOPIC[?qos=0|1]: {error}"
            ) from None
        base = unquote(parts.path).strip("/") or "featherwire"
        discovery, ca = options.pop("discovery", ""), options.pop("ca", None)
        if options or "#" in base or "+" in base or "#" in url:
            wrong = ", ".join(options) or "# and + in a topic"
            raise SinkError("bad_sink", f"MQTT does not know {wrong}")
        tls = parts.scheme == "mqtts"
        return cls(
            parts.host,
            parts.port or (TLS_PORT if tls else PORT),
            tls,
            base,
            parts.user,
            password if parts.password is None else parts.password,
            int(qos),
            discovery.lower() in _TRUE,
            ca,
        )


@dataclass(slots=True, eq=False)
class _UnderWay:
    """A report's messages, and what has become of each. strikes: so many connections ended over
    the one with the number ``struck``."""

    report: Report
    messages: list[Message]
    tickets: list[Ticket | None] = field(default_factory=list)
    strikes: int = 0
    struck: int = -1

    @property
    def result(self) -> Message:
        """The report as a whole."""
        return self.messages[-1]

    @property
    def open_number(self) -> int | None:
        """Of the first message that the broker has not settled; None when it has all."""
        for number, ticket in enumerate(self.tickets):
            if ticket is None or not ticket.settled:
                return number
        return None


@dataclass(frozen=True, slots=True)
class _Limit:
    """What a broker seems to take at most. ended: so many results that were larger were given up.
    Until ``kept_until_s`` (of ``time.monotonic``) larger ones are not sent; then one is, to see."""

    packet_bytes: int
    ended: int
    kept_until_s: float = 0.0


class MqttSink:
    """Publishes reports over a link that lasts."""

    def __init__(
        self, address: MqttAddress, client_name: str, *, backoff: Backoff | None = None
    ) -> None:
        """client_name: of this end, such as a device's name. backoff: pauses between connections.
        Raises SinkError: missing_extra, bad_sink for a CA file that cannot be read."""
        require("paho.mqtt.client", "mqtt", "MQTT", SinkError)
        if address.tls and address.ca is not None:
            try:
                ssl.create_default_context(cafile=address.ca)
            except (OSError, ValueError) as error:
                raise SinkError("bad_sink", f"the CA file {address.ca}: {error}") from None
        self.name = f"mqtt://{address.host}:{address.port}/{address.base}"
        self._address = address
        available = f"{address.base}/{topic_name(client_name)}/available"
        self._announcer = Announcer(available) if address.discovery else None
        self._summaries: dict[str, Message] = {}
        self._barred: dict[str, float] = {}
        self._struck_out: dict[str, int] = {}
        self._under_way: dict[int, _UnderWay] = {}
        self._careful = 0
        self._passed_bytes = 0
        self._passed_since = False
        self._limit: _Limit | None = None
        self._link = BrokerLink(
            address,
            client_id_of(client_name, address.base),
            available,
            first=self._first,
            birth=BIRTH if address.discovery else None,
            backoff=backoff,
        )
        self._link.open()

    @property
    def at_once(self) -> int:
        """One, after a connection was lost with reports on it: whose fault it was shows then."""
        return 1 if self._careful else AT_ONCE

    def deliver(self, reports: Sequence[Report]) -> None:
        """Publish the reports, and wait until the broker has them."""
        connection = self._link.ready(CONNECT_S)
        if connection is None:
            # Asking is cheap; how often it is tried to connect is the link's own affair.
            raise SinkError(
                "sink_away", f"{self.name}: {self._link.why}", retry_within_s=LOOK_AGAIN_S
            )
        items = [self._item(report) for report in reports]
        one_by_one = self._careful > 0
        for item in items:
            for number in range(len(item.messages)):
                self._publish(connection, item, number)
                if one_by_one and not self._wait(connection, item):
                    break
        for item in items:
            self._settle(connection, item, one_by_one=one_by_one)
        self._careful = max(0, self._careful - len(items))
        for item in items:
            self._under_way.pop(id(item.report), None)

    def close(self) -> None:
        """Announce that this end goes, and disconnect."""
        self._link.close()

    # -- parts -----------------------------------------------------------------------------------

    def _first(self) -> Sequence[Message]:
        """What every connection begins with: the broker may have forgotten all of it."""
        said = self._announcer.everything() if self._announcer is not None else []
        return [*said, *self._summaries.copy().values()]

    def _item(self, report: Report) -> _UnderWay:
        """What is known of a report: what the broker has settled of it is not sent again."""
        item = self._under_way.setdefault(id(report), _UnderWay(report, []))
        if not item.messages:
            item.messages = self._messages(report)
            item.tickets = [None for _ in item.messages]
        # What was lost with a connection is sent again.
        item.tickets = [None if one is not None and one.lost else one for one in item.tickets]
        while len(self._under_way) > MAX_UNDER_WAY:  # of what was dropped for newer ones
            del self._under_way[next(iter(self._under_way))]
        return item

    def _messages(self, report: Report) -> list[Message]:
        """The result comes last: one that ends the connection does not take the others along."""
        device = f"{self._address.base}/{topic_name(report.device)}"
        qos, topic = self._address.qos, f"{device}/summary"
        counts = {} if report.analysis is None else counts_of(report.analysis.tasks.values())
        messages = []
        if self._announcer is not None and not self._is_barred(PREFIX):
            messages += self._announcer.new(report.device, topic, counts)
        if not self._is_barred(topic):
            self._summaries[topic] = Message(topic, to_json(summary(report, counts)), qos, True)
            messages.append(self._summaries[topic])
        return [*messages, Message(f"{device}/result", to_json(report.to_dict()), qos)]

    def _publish(self, connection: Connection, item: _UnderWay, number: int) -> None:
        """Send a message, unless it is settled or on its way."""
        message, ticket = item.messages[number], item.tickets[number]
        again = ticket is None or (ticket.refusal is not None and message is item.result)
        if not again:
            return
        bound = self._bound(connection)
        if self._is_barred(message.topic):
            item.tickets[number] = Ticket(message.topic, settled=True, refusal=(0x87, "left out"))
        elif bound is not None and connection.packet_bytes(message) > bound:
            words = f"it takes {bound} bytes, and this has {connection.packet_bytes(message)}"
            item.tickets[number] = Ticket(message.topic, settled=True, refusal=(_TOO_LARGE, words))
        else:
            item.tickets[number] = connection.publish(message)

    def _wait(self, connection: Connection, item: _UnderWay) -> bool:
        """Wait for what is on its way of a report; False when the connection ends before."""
        tickets = [ticket for ticket in item.tickets if ticket is not None]
        if not connection.wait(tickets):
            connection.abandon("it did not take a message in time")
        return not any(ticket.lost for ticket in tickets)

    def _settle(self, connection: Connection, item: _UnderWay, *, one_by_one: bool) -> None:
        """Wait until a report's messages are settled. Raises why they are not."""
        self._wait(connection, item)
        number = item.open_number
        if number is not None:
            self._lost(connection, item, number, one_by_one=one_by_one)
        for message, ticket in zip(item.messages, item.tickets, strict=True):
            assert ticket is not None
            if ticket.refusal is None and message is item.result:
                self._note_passed(connection.packet_bytes(message))
            elif ticket.refusal is None:
                self._struck_out.pop(_kind(message.topic), None)
            elif message is not item.result:
                self._left_out(message.topic, *ticket.refusal)
            elif ticket.refusal[0] in _NEVER:
                self._give_up(item, f"{_NEVER[ticket.refusal[0]]}: {ticket.refusal[1]}")
            else:
                words = f"{self.name} does not take a result: {ticket.refusal[1]}"
                raise SinkError("not_taken", words, patience_s=PATIENCE_S)

    def _lost(
        self, connection: Connection, item: _UnderWay, number: int, *, one_by_one: bool
    ) -> None:
        """The connection ended before a message was settled: of several that were on their way
        nobody knows which was the cause, so they go one by one now. Raises SinkError."""
        message = item.messages[number]
        is_result = message is item.result
        if not one_by_one:
            self._careful = max(1, len(self._under_way))
        elif is_result and connection.abandoned:
            # Nothing says that this one is at fault: a broker that hangs is one that may recover.
            words = f"{self.name} does not take a result: {connection.why}"
            raise SinkError(
                "not_taken", words, retry_within_s=LOOK_AGAIN_S, patience_s=3 * SETTLE_S
            )
        else:
            item.strikes = item.strikes + 1 if item.struck == number else 1
            item.struck = number
        size = connection.packet_bytes(message)
        likely = self._is_likely(size) if is_result else _kind(message.topic) in self._struck_out
        if item.strikes >= (1 if likely else MAX_STRIKES):
            why = f"its {size} bytes ended {counted(item.strikes, 'connection')}"
            if is_result:
                self._note_limit(size)
                self._give_up(item, why)
            times = self._struck_out.get(_kind(message.topic), 0)
            self._struck_out[_kind(message.topic)] = times + 1
            self._left_out(message.topic, 0x87, why, min(PROBE_S * 2.0**times, LIMIT_KEPT_S))
        raise SinkError("sink_away", f"{self.name}: {connection.why}", retry_within_s=LOOK_AGAIN_S)

    def _note_passed(self, size: int) -> None:
        """The broker has taken a result of this size."""
        self._passed_bytes = max(self._passed_bytes, size)
        self._passed_since = True
        if self._limit is not None and size > self._limit.packet_bytes:
            self._limit = None  # it was not the size

    def _is_likely(self, size: int) -> bool:
        """Whether a result that ends its connection does so for its size: a larger one than any
        that passed, when smaller ones have passed since one like it was given up."""
        limit = self._limit
        if limit is None or size <= limit.packet_bytes:
            return False
        return self._passed_since or limit.kept_until_s > 0.0

    def _note_limit(self, size: int) -> None:
        """A result of this size ended its connections: the broker may take no larger ones. It may
        as well have been disturbed. Smaller ones that pass between two such tell the size."""
        if size <= self._passed_bytes:
            return
        limit = self._limit or _Limit(size - 1, 0)
        ended = limit.ended + 1
        far = 0 < self._passed_bytes * FAR_LARGER < size and ended >= MAX_STRIKES
        known = limit.kept_until_s > 0.0 or far or (ended > 1 and self._passed_since)
        kept_until_s = time.monotonic() + PROBE_S if known else 0.0
        self._limit = _Limit(min(size - 1, limit.packet_bytes), ended, kept_until_s)
        self._passed_since = False

    def _give_up(self, item: _UnderWay, why: str) -> None:
        self._under_way.pop(id(item.report), None)
        self._careful = max(0, self._careful - 1)
        raise SinkError("refused", f"{self.name} can never take the result ({why})")

    def _left_out(self, topic: str, code: int, why: str, for_s: float | None = None) -> None:
        """The broker does not take what is no result. What is of no use to be tried again is not
        published for a while, of announcements none at all; it may be allowed until then."""
        if code not in _NEVER or code == _TOO_LARGE or self._is_barred(topic):
            return
        kind = _kind(topic)
        for_s = LIMIT_KEPT_S if for_s is None else for_s
        logging.getLogger(__name__).warning(
            "warning: %s does not take %s: %s; %s left out, and tried again in %.0f min",
            self.name,
            topic,
            why,
            "it is" if kind == topic else "all announcements are",
            for_s / 60,
        )
        self._barred[kind] = time.monotonic() + for_s
        self._summaries.pop(topic, None)
        if self._announcer is not None and kind == PREFIX:
            self._announcer.forget()

    def _is_barred(self, topic: str) -> bool:
        return time.monotonic() < self._barred.get(_kind(topic), 0.0)

    def _bound(self, connection: Connection) -> int | None:
        """The largest packet that the broker takes, in bytes: as it said, or as was seen."""
        bounds = [] if connection.max_packet_bytes is None else [connection.max_packet_bytes]
        if self._limit is not None and time.monotonic() < self._limit.kept_until_s:
            bounds.append(self._limit.packet_bytes)
        return min(bounds, default=None)


def _kind(topic: str) -> str:
    """What is left out together: all announcements, and else a topic."""
    return PREFIX if is_announcement(topic) else topic


def topic_name(name: str) -> str:
    """A name as one level of a topic."""
    return _NO_TOPIC.sub("_", name) or "_"
