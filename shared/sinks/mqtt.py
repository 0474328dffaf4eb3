"""MQTT, with Home Assistant's discovery.

BASE/DEVICE/result     every report, as ``Report.to_dict`` has it
BASE/DEVICE/summary    the last one in short, retained
BASE/CLIENT/available  ``online`` or, by the broker's last will, ``offline``; retained
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from shared.addresses import split_address
from shared.errors import SinkError
from shared.installation import require
from shared.results.types import counts_of
from shared.sinks.report import Report, iso

if TYPE_CHECKING:
    from paho.mqtt.client import MQTTMessageInfo

PORT, TLS_PORT = 1883, 8883
CONNECT_S = 5.0
PUBLISH_S = 10.0
KEEPALIVE_S = 30
MAX_PAUSE_S = 30
_NO_TOPIC = re.compile(r"[+#/\0]")
_TRUE = {"1", "true", "yes", "homeassistant"}
PREFIX = "homeassistant"
_NO_ID = re.compile(r"[^A-Za-z0-9_-]")


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
    password: str | None
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


class MqttSink:
    """Publishes reports; paho's thread connects, and connects again."""

    at_once = 32

    def __init__(self, address: MqttAddress, client_name: str) -> None:
        """client_name: of this end, such as a device's name. Raises SinkError: missing_extra,
        bad_sink for a CA file that cannot be read."""
        require("paho.mqtt.client", "mqtt", "MQTT", SinkError)
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self.name = f"mqtt://{address.host}:{address.port}/{address.base}"
        self._address = address
        self._base = address.base
        self._available = f"{self._base}/{topic_name(client_name)}/available"
        self._connected = threading.Event()
        self._why = "no answer"
        self._announced: set[str] = set()
        self._pending: dict[str, list[MQTTMessageInfo]] = {}
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.will_set(self._available, "offline", qos=1, retain=True)
        self._client.reconnect_delay_set(1, MAX_PAUSE_S)
        if address.user is not None:
            self._client.username_pw_set(address.user, address.password)
        if address.tls:
            try:
                self._client.tls_set(ca_certs=address.ca)
            except (OSError, ValueError) as error:
                raise SinkError("bad_sink", f"the CA file {address.ca}: {error}") from None
        self._client.connect_async(address.host, address.port, KEEPALIVE_S)
        self._client.loop_start()

    def deliver(self, reports: Sequence[Report]) -> None:
        """Publish the reports, and wait until the broker has them."""
        if not self._connected.wait(CONNECT_S):
            raise SinkError("sink_away", f"{self.name}: {self._why}")
        for report in reports:
            # One that is under way is not published again, but waited for.
            if report.id not in self._pending:
                self._pending[report.id] = self._publish(report)
        until = time.monotonic() + PUBLISH_S
        for report in reports:
            for info in self._pending[report.id]:
                self._wait(info, until)
        self._pending = {
            key: infos
            for key, infos in self._pending.items()
            if not all(info.is_published() for info in infos)
        }

    def close(self) -> None:
        """Announce that this end goes, and disconnect."""
        if self._connected.is_set():
            self._client.publish(self._available, "offline", qos=1, retain=True).wait_for_publish(2)
        self._client.disconnect()
        self._client.loop_stop()

    # -- parts -----------------------------------------------------------------------------------

    def _publish(self, report: Report) -> list[MQTTMessageInfo]:
        device = f"{self._base}/{topic_name(report.device)}"
        qos = self._address.qos
        counts = {} if report.analysis is None else counts_of(report.analysis.tasks.values())
        infos = []
        if self._address.discovery:
            for topic, config in announcements(
                report.device, f"{device}/summary", self._available, counts
            ):
                if topic not in self._announced:
                    self._announced.add(topic)
                    infos.append(
                        self._client.publish(topic, json.dumps(config), qos=1, retain=True)
                    )
        result, short = json.dumps(report.to_dict()), json.dumps(summary(report, counts))
        infos.append(self._client.publish(f"{device}/result", result, qos=qos))
        infos.append(self._client.publish(f"{device}/summary", short, qos=qos, retain=True))
        return infos

    def _wait(self, info: MQTTMessageInfo, until: float) -> None:
        try:
            info.wait_for_publish(max(0.01, until - time.monotonic()))
            published = info.is_published()
        except (RuntimeError, ValueError) as error:  # not connected, or its queue is full
            self._pending.clear()
            raise SinkError("sink_away", f"{self.name}: {error}") from None
        if not published:
            raise SinkError("sink_away", f"{self.name} did not take a message in time")

    def _on_connect(self, _: Any, __: Any, ___: Any, reason: Any, ____: Any) -> None:
        if reason.is_failure:
            self._why = str(reason)
            return
        self._client.publish(self._available, "online", qos=1, retain=True)
        self._connected.set()

    def _on_disconnect(self, _: Any, __: Any, ___: Any, reason: Any, ____: Any) -> None:
        if self._connected.is_set():  # else the reason is why it was refused
            self._connected.clear()
            self._why = str(reason)


def summary(report: Report, counts: dict[str, int]) -> dict[str, Any]:
    """A report in short, for a display."""
    return {
        "captured_at": iso(report.captured_at),
        "found": report.found[:250],  # Home Assistant's states have 255 characters
        "objects": sum(counts.values()),
        "counts": counts,
        "state": report.state,
        "bytes": report.payload_bytes,
        "bits_per_pixel": report.bits_per_pixel,
        "round_trip_ms": report.round_trip_ms,
    }


def topic_name(name: str) -> str:
    """A name as one level of a topic."""
    return _NO_TOPIC.sub("_", name) or "_"


def announcements(
    device: str, summary_topic: str, available_topic: str, classes: Iterable[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(topic, configuration) of every sensor; ``classes``: those that were found now."""
    node = f"featherwire_{object_id(device)}"

    def sensor(key: str, name: str, template: str, **more: str) -> tuple[str, dict[str, Any]]:
        return f"{PREFIX}/sensor/{node}/{key}/config", {
            "name": name,
            "unique_id": f"{node}_{key}",
            "state_topic": summary_topic,
            "value_template": template,
            "availability_topic": available_topic,
            "device": {
                "identifiers": [node],
                "name": device,
                "manufacturer": "Featherwire",
                "model": "edge client",
            },
            **more,
        }

    yield sensor("found", "Found", "{{ value_json.found }}", icon="mdi:eye")
    yield sensor(
        "objects", "Objects", "{{ value_json.objects }}", state_class="measurement",
    )  # fmt: skip
    yield sensor(
        "captured_at", "Last picture", "{{ value_json.captured_at }}", device_class="timestamp",
    )  # fmt: skip
    yield sensor(
        "bits_per_pixel",
        "Rate",
        "{{ value_json.bits_per_pixel }}",
        unit_of_measurement="bit/px",
        entity_category="diagnostic",
    )
    for name in classes:
        yield sensor(
            f"count_{object_id(name)}",
            name.capitalize(),
            f"{{{{ value_json.counts.get({name!r}, 0) }}}}",
            state_class="measurement",
        )


def object_id(name: str) -> str:
    """A name with letters, digits, - and _ only."""
    return _NO_ID.sub("_", name) or "_"
