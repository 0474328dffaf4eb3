"""Webhooks: one signed POST a report, sent again until it is taken."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit, urlunsplit

from shared.errors import SinkError
from shared.installation import require
from shared.json_text import to_json
from shared.sinks.report import Report, iso
from shared.sinks.signature import key_of, sign

TIMEOUT_S = 10.0
MAX_RETRY_AFTER_S = 300.0
EVENT = "featherwire.result"
_AGAIN = {408, 425, 429}
_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")


class WebhookSink:
    """POSTs reports to a URL. Answers of 200 to 299 take a report; 408, 425, 429 and none at all
    (``sink_away``) and 500 upward (``not_taken``) let it be sent again; any other refuses it."""

    at_once = 1

    def __init__(self, url: str, secret: str | None, *, timeout_s: float = TIMEOUT_S) -> None:
        """secret: None sends without a signature. Raises SinkError: missing_extra, bad_secret."""
        httpx = require("httpx", "webhook", "a webhook", SinkError)
        parts = urlsplit(url)
        # Paths and queries of webhooks often hold a secret.
        self.name = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], "", "", ""))
        self._url = url
        self._key = None if secret is None else key_of(secret)
        # Its log has whole addresses, with what is secret in them.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._client = httpx.Client(timeout=timeout_s, headers={"User-Agent": "featherwire"})

    def deliver(self, reports: Sequence[Report]) -> None:
        """POST the reports, one after the other."""
        for report in reports:
            self._post(report)

    def close(self) -> None:
        """Close the connection; no more reports come."""
        self._client.close()

    def _post(self, report: Report) -> None:
        import httpx

        now_s = time.time()
        body = to_json({"type": EVENT, "timestamp": iso(now_s), "data": report.to_dict()})
        message_id = "msg_" + hashlib.sha256(report.id.encode()).hexdigest()[:32]
        headers = {"content-type": "application/json", "webhook-id": message_id}
        if self._key is not None:
            headers |= sign(self._key, message_id, int(now_s), body.encode())
        try:
            answer = self._client.post(self._url, content=body.encode(), headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise SinkError(
                "sink_away", f"{self.name}: {str(error) or type(error).__name__}"
            ) from None
        if answer.is_success:
            return
        text = f"{self.name} answers {answer.status_code}"
        if answer.status_code in _AGAIN or answer.status_code >= 500:
            reason = "not_taken" if answer.status_code >= 500 else "sink_away"
            asked = answer.headers
            pause_s = retry_after_s(asked.get("retry-after"), asked.get("date"))
            raise SinkError(reason, text, retry_after_s=pause_s)
        raise SinkError("refused", text)


def retry_after_s(text: str | None, date: str | None = None) -> float:
    """Seconds that a Retry-After asks for, 0 to ``MAX_RETRY_AFTER_S``: it has seconds, or a date
    (RFC 9110, 10.2.3), here in any zone. 0 when it has neither, or a date that is past.

    date: the answer's Date, by which the date is meant; without one, this machine's clock.
    """
    words = (text or "").strip()
    if _SECONDS.fullmatch(words):
        return min(float(words), MAX_RETRY_AFTER_S)
    until_s = _instant(words)
    if until_s is None:
        return 0.0
    now_s = _instant(date or "")
    wait_s = until_s - (time.time() if now_s is None else now_s)
    return min(max(0.0, wait_s), MAX_RETRY_AFTER_S)


def _instant(text: str) -> float | None:
    """A date of HTTP in seconds since 1970; None when it is none."""
    try:
        found = parsedate_to_datetime(text)
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
