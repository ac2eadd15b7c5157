"""Who may do what: names, roles, and requests that come from where they should.

Flower checks who somebody is (basic authentication, OAuth). Here it is checked besides, for every page of Flower's
and ours: that a read-only user only looks, and that a Flower without authentication is talked to as this machine's.
"""

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from flower.views import BaseHandler
from tornado.web import HTTPError, RequestHandler

from lern.errors import SettingsError

_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Access:
    """How this Flower is protected. `users`: the names of basic authentication, where that is used."""

    address: str
    authenticated: bool
    users: frozenset[str] = frozenset()
    read_only_users: frozenset[str] = frozenset()
    api_token: str | None = None

    @classmethod
    def of(cls, options: Any, read_only_users: Collection[str], api_token: str | None) -> "Access":
        """Read Flower's own options. Raises `SettingsError` for what would be open or would not work."""
        names = frozenset(credential.partition(":")[0] for credential in options.basic_auth or ())
        address = options.address if not options.unix_socket else "a socket that everybody may open"
        made = cls(
            address=address,
            authenticated=bool(options.basic_auth or options.auth),
            users=names,
            read_only_users=frozenset(name.casefold() for name in read_only_users),
            api_token=api_token,
        )
        problem = made.problem(by_name=bool(options.basic_auth) and not options.auth)
        if problem is not None:
            raise SettingsError(problem)
        return made

    def problem(self, *, by_name: bool) -> str | None:
        """Say what is unsafe. `by_name`: all users are known, because they are those of basic authentication."""
        if not self.authenticated and not is_loopback(self.address):
            return (
                f"LERN_FLOWER_ADDRESS={self.address or '(all addresses)'}: whoever reaches it could retry and undo "
                "runs. Set FLOWER_BASIC_AUTH=name:password[,name:password] or Flower's OAuth options (FLOWER_AUTH, "
                "FLOWER_AUTH_PROVIDER, …), or listen on 127.0.0.1."
            )
        if self.read_only_users and not self.authenticated:
            return "LERN_FLOWER_READONLY_USERS: without authentication (FLOWER_BASIC_AUTH) nobody has a name."
        known = {name.casefold() for name in self.users}
        strangers = sorted(self.read_only_users - known)
        if by_name and strangers:
            # Somebody whose name is misspelled here could do everything.
            return f"LERN_FLOWER_READONLY_USERS: {', '.join(strangers)} is not a user of FLOWER_BASIC_AUTH."
        return None

    def may_act(self, who: str) -> bool:
        """Whether a user may do more than look."""
        return who.casefold() not in self.read_only_users

    def is_token(self, header: str | None) -> bool:
        """Whether an `Authorization` header carries the API token."""
        kind, _, given = (header or "").partition(" ")
        token = self.api_token
        return token is not None and kind.lower() == "bearer" and hmac.compare_digest(given.encode(), token.encode())

    def refuses_host(self, host: str) -> bool:
        """Whether a request's `Host` is a name that only a stranger's page would use.

        Without authentication we answer to this machine alone; a page in its browser could otherwise reach us
        under a name of its own that leads to 127.0.0.1, and read the answers.
        """
        return not self.authenticated and not is_loopback(urlsplit(f"//{host}").hostname or "")


def is_loopback(address: str) -> bool:
    """Whether only this machine can use an address."""
    name = address.strip("[]")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def basic_name(header: str) -> str:
    """Give the name in a header of basic authentication; empty if there is none."""
    kind, _, credentials = header.partition(" ")
    if kind.lower() != "basic":
        return ""
    try:
        return base64.b64decode(credentials).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError):
        return ""


class Guarded(BaseHandler):
    """What every handler checks besides what Flower does: Flower's are wrapped in it, ours derive from it."""

    current_user: Any

    @property
    def access(self) -> Access:
        """How this Flower is protected."""
        found: Access = self.application.access
        return found

    def prepare(self) -> Any:
        """Refuse strangers' names for us, and anything but looking to those who may only look."""
        if self.access.refuses_host(self.request.host):
            raise HTTPError(
                403,
                f"This Flower asks nobody who they are, so it answers at localhost only, not at {self.request.host}.",
            )
        if self.request.method not in _READING and not self._only_looks:
            self.require_actor()
        return super().prepare()

    @property
    def _only_looks(self) -> bool:
        """Whether a POST of this handler changes nothing (Flower's table of tasks)."""
        return False

    def get_current_user(self) -> str | None:
        """Give the name of who is there; None if nobody has proved who they are."""
        user = super().get_current_user()
        if not user:
            return None
        if isinstance(user, str):
            return user
        name = basic_name(self.request.headers.get("Authorization", ""))
        return name or f"somebody at {self.request.remote_ip}"

    @property
    def who(self) -> str:
        """Name whoever is there, for the audit."""
        return str(self.current_user)

    @property
    def may_act(self) -> bool:
        """Whether whoever is there may do more than look."""
        if self.application.options.read_only or not self.current_user:
            return False
        return self.access.may_act(self.who)

    def require_actor(self) -> None:
        """Refuse whoever may only look."""
        if not self.current_user:
            raise HTTPError(401)
        if not self.may_act:
            raise HTTPError(403, f"{self.who} may look, but not do anything here (read-only).")

    def render(self, *names: str, **values: Any) -> Any:
        """Show Flower's own buttons only to those who may press them."""
        if "read_only" in values:
            values["read_only"] = not self.may_act
        return super().render(*names, **values)

    def check_xsrf_cookie(self) -> None:
        """Refuse forms of other sites, then what Flower refuses."""
        refuse_other_sites(self)
        super().check_xsrf_cookie()


class Ours(Guarded):
    """A handler of ours: with authentication or without, a form must carry the token that our page gave it."""

    def check_xsrf_cookie(self) -> None:
        """Refuse a form that does not come from one of our pages."""
        refuse_other_sites(self)
        RequestHandler.check_xsrf_cookie(self)

    def set_default_headers(self) -> None:
        """Let browsers keep nothing, run nothing but our files, and show us in no frame."""
        super().set_default_headers()
        # FLOWER_UNAUTHENTICATED_API opens Flower's own answers to the pages of every site; the ledger is not for them.
        for name in ("Origin", "Headers", "Methods"):
            self.clear_header(f"Access-Control-Allow-{name}")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Frame-Options", "DENY")
        self.set_header("Referrer-Policy", "same-origin")
        self.set_header(
            "Content-Security-Policy",
            "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; "
            "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
        )


def refuse_other_sites(handler: RequestHandler) -> None:
    """Refuse a request that a browser sends for a page of another site.

    The browser itself knows best what is the same site: a proxy may have given us another name for it. Without
    its word, `Host` must be the name that the reader sees.
    """
    site = handler.request.headers.get("Sec-Fetch-Site")
    origin = handler.request.headers.get("Origin")
    if site == "same-origin":
        return
    if site not in {None, "none"}:
        raise HTTPError(403, "Cross-site request forbidden")
    if origin is not None and urlsplit(origin).netloc != handler.request.host:
        raise HTTPError(403, "Cross-origin request forbidden")
