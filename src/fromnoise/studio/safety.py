"""Accept only requests of the studio's own pages: token, cookie, Host, Origin, headers."""

import hmac
import ipaddress
import secrets
import socket
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# This page requests the next one, so that the strict cookie is sent with it.
ENTER = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>fromnoise studio</title>'
    '<link rel="icon" href="data:,">'
    '<meta http-equiv="refresh" content="0; url=/"><p><a href="/">Open the studio</a></p></html>'
)


class Gate:
    """Pass on requests of the studio's own pages, and refuse all others.

    Every request needs a Host that names this machine, against DNS rebinding. If it has an Origin,
    that must be the same host. It also needs a cookie, for which the server exchanges the token in
    the printed address, because other users of this machine can connect to its loopback address.
    """

    def __init__(self, app: ASGIApp, *, host: str, port: int, token: str) -> None:
        self.app, self.port, self.token = app, port, token
        self.cookie, self.session = f"fromnoise-studio-{port}", secrets.token_urlsafe(32)
        self.names = {*LOOPBACK, host.lower()}
        self.any_address = host not in LOOPBACK
        if self.any_address:
            self.names.add(socket.gethostname().lower())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it to the application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        response = self._refusal(request) or self._exchange(request)
        if response is None and not self._knows_cookie(request):
            response = _refuse(request, 403, "Open the address that the terminal shows.")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await (response or self.app)(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        """Return the response that refuses a request from elsewhere, or None."""
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if not self._is_ours(host):
            return _refuse(request, 421, "This host is unknown. Open the printed address.")
        if origin is not None and not _equal(origin.lower(), f"http://{host}".lower()):
            return _refuse(request, 403, "This request is from another page. Reload this one.")
        site = request.headers.get("sec-fetch-site", "none")
        entering = request.url.path == "/" and "token" in request.query_params  # by a link
        if site not in ("none", "same-origin") and not entering:
            return _refuse(request, 403, "This request is from another page. Reload this one.")
        return None

    def _is_ours(self, host: str) -> bool:
        """Return whether a Host names this machine, with any port, which a tunnel may change.

        A name can be rebound, but an IP address cannot.
        """
        try:
            parts = urlsplit(f"//{host}")
        except ValueError:
            return False
        name = (parts.hostname or "").lower()
        if parts.netloc != host or parts.username is not None:
            return False
        return name in self.names or (self.any_address and _is_address(name))

    def _exchange(self, request: Request) -> Response | None:
        """Return the response to the printed address, which sets the cookie."""
        token = request.query_params.get("token")
        if token is None or request.method != "GET" or request.url.path != "/":
            return None
        if not _equal(token, self.token):
            return _refuse(request, 403, "The token is wrong. Open the printed address.")
        response = HTMLResponse(ENTER)
        response.set_cookie(self.cookie, self.session, httponly=True, samesite="strict", path="/")
        return response

    def _knows_cookie(self, request: Request) -> bool:
        cookie = SimpleCookie()
        try:
            cookie.load(request.headers.get("cookie", ""))
        except CookieError:
            return False
        found = cookie.get(self.cookie)
        return found is not None and _equal(found.value, self.session)


def new_token() -> str:
    """Return a token that cannot be guessed."""
    return secrets.token_urlsafe(32)


def _equal(given: str, own: str) -> bool:
    return hmac.compare_digest(given.encode(), own.encode())


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _refuse(request: Request, status: int, sentence: str) -> Response:
    if "json" in request.headers.get("accept", ""):
        return JSONResponse({"error": sentence}, status)
    return PlainTextResponse(f"{sentence}\n", status)
