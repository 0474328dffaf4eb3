"""The sinks that ``--to`` names."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.addresses import shown, split_address
from shared.errors import SinkError
from shared.sinks.coco import CocoSink
from shared.sinks.files import CsvSink, JsonLinesSink, TerminalSink
from shared.sinks.mqtt import MqttAddress, MqttSink
from shared.sinks.pump import BUFFERED_REPORTS, Pump, Pumps, Sink
from shared.sinks.webhook import WebhookSink

MQTT_PASSWORD = "FEATHERWIRE_MQTT_PASSWORD"
WEBHOOK_SECRET = "FEATHERWIRE_WEBHOOK_SECRET"
KINDS = (
    "- (the terminal), FILE.jsonl, FILE.csv, FILE.coco.json, mqtt://HOST/TOPIC, https://HOOK, "
    "or with the kind before it: jsonl:FILE, csv:FILE, coco:FILE"
)
_KIND = re.compile(r"(jsonl|csv|coco|mqtts?|https?):(.*)", re.DOTALL)
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".coco.json": "coco"}


@dataclass(frozen=True, slots=True)
class SinkOptions:
    """How sinks are run. client: who brings results, such as a device's name; the rest as for
    ``Pump``."""

    client: str
    wait: bool = False
    capacity: int = BUFFERED_REPORTS
    give_up_s: float | None = None


def open_sinks(words: Sequence[str], options: SinkOptions) -> Pumps:
    """A pump for every sink. Raises SinkError: unknown_sink, bad_sink, missing_extra,
    not_writable, bad_secret, other_columns. None is left open then."""
    pumps: list[Pump] = []
    try:
        for word in dict.fromkeys(words):
            sink = open_sink(word, options.client)
            pumps.append(
                Pump(
                    sink,
                    capacity=options.capacity,
                    wait=options.wait,
                    give_up_s=options.give_up_s,
                )
            )
    except SinkError:
        for pump in pumps:
            pump.close(0)
        raise
    return Pumps(pumps)


def open_sink(word: str, client: str) -> Sink:
    """The sink that a word of ``--to`` means."""
    if word == "-":
        return TerminalSink()
    found = _KIND.fullmatch(word)
    kind, rest = (found[1], found[2]) if found is not None else ("", word)
    if kind.startswith("mqtt"):
        return MqttSink(MqttAddress.parse(word, os.environ.get(MQTT_PASSWORD)), client)
    if kind.startswith("http"):
        return _webhook(word)
    suffixes = [kind for suffix, kind in _SUFFIXES.items() if rest.lower().endswith(suffix)]
    kind = kind or (suffixes[0] if suffixes else "")
    if not kind or not rest:
        raise SinkError("unknown_sink", f"results do not go to {shown(word)}; there are {KINDS}")
    path = None if rest == "-" else Path(rest)
    if kind == "coco" and path is None:
        raise SinkError("bad_sink", "COCO's JSON needs a file, for it has an end")
    makers: dict[str, Callable[[], Sink]] = {
        "jsonl": lambda: JsonLinesSink(path),
        "csv": lambda: CsvSink(path),
        "coco": lambda: CocoSink(Path(rest)),
    }
    return makers[kind]()


def _webhook(word: str) -> WebhookSink:
    try:
        split_address(word)
    except ValueError as error:
        raise SinkError("bad_sink", f"a webhook is https://HOST[:PORT]/PATH: {error}") from None
    secret = (os.environ.get(WEBHOOK_SECRET) or "").strip() or None
    sink = WebhookSink(word, secret)
    if secret is None:
        logging.getLogger(__name__).warning(
            "warning: what goes to %s is not signed: who receives it cannot know that it is from "
            "here. Set %s, here and there, to a secret: openssl rand -base64 32",
            sink.name,
            WEBHOOK_SECRET,
        )
    return sink
