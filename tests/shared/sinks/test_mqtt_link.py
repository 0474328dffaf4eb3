"""What a broker does to a link: forgets it, refuses a message, restarts, takes over, comes back."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.backoff import Backoff
from shared.errors import SinkError
from shared.sinks import Pump
from shared.sinks.broker import client_id_of
from shared.sinks.home_assistant import Announcer, class_id, object_id
from shared.sinks.mqtt import MqttAddress, MqttSink
from tests.support.brokers import Broker, why_not
from tests.support.mqtt import Listener, Way, client_ids, large, retained, until
from tests.support.reports import report

pytest.importorskip("paho.mqtt.client", reason="needs the extra mqtt")
AVAILABLE, RESULT, SUMMARY = "fw/cam/available", "fw/cam/result", "fw/cam/summary"
CONFIG = "homeassistant/sensor/featherwire_cam/found/config"


@pytest.fixture
def broker(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Broker]:
    """mosquitto; a parameter is a line of its configuration."""
    if (reason := why_not("mosquitto")) is not None:
        pytest.skip(reason)
    settings = [request.param] if hasattr(request, "param") else []
    broker = Broker("mosquitto", tmp_path, settings=settings)
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def listener(broker: Broker) -> Iterator[Listener]:
    listener = Listener(broker.port)
    yield listener
    listener.close()


def sink_to(port: int, options: str = "", name: str = "cam") -> MqttSink:
    address = MqttAddress.parse(f"mqtt://127.0.0.1:{port}/fw{options}")
    return MqttSink(address, name, backoff=Backoff(0.05, 0.2))


def pump_to(port: int, options: str = "") -> Pump:
    return Pump(sink_to(port, options), backoff=Backoff(0.01, 0.1))


def put(pump: Pump, *numbers: int, **changes: object) -> None:
    for number in numbers:
        pump.put(report(number, device="cam", **changes))


def sequences(listener: Listener) -> list[int]:
    """Each once, in the order in which they first came."""
    got = [json.loads(one)["sequence"] for one in listener.at(RESULT)]
    return list(dict.fromkeys(got))


@pytest.mark.parametrize("only_3", [False, True])
def test_the_will_of_a_forgotten_connection_is_corrected(
    broker: Broker, listener: Listener, only_3: bool
) -> None:
    way = Way(broker.port, only_3=only_3)
    pump = pump_to(way.port)
    put(pump, 1)
    assert until(lambda: pump.counts["delivered"] == 1)
    way.forget()
    put(pump, 2)
    assert until(lambda: pump.counts["delivered"] == 2)
    way.kept_end()
    # Whatever was said in between, and by whom: it is online.
    listener.publish(AVAILABLE, "offline", retain=True)
    assert until(lambda: listener.at(AVAILABLE)[-2:] == [b"offline", b"online"])
    assert retained(broker.port, AVAILABLE, lambda got: got == [b"online"]) == [b"online"]
    # The broker takes the old connection over: the id is the same one.
    assert len(set(client_ids(way))) == 1
    pump.close()
    assert until(lambda: listener.at(AVAILABLE)[-1] == b"offline")
    way.close()


def test_a_process_that_is_killed_is_offline(broker: Broker, listener: Listener) -> None:
    """The last will: the connection breaks, and the broker tells everybody."""
    code = (
        "import sys, time\n"
        "from shared.sinks.mqtt import MqttAddress, MqttSink\n"
        "from tests.support.reports import report\n"
        "MqttSink(MqttAddress.parse(sys.argv[1]), 'cam').deliver([report(1, device='cam')])\n"
        "time.sleep(60)\n"
    )
    url = f"mqtt://127.0.0.1:{broker.port}/fw"
    with subprocess.Popen([sys.executable, "-c", code, url]) as process:
        assert until(lambda: bool(listener.at(RESULT)))
        assert listener.at(AVAILABLE) == [b"online"]
        process.kill()
    assert until(lambda: listener.at(AVAILABLE) == [b"online", b"offline"])


def test_two_of_one_name_do_not_take_the_connection_from_each_other(
    broker: Broker, listener: Listener
) -> None:
    way = Way(broker.port)
    pumps = [pump_to(way.port), pump_to(way.port)]
    for number in range(1, 21):
        for pump in pumps:
            put(pump, number)
    assert until(lambda: all(pump.counts["delivered"] == 20 for pump in pumps))
    # They have stopped: a while passes without a further connection.
    counts = [len(way.connects)]

    def stopped() -> bool:
        time.sleep(1)
        counts.append(len(way.connects))
        return counts[-1] == counts[-2]

    assert until(stopped)
    assert counts[-1] <= 12
    assert len(set(client_ids(way))) >= 2
    pumps[0].close()
    # The other one is still there.
    assert until(lambda: listener.at(AVAILABLE)[-2:] == [b"offline", b"online"])
    pumps[1].close()
    assert until(lambda: listener.at(AVAILABLE)[-1] == b"offline")
    way.close()


@pytest.mark.parametrize("broker", ["max_packet_size 20000"], indirect=True)
@pytest.mark.parametrize("only_3", [False, True])
def test_what_is_too_large_for_the_broker_is_given_up_and_the_next_arrive(
    broker: Broker, listener: Listener, only_3: bool, caplog: pytest.LogCaptureFixture
) -> None:
    way = Way(broker.port, only_3=only_3)
    pump = pump_to(way.port)
    put(pump, 1, 2)
    put(pump, 3, **large(300))
    put(pump, *range(4, 40))
    put(pump, 40, **large(300))
    put(pump, 41)
    assert until(lambda: pump.counts["delivered"] == 39, 60)
    assert pump.counts["dropped_refused"] == 2
    assert until(lambda: sequences(listener)[-1:] == [41])
    assert sequences(listener) == [n for n in range(1, 42) if n not in (3, 40)]
    # What is short of it comes all the same.
    counts = [json.loads(one)["counts"] for one in listener.at(SUMMARY)]
    assert counts.count({"person": 300}) >= 1
    assert caplog.text.count("is given up") == 1
    # With MQTT 5 the broker says its limit; else it is found out, once.
    assert len(way.connects) <= (12 if only_3 else 1)
    pump.close()
    way.close()


def test_a_broker_that_ends_the_connection_over_one_result_gets_the_others(
    broker: Broker, listener: Listener
) -> None:
    """It was not for its size: others of it are not given up, though it was the first."""
    way = Way(broker.port, hates=b'"sequence": 1,')
    pump = pump_to(way.port)
    put(pump, *range(1, 10))
    assert until(lambda: pump.counts["delivered"] == 8)
    assert pump.counts["dropped_refused"] == 1
    assert until(lambda: sequences(listener) == [*range(2, 10)])
    pump.close()
    way.close()


@pytest.mark.parametrize("only_3", [False, True])
@pytest.mark.parametrize("times", [6, 15])
def test_a_disturbance_at_the_start_costs_no_more_than_it_lasted(
    broker: Broker, listener: Listener, only_3: bool, times: int
) -> None:
    """Nothing is refused unseen before the broker has taken a smaller result."""
    way = Way(broker.port, only_3=only_3, hates=RESULT.encode())
    way.hates_times = times
    pump = pump_to(way.port)
    put(pump, *range(60))
    lost = times // 3
    assert until(lambda: pump.counts["delivered"] >= 60 - lost, 60), pump.counts
    assert until(lambda: pump.waiting == 0)
    assert sequences(listener)[-1] == 59
    pump.close()
    way.close()


@pytest.mark.parametrize("broker", ["max_packet_size 20000"], indirect=True)
def test_a_size_that_ended_connections_is_tried_again_after_a_while(
    broker: Broker, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Smaller results pass, larger ones end the connection; then the broker takes them all."""
    way = Way(broker.port, only_3=True)
    pump = pump_to(way.port)
    for number in range(1, 13):
        put(pump, number, **(large(300) if number % 2 == 0 else {}))
    assert until(lambda: pump.waiting == 0, 60)
    assert pump.counts["dropped_refused"] == 6
    connects = len(way.connects)
    for number in range(20, 30):
        put(pump, number, **large(300))
    assert until(lambda: pump.waiting == 0, 60)
    assert len(way.connects) == connects  # it is known
    monkeypatch.setattr("shared.sinks.mqtt.time", Later())
    broker.kill()
    broker.settings = []
    broker.start()
    delivered = pump.counts["delivered"]
    put(pump, 30, **large(300))
    assert until(lambda: pump.counts["delivered"] == delivered + 1)
    pump.close()
    way.close()


class Later:
    """The clock, two minutes on."""

    @staticmethod
    def monotonic() -> float:
        return time.monotonic() + 120


def test_a_broker_that_settles_no_result_for_a_while_gets_them_all(
    broker: Broker, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That a message is not answered says nothing about the message."""
    monkeypatch.setattr("shared.sinks.broker.SETTLE_S", 0.2)
    way = Way(broker.port)
    way.swallows = RESULT.encode()
    pump = pump_to(way.port)
    put(pump, *range(1, 10))
    assert until(lambda: len(way.connects) >= 8)
    way.swallows = None
    assert until(lambda: pump.counts["delivered"] == 9, 60), pump.counts
    assert until(lambda: sequences(listener) == [*range(1, 10)])
    pump.close()
    way.close()


def test_a_summary_that_ended_connections_is_tried_again_after_a_while(
    broker: Broker, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.sinks.mqtt.PROBE_S", 1.0)
    way = Way(broker.port, hates=SUMMARY.encode())
    way.hates_times = 8  # as often as it takes to be left out, and once more
    pump = pump_to(way.port)

    def comes() -> bool:
        put(pump, 1)
        time.sleep(0.1)
        return bool(listener.at(SUMMARY))

    assert until(comes)
    pump.close()
    way.close()


@pytest.mark.parametrize(
    "hated", [b"homeassistant/sensor", b"homeassistant/status", SUMMARY.encode()]
)
def test_a_broker_that_ends_the_connection_over_anything_else_gets_the_results(
    broker: Broker, listener: Listener, hated: bytes
) -> None:
    way = Way(broker.port, hates=hated)
    pump = pump_to(way.port, "?discovery=homeassistant")
    put(pump, *range(1, 10))
    assert until(lambda: pump.counts["delivered"] == 9)
    assert until(lambda: sequences(listener) == [*range(1, 10)])
    assert len(way.connects) <= 12
    pump.close()
    way.close()


def test_what_the_broker_does_not_allow_is_given_up_and_the_next_arrive(
    broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rules = tmp_path / "rules"
    rules.write_text(
        "topic readwrite fw/cam/available\ntopic readwrite fw/cam/result\n"
        "topic readwrite fw/cam/summary\ntopic readwrite fw/other/available\n"
        "topic read #\n"
    )
    rules.chmod(0o644)
    broker.kill()
    broker.settings = [f"acl_file {rules}"]
    broker.start()
    listener = Listener(broker.port)
    pump = pump_to(broker.port, "?discovery=homeassistant")
    put(pump, 1)
    pump.put(report(2, device="other"))
    put(pump, 3, 4)
    assert until(lambda: pump.counts["delivered"] == 3)
    assert pump.counts["dropped_refused"] == 1
    assert until(lambda: sequences(listener) == [1, 3, 4])
    assert caplog.text.count("frame 2 of other is given up") == 1
    assert caplog.text.count(f"does not take {CONFIG}") == 1
    pump.close()
    listener.close()


def test_what_was_not_allowed_is_tried_again_after_a_while(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = tmp_path / "rules"
    rules.write_text(
        "topic readwrite fw/cam/available\ntopic readwrite fw/cam/result\ntopic read #\n"
    )
    rules.chmod(0o644)
    broker.kill()
    broker.settings = [f"acl_file {rules}"]
    broker.start()
    monkeypatch.setattr("shared.sinks.mqtt.LIMIT_KEPT_S", 0.5)
    pump = pump_to(broker.port, "?discovery=homeassistant")
    put(pump, 1)
    assert until(lambda: pump.counts["delivered"] == 1)
    rules.write_text("topic readwrite #\n")
    broker.hang_up()
    listener = Listener(broker.port)

    def there() -> bool:
        put(pump, 2)
        time.sleep(0.1)
        return bool(listener.at(SUMMARY) and listener.at(CONFIG))

    assert until(there)
    pump.close()
    listener.close()


def test_all_is_announced_again_when_the_broker_has_forgotten_it(broker: Broker) -> None:
    pump = pump_to(broker.port, "?discovery=homeassistant")
    put(pump, 1)
    assert until(lambda: pump.counts["delivered"] == 1)
    broker.kill()
    broker.start()  # it has no persistence
    for topic in (CONFIG, SUMMARY, AVAILABLE):
        assert until(lambda topic=topic: bool(retained(broker.port, topic, bool))), topic
    pump.close()


def test_all_is_announced_again_when_home_assistant_has_started(
    broker: Broker, listener: Listener
) -> None:
    pump = pump_to(broker.port, "?discovery=homeassistant")
    put(pump, 1)
    assert until(lambda: pump.counts["delivered"] == 1)
    assert until(lambda: len(listener.at(CONFIG)) == 1)
    listener.publish("homeassistant/status", "offline")
    listener.publish("homeassistant/status", "online")
    assert until(lambda: len(listener.at(CONFIG)) == 2)
    assert until(lambda: len(listener.at(SUMMARY)) == 2)
    pump.close()


def test_who_is_refused_comes_in_when_it_is_allowed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if (reason := why_not("mosquitto")) is not None:
        pytest.skip(reason)
    broker = Broker("mosquitto", tmp_path, guarded=True)
    broker.start()
    pump = pump_to(broker.port)
    put(pump, 1)
    assert until(lambda: pump.error is not None and "uthor" in pump.error.message)
    broker.kill()
    open_to_all = Broker("mosquitto", tmp_path)
    open_to_all.port = broker.port
    open_to_all.start()
    assert until(lambda: pump.counts["delivered"] == 1)
    pump.close()
    open_to_all.kill()
    assert caplog.text.count("warning:") <= 2  # it is said when it changes, not each time


def test_a_ca_file_is_read_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    address = MqttAddress.parse(f"mqtts://127.0.0.1:1/x?ca={tmp_path}/ca.pem")
    with pytest.raises(SinkError) as caught:
        MqttSink(address, "cam")
    assert caught.value.reason == "bad_sink"


def test_client_ids_are_steady_and_such_as_every_broker_takes() -> None:
    ids = [client_id_of(*one) for one in (("cam-1", "fw"), ("cam:1", "fw"), ("cam-1", "home"))]
    assert len({*ids, client_id_of("é" * 200, "fw")}) == 4
    assert ids[0] == client_id_of("cam-1", "fw")
    assert all(len(one) <= 19 and one.isalnum() and one.isascii() for one in ids)


def test_names_that_are_alike_have_ids_of_their_own() -> None:
    assert object_id("gate_1") == "gate_1"  # as it always was
    assert len({object_id(name) for name in ("gate_1", "gate.1", "gate:1", "猫", "狗", "")}) == 6
    assert class_id("traffic light") == "traffic_light"
    announcer = Announcer("fw/available")
    said = announcer.new("gate.1", "t", ["traffic light", "traffic_light", "猫", "狗"])
    said += announcer.new("gate_1", "t", ["traffic_light"])
    said += announcer.new("gate_1", "t", ["traffic light", "traffic_light"])
    assert len({one.topic for one in said}) == len(said) == 8 + 5 + 1
    ids = [json.loads(one.payload)["unique_id"] for one in said]
    assert len(set(ids)) == len(ids)
    assert announcer.everything() == said


@pytest.fixture(autouse=True)
def warnings_are_noted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
