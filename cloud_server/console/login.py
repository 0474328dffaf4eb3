"""Logging in with a token, and out again. A plain form: it works before any script does."""

from __future__ import annotations

from html import escape
from itertools import accumulate

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from cloud_server.console.context import Console, root_of
from cloud_server.console.sessions import COOKIE, LASTS_S
from cloud_server.console.upstream import NOT_LET_IN
from shared.errors import FeatherwireError
from shared.rpc.access import MAX_TOKEN_BYTES

PAGE = """<!doctype html>
<html lang="en-GB">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Log in · Featherwire</title>
<link rel="icon" href="{root}/static/favicon.svg">
<script src="{root}/static/theme.js"></script>
<link rel="stylesheet" href="{root}/static/console.css">
</head>
<body>
<main class="login">
<div class="panel">
<h1>Featherwire console</h1>
<p class="muted">Server {server}</p>
<form method="post" action="{root}/login">
<input type="hidden" name="next" value="{next}">
<label class="field">Token
<input type="password" name="token" required autocomplete="off" spellcheck="false" autofocus
 aria-describedby="help"{invalid}></label>
<p class="notice tone-bad" role="alert">{problem}</p>
<p><button class="main" type="submit">Log in</button></p>
</form>
<p class="muted small" id="help">A token of an operator (who commands devices) or of a consumer
(who reads). On the server, <code>featherwire-cloud auth token create --role operator</code> makes
one.</p>
</div>
</main>
</body>
</html>
"""


def router(console: Console) -> APIRouter:
    """Routes of log-in and log-out."""
    routes = APIRouter()

    def page(request: Request, next_: str, problem: str = "", status: int = 200) -> Response:
        text = PAGE.format(
            root=escape(root_of(request), quote=True),
            server=escape(console.settings.server),
            next=escape(next_, quote=True),
            problem=escape(problem),
            invalid=' aria-invalid="true"' if problem else "",
        )
        return HTMLResponse(text, status)

    @routes.get("/login")
    async def show(request: Request, next: str = "/") -> Response:
        if await console.user(request) is not None:
            return RedirectResponse(root_of(request) + _local(next), 303)
        return page(request, _local(next))

    @routes.post("/login")
    async def log_in(request: Request) -> Response:
        form = await request.form()
        target, token = _local(str(form.get("next", "/"))), str(form.get("token", "")).strip()
        peer = request.client.host if request.client else ""
        if _foreign(request):
            return page(request, target, "This log-in came from another site.", 403)
        if wait_s := console.tries.wait_s(peer):
            return page(request, target, f"Too many tries. Wait {wait_s:.0f} seconds.", 429)
        good = token.isascii() and token.isprintable() and " " not in token
        if not token or not good or len(token) > MAX_TOKEN_BYTES:
            console.tries.failed(peer)
            await console.upstream.refuse(peer)
            return page(request, target, "That is no token.", 401)
        try:
            user = await console.upstream.log_in(token, peer)
        except FeatherwireError as error:
            if error.reason in NOT_LET_IN:
                console.tries.failed(peer)
                structlog.get_logger().info("console_refused", peer=peer, reason=error.reason)
                return page(request, target, _why(error), 401)
            return page(request, target, f"The server cannot be reached: {error.message}", 502)
        structlog.get_logger().info("console_log_in", peer=peer, role=user.role.value)
        answer = RedirectResponse(root_of(request) + target, 303)
        answer.set_cookie(
            COOKIE,
            console.sessions.seal(user),
            max_age=LASTS_S,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
            path=root_of(request) or "/",
        )
        return answer

    @routes.post("/logout")
    async def log_out(request: Request) -> Response:
        root = root_of(request)
        answer = RedirectResponse(f"{root}/login", 303)
        if not _foreign(request):
            # Also those that were given before the console moved to this path.
            for path in accumulate(root.split("/")[1:], "{}/{}".format, initial=""):
                answer.delete_cookie(COOKIE, path=path or "/", httponly=True, samesite="strict")
        return answer

    return routes


def _why(error: FeatherwireError) -> str:
    match error.reason:
        case "forbidden":
            return "This token is a device's: it sends frames, and reads nothing."
        case "token_expired" | "token_revoked":
            return "This token is no longer good."
        case "refused":
            return f"The server refused it: {error.message}"
    return "The server does not know this token."


def _foreign(request: Request) -> bool:
    """Whether another site has sent its visitor here."""
    return request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}


def _local(target: str) -> str:
    """A path of ours, whatever was asked for."""
    good = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if good else "/"
