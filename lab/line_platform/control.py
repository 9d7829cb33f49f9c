"""The control interface: HTTP and JSON over a unix socket that only the lab's user can open.

``client.Control`` is the other end; README.md lists the calls.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

from line_platform import identifiers, settings
from line_platform.checks import FLAG, LIST, NONE, NUMBER, OPTIONAL_TEXT, TEXT, Is, check
from line_platform.errors import ControlError
from line_platform.faults import FaultBook
from line_platform.journal import Journal
from line_platform.platform import TOKEN_KINDS, Content, Group, Platform, new_channel
from line_platform.post_office import PostOffice

MAX_BODY = 64 * 1024 * 1024
_TOKEN: Mapping[str, Is] = {
    "kind": Is((str,), among=TOKEN_KINDS),
    "life_seconds": Is((int, float, NONE)),
    "value": OPTIONAL_TEXT,
}
_USER: Mapping[str, Is] = {
    "displayName": TEXT,
    "pictureUrl": TEXT,
    "statusMessage": TEXT,
    "language": TEXT,
    "blocked": FLAG,
}
_GROUP: Mapping[str, Is] = {"name": TEXT, "picture": OPTIONAL_TEXT, "members": LIST}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class ControlApi:
    """What tests may do to the stand-in."""

    platform: Platform
    faults: FaultBook
    journal: Journal
    post: PostOffice
    listening: Callable[[], str]

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=MAX_BODY, middlewares=[_explain])
        app.add_routes(
            [
                web.get("/status", self.status),
                web.post("/reset", self.reset),
                web.post("/clock", self.clock),
                web.get("/channels/{id}", self.get_channel),
                web.put("/channels/{id}", self.put_channel),
                web.post("/channels/{id}/tokens", self.post_token),
                web.post("/tokens/expire", self.expire_token),
                web.put("/users/{id}", self.put_user),
                web.put("/groups/{id}", self.put_group),
                web.put("/contents/{id}", self.put_content),
                web.delete("/contents/{id}", self.delete_content),
                web.get("/faults", self.get_faults),
                web.post("/faults", self.post_fault),
                web.delete("/faults", self.delete_faults),
                web.delete("/faults/{number}", self.delete_fault),
                web.get("/requests", self.get_requests),
                web.delete("/requests", self.delete_requests),
                web.post("/webhooks", self.post_webhook),
                web.get("/webhooks", self.get_webhooks),
                web.post("/webhooks/{number}/again", self.post_webhook_again),
            ]
        )
        return app

    async def status(self, request: web.Request) -> web.Response:
        """Where the public API listens and what is set."""
        return web.json_response(
            {
                "listening": self.listening(),
                "now": self.platform.now(),
                "channels": list(self.platform.channels),
                "faults": len(self.faults.listing()),
                "requests": len(self.journal.entries),
            }
        )

    async def reset(self, request: web.Request) -> web.Response:
        """Forget everything."""
        await self.post.reset()
        self.platform.reset()
        self.faults.clear()
        self.journal.clear()
        return web.json_response({})

    async def clock(self, request: web.Request) -> web.Response:
        """Move the platform's clock: ``offset_seconds`` from the real one, or ``now`` (epoch)."""
        body = await _json(request)
        check("clock", body, {"offset_seconds": NUMBER, "now": NUMBER})
        if len(body) != 1:
            raise ControlError("give either offset_seconds or now")
        if "now" in body:
            body["offset_seconds"] = self.platform.offset_seconds + body["now"] - self.platform.now()
        self.platform.offset_seconds = float(body["offset_seconds"])
        return web.json_response({"now": self.platform.now()})

    async def get_channel(self, request: web.Request) -> web.Response:
        """Show a channel."""
        return self._show(self.platform.channel(request.match_info["id"]).id)

    async def put_channel(self, request: web.Request) -> web.Response:
        """Make a channel, or set fields of one."""
        name = request.match_info["id"]
        if not name.isdigit():
            raise ControlError(f"a channel ID is a number, not {name!r}")
        channel = self.platform.channels.get(name) or new_channel(name)
        settings.apply(self.platform, channel, await _json(request))
        self.platform.channels[name] = channel
        return self._show(name)

    def _show(self, name: str) -> web.Response:
        return web.json_response(settings.describe(self.platform, self.platform.channels[name]))

    async def post_token(self, request: web.Request) -> web.Response:
        """Give out a token."""
        body = await _json(request)
        check("token", body, _TOKEN)
        kind = body.get("kind", "long-lived")
        channel = self.platform.channel(request.match_info["id"])
        token = self.platform.issue(channel.id, kind, body.get("life_seconds"), body.get("value"))
        return web.json_response({"access_token": token.value})

    async def expire_token(self, request: web.Request) -> web.Response:
        """Make a token expire now."""
        body = await _json(request)
        check("token", body, {"access_token": TEXT})
        token = self.platform.tokens.get(body.get("access_token", ""))
        if token is None:
            raise ControlError("no such token")
        token.expires_at = self.platform.now()
        return web.json_response({})

    async def put_user(self, request: web.Request) -> web.Response:
        """Make a user, or set fields of a profile; ``blocked`` is whether the bot is blocked."""
        name = request.match_info["id"]
        if not identifiers.USER_ID.fullmatch(name):
            raise ControlError("a user ID is U and 32 hexadecimal digits")
        profile = self.platform.users.setdefault(name, {"displayName": f"Lab user {name[-4:]}"})
        fields = await _json(request)
        check("user", fields, _USER)
        profile.update(fields)
        return web.json_response(profile)

    async def put_group(self, request: web.Request) -> web.Response:
        """Make a group chat, or set its ``name``, ``picture`` and ``members``."""
        name = request.match_info["id"]
        group = self.platform.groups.get(name, Group(f"Lab group {name[-4:]}"))
        fields = await _json(request)
        check("group", fields, _GROUP)
        self.platform.groups[name] = replace(group, **fields)
        return web.json_response(vars(self.platform.groups[name]))

    async def put_content(self, request: web.Request) -> web.Response:
        """Keep the body as the content of a message."""
        content = Content(await request.read(), request.content_type)
        self.platform.contents[request.match_info["id"]] = content
        return web.json_response({})

    async def delete_content(self, request: web.Request) -> web.Response:
        """Let a content be gone, as LINE does after a time."""
        self.platform.contents[request.match_info["id"]] = Content(None)
        return web.json_response({})

    async def get_faults(self, request: web.Request) -> web.Response:
        """List the faults and how often each has hit."""
        return web.json_response(self.faults.listing())

    async def post_fault(self, request: web.Request) -> web.Response:
        """Order a fault."""
        return web.json_response(self.faults.add(await _json(request)).public())

    async def delete_faults(self, request: web.Request) -> web.Response:
        """Call all faults off."""
        self.faults.clear()
        return web.json_response({})

    async def delete_fault(self, request: web.Request) -> web.Response:
        """Call one fault off."""
        if not self.faults.remove(_number(request.match_info["number"])):
            raise ControlError(f"no fault {request.match_info['number']}")
        return web.json_response({})

    async def get_requests(self, request: web.Request) -> web.Response:
        """List requests to the public API."""
        query = request.query
        since = _number(query.get("since", "0"))
        return web.json_response(self.journal.select(query.get("method", "*"), query.get("path", "*"), since))

    async def delete_requests(self, request: web.Request) -> web.Response:
        """Forget the requests so far."""
        self.journal.clear()
        return web.json_response({})

    async def post_webhook(self, request: web.Request) -> web.Response:
        """Send a webhook and tell how it went."""
        return web.json_response(await self.post.send(await _json(request)))

    async def post_webhook_again(self, request: web.Request) -> web.Response:
        """Deliver a webhook again."""
        return web.json_response(await self.post.send_again(_number(request.match_info["number"])))

    async def get_webhooks(self, request: web.Request) -> web.Response:
        """List the webhooks that were sent."""
        return web.json_response(self.post.deliveries)


async def _json(request: web.Request) -> dict[str, Any]:
    """The JSON object of a request; raises ControlError for another body."""
    try:
        body = await request.json()
    except ValueError as error:
        raise ControlError(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise ControlError("the body must be a JSON object")
    return body


def _number(text: str) -> int:
    if not text.isdigit():
        raise ControlError(f"{text!r} is not a number")
    return int(text)


@web.middleware
async def _explain(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn a mistake of the caller into one sentence."""
    try:
        return await handler(request)
    except ControlError as error:
        return web.json_response({"error": str(error)}, status=400)
