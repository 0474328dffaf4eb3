"""MQTT against real brokers: what is published, and a broker that dies and comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shared.backoff import Backoff
from shared.errors import SinkError
from shared.sinks import Pump, SinkOptions, open_sinks
from shared.sinks.mqtt import MqttAddress, MqttSink
from tests.support.brokers import PASSWORD, USER, Broker, why_not
from tests.support.mqtt import Listener, until
from tests.support.reports import failed_report, report

pytest.importorskip("paho.mqtt.client", reason="needs the extra mqtt")


@pytest.fixture(params=["mosquitto", "amqtt"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    reason = why_not(request.param)
    if reason is not None:
        pytest.skip(reason)
    broker = Broker(request.param, tmp_path)
    broker.start()
    yield broker
    broker.kill()


def url(broker: Broker, rest: str = "home/cameras") -> str:
    return f"mqtt://127.0.0.1:{broker.port}/{rest}"


def test_results_summaries_and_discovery_are_published(broker: Broker) -> None:
    listener = Listener(broker.port)
    with open_sinks([url(broker, "home/cameras?discovery=homeassistant")],
                    SinkOptions("cam_1")) as sinks:  # fmt: skip
        for number in (1, 2):
            sinks.put(report(number, device="cam_1"))
        sinks.put(replace(failed_report(3), device="cam_1"))
        assert until(lambda: len(listener.at("home/cameras/cam_1/result")) == 3)
        assert listener.at("home/cameras/cam_1/available") == [b"online"]
    results = [json.loads(one) for one in listener.at("home/cameras/cam_1/result")]
    sent = [report(1, device="cam_1"), report(2, device="cam_1")]
    assert results[:2] == [one.to_dict() for one in sent]
    assert results[2]["error"] == failed_report(3).to_dict()["error"]
    short = json.loads(listener.at("home/cameras/cam_1/summary")[0])
    assert short["counts"] == {"person": 2, "cup": 1, "face": 1}
    assert short["objects"] == 4
    assert until(lambda: listener.at("home/cameras/cam_1/available") == [b"online", b"offline"])
    configs = [m for m in listener.messages if m[0].startswith("homeassistant/")]
    names = {topic.split("/")[3] for topic, _, _ in configs}
    assert names == {
        "found", "objects", "captured_at", "bits_per_pixel",
        "count_person", "count_cup", "count_face",
    }  # fmt: skip
    assert len(configs) == len(names)  # each once
    for topic, payload, _ in configs:
        config = json.loads(payload)
        assert topic.split("/")[2] == "featherwire_cam_1"
        assert config["state_topic"] == "home/cameras/cam_1/summary"
        assert config["availability_topic"] == "home/cameras/cam_1/available"
        assert config["device"]["identifiers"] == ["featherwire_cam_1"]
        jinja2 = pytest.importorskip("jinja2")
        value = jinja2.Template(config["value_template"]).render(value_json=short)
        assert value
        if topic.split("/")[3] == "count_person":
            assert value == "2"
    listener.close()
    late = Listener(broker.port)  # what is retained
    assert until(lambda: bool(late.at("home/cameras/cam_1/summary")))
    assert all(retained for _, _, retained in late.messages)
    late.close()


def test_what_came_while_the_broker_was_away_is_published_when_it_is_back(broker: Broker) -> None:
    sink = MqttSink(MqttAddress.parse(url(broker)), "cam", backoff=Backoff(0.05, 0.2))
    pump = Pump(sink, backoff=Backoff(0.05, 0.2))
    pump.put(report(1))
    assert until(lambda: pump.counts["delivered"] == 1)
    broker.kill()
    for number in range(2, 30):
        pump.put(report(number))
    assert until(lambda: pump.error is not None)
    broker.start()
    listener = Listener(broker.port)
    assert until(lambda: pump.counts["delivered"] == 29)
    pump.close()

    def published() -> list[int]:
        return [json.loads(one)["sequence"] for one in listener.at("home/cameras/cam_1/result")]

    # At least once: what was on its way when the broker died may come twice, a run of it after
    # another. What this listener was too late for is retained in the summary only.
    assert until(lambda: published()[-1:] == [29])
    first_times = list(dict.fromkeys(published()))
    assert first_times == sorted(first_times)
    listener.close()


def test_a_password_is_asked_for_and_said_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (reason := why_not("mosquitto")) is not None:
        pytest.skip(reason)
    broker = Broker("mosquitto", tmp_path, guarded=True)
    broker.start()
    try:
        refused = MqttSink(MqttAddress.parse(url(broker)), "cam")
        with pytest.raises(SinkError, match="Not authorized") as caught:
            refused.deliver([report(1)])
        assert caught.value.reason == "sink_away"
        refused.close()
        monkeypatch.setenv("FEATHERWIRE_MQTT_PASSWORD", PASSWORD)
        address = url(broker).replace("mqtt://", f"mqtt://{USER}@")
        with open_sinks([address], SinkOptions("cam")) as sinks:
            sinks.put(report(1))
            (pump,) = sinks.pumps
            assert until(lambda: pump.counts["delivered"] == 1)
        assert USER not in pump.sink.name
    finally:
        broker.kill()


def test_nobody_there_is_away() -> None:
    sink = MqttSink(MqttAddress.parse("mqtt://127.0.0.1:1/x"), "cam")
    with pytest.raises(SinkError) as caught:
        sink.deliver([report(1)])
    assert caught.value.reason == "sink_away"
    sink.close()
