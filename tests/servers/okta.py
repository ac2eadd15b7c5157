"""An OAuth provider as Okta is one, as far as Flower asks it: a page that asks who is there, and two answers."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlencode, urlsplit

SECRET = "the-secret-of-this-test"


@dataclass
class Okta:
    """A provider on loopback, which lets anybody sign in as any of these people. `visits`: how often it was asked."""

    people: tuple[str, ...]
    url: str = ""
    visits: list[str] = field(default_factory=list)

    def page(self, query: dict[str, list[str]]) -> str:
        """The page on which somebody says who they are: a link for each."""
        [back], [state] = query["redirect_uri"], query["state"]
        links = ((name, f"{back}?{urlencode({'code': name, 'state': state})}") for name in self.people)
        return "".join(f'<p><a href="{escape(link)}">{escape(name)}</a>' for name, link in links)


@contextmanager
def okta(*people: str) -> Iterator[Okta]:
    """Run a provider for the length of the block."""
    state = Okta(people)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            place = urlsplit(self.path)
            state.visits.append(place.path)
            if place.path == "/v1/authorize":
                self._answer("text/html", state.page(parse_qs(place.query)))
            elif place.path != "/v1/userinfo":
                self.send_error(404)
            else:
                email = self.headers["authorization"].removeprefix("Bearer token-of-")
                self._answer("application/json", json.dumps({"email": email, "email_verified": True}))

        def do_POST(self) -> None:
            state.visits.append(self.path)
            body = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
            assert body["client_secret"] == [SECRET]
            self._answer("application/json", json.dumps({"access_token": f"token-of-{body['code'][0]}"}))

        def _answer(self, kind: str, text: str) -> None:
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
