"""Home Assistant's discovery: which sensors a device has, and under which ids.

https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from shared.sinks.broker import Message
from shared.sinks.report import Report, iso

PREFIX = "homeassistant"
BIRTH = f"{PREFIX}/status"
"""Home Assistant says ``online`` here when it has started, and wants all announcements then."""
MAX_STATE = 250  # its states have at most 255 characters
_NO_ID = re.compile(r"[^A-Za-z0-9_-]")


class Announcer:
    """What has been announced, so that it can be announced again. Thread-safe."""

    def __init__(self, available_topic: str) -> None:
        self._available = available_topic
        self._lock = threading.Lock()
        self._said: dict[str, Message] = {}
        self._ids: dict[str, dict[str, str]] = {}

    def new(self, device: str, summary_topic: str, classes: Iterable[str]) -> list[Message]:
        """The announcements of sensors of which there were none yet."""
        with self._lock:
            ids = {name: self._id(device, name) for name in classes}
            made = [
                Message(topic, json.dumps(config), retain=True)
                for topic, config in announcements(device, summary_topic, self._available, ids)
                if topic not in self._said
            ]
            self._said |= {one.topic: one for one in made}
            return made

    def everything(self) -> list[Message]:
        """All announcements so far."""
        with self._lock:
            return [*self._said.values()]

    def forget(self) -> None:
        """Nothing has been announced: the broker did not take it."""
        with self._lock:
            self._said.clear()

    def _id(self, device: str, name: str) -> str:
        taken = self._ids.setdefault(device, {})
        found = class_id(name)
        if taken.setdefault(found, name) != name:
            found = f"{found}_{_mark(name)}"
            taken[found] = name
        return found


def summary(report: Report, counts: dict[str, int]) -> dict[str, Any]:
    """A report in short, for a display."""
    return {
        "captured_at": iso(report.captured_at),
        "found": report.found[:MAX_STATE],
        "objects": sum(counts.values()),
        "counts": counts,
        "state": report.state,
        "bytes": report.payload_bytes,
        "bits_per_pixel": report.bits_per_pixel,
        "round_trip_ms": report.round_trip_ms,
    }


def announcements(
    device: str, summary_topic: str, available_topic: str, classes: Mapping[str, str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(topic, configuration) of every sensor; ``classes``: ids of those that were found now, by
    their names."""
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
    for name, own_id in classes.items():
        yield sensor(
            f"count_{own_id}",
            name.capitalize(),
            f"{{{{ value_json.counts.get({name!r}, 0) }}}}",
            state_class="measurement",
        )


def is_announcement(topic: str) -> bool:
    """Whether it is the topic of a sensor's configuration."""
    return topic.startswith(f"{PREFIX}/") and topic.endswith("/config")


def object_id(name: str) -> str:
    """A name with letters, digits, - and _ only, another one for each name: what had to be
    replaced is told apart by a mark."""
    plain = _NO_ID.sub("_", name)
    return plain if plain and plain == name else f"{plain}_{_mark(name)}"


def class_id(name: str) -> str:
    """As ``object_id``; a class of several words, such as ``traffic light``, has _ between them.
    So has ``traffic_light``, if there is one: ``Announcer`` tells these two apart."""
    return object_id(name.replace(" ", "_"))


def _mark(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()[:6]
