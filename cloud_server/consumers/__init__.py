"""How consumers read the log.

servicer    ResultService: pages, single records, subscribers, and stored frames, cut
result      a result in plain Python, and which results are meant
reports     results as sinks and downloads get them
client      ResultClient, and AsyncResultClient: the other end
"""

from cloud_server.consumers.client import ResultClient
from cloud_server.consumers.result import Result

__all__ = ["Result", "ResultClient"]
