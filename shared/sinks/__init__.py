"""Where results go: the terminal, files, MQTT, webhooks; for devices and for consumers of a server.

report    one frame's result, as every sink gets it
address   what ``--to`` means, and the sink for it
pump      a thread and a bounded buffer for each sink: none slows down who brings results
files     JSON lines and CSV that are appended to
coco      COCO's JSON
mqtt      MQTT (extra ``mqtt``)
broker    a lasting link to a broker
home_assistant   its discovery
webhook   signed POSTs with retry (extra ``webhook``)
"""

from shared.sinks.address import SinkOptions, open_sinks
from shared.sinks.pump import Pump, Pumps
from shared.sinks.report import Report

__all__ = ["Pump", "Pumps", "Report", "SinkOptions", "open_sinks"]
