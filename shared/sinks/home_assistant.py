"""Home Assistant's MQTT discovery: a device, and a sensor for each number of its summary."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

PREFIX = "homeassistant"
_NO_ID = re.compile(r"[^A-Za-z0-9_-]")


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
