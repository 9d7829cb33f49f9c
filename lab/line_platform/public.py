"""The HTTP rim of the public API: requests in, replies out, ordered faults in between."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

from aiohttp import web

from line_platform import errors
from line_platform.api import Call, Probe, Reply, World, answer, refuse
from line_platform.errors import ApiError
from line_platform.faults import Fault, FaultBook
from line_platform.journal import Journal
from line_platform.post_office import PostOffice

# LINE refuses bodies above 2 MB.
MAX_BODY = 2 * 1024 * 1024


class PublicApi:
    """Answers as api.line.me and api-data.line.me."""

    def __init__(self, world: World, faults: FaultBook, journal: Journal, post: PostOffice) -> None:
        self._world = world
        self._faults = faults
        self._journal = journal
        self._post = post

    def application(self) -> web.Application:
        """The aiohttp application: one handler, since routing is the model's business."""
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._handle)
        return app

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            call = _call(request, await request.read())
        except web.HTTPRequestEntityTooLarge:
            call = _call(request, b"")
            return await _send(request, call, refuse(ApiError(413, "Payload too large")))
        entry = self._journal.begin(time.time(), call)
        fault = self._faults.take(call.method, call.host, call.path, call.bearer)
        entry["fault"] = fault.number if fault else None
        status: int | None = None
        try:
            reply = await self._reply(call, fault)
            if fault:
                # The work is done by now: a client that gives up waiting finds its push accepted.
                await asyncio.sleep(fault.delay_seconds)
            if fault and fault.drop:
                return _drop(request)
            status = reply.status
            return await _send(request, call, reply, fault.truncate if fault else None)
        finally:
            self._journal.finish(entry, status)

    async def _reply(self, call: Call, fault: Fault | None) -> Reply:
        if fault and (fault.drop or fault.status is not None):
            return Reply(fault.status or 0, fault.body.encode(), fault.headers, fault.content_type)
        reply = answer(self._world, call)
        return await self._probe(reply) if isinstance(reply, Probe) else reply

    async def _probe(self, probe: Probe) -> Reply:
        """Send a test webhook and report as LINE does: 200 whatever came of it."""
        if not self._post.reaches(probe.endpoint):
            return refuse(ApiError(400, errors.INVALID_WEBHOOK_URL))
        moment = datetime.fromtimestamp(self._world.platform.now(), UTC)
        outcome = await self._post.probe(probe.channel, probe.endpoint)
        return Reply(
            body={
                "success": outcome.success,
                "timestamp": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "statusCode": outcome.status,
                "reason": outcome.reason,
                "detail": outcome.detail,
            }
        )


def _call(request: web.Request, body: bytes) -> Call:
    return Call(
        method=request.method,
        host=_host(request.headers.get("Host", "")),
        path=request.path,
        query=dict(request.query),
        headers={name.lower(): value for name, value in request.headers.items()},
        body=body,
    )


def _host(header: str) -> str:
    """The name in a Host header, without port and in small letters."""
    name, colon, port = header.rpartition(":")
    return (name if colon and port.isdigit() else header).strip("[]").lower()


async def _send(
    request: web.Request, call: Call, reply: Reply, truncate: int | None = None
) -> web.StreamResponse:
    data = reply.data()
    headers = {"x-line-request-id": call.request, **reply.headers}
    if data or reply.body is not None:
        headers.setdefault("Content-Type", reply.content_type)
    if truncate is None or truncate >= len(data):
        return web.Response(status=reply.status, body=data, headers=headers)
    response = web.StreamResponse(status=reply.status, headers=headers)
    response.content_length = len(data)
    await response.prepare(request)
    await response.write(data[:truncate])
    _drop(request)
    return response


def _drop(request: web.Request) -> web.Response:
    """Close the connection under the client's feet."""
    if request.transport is not None:
        request.transport.close()
    return web.Response()
