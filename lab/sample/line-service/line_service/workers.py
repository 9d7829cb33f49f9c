"""The queues and what their workers do with the jobs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from redis.exceptions import RedisError

from .bull import Backoff, Client, Job, Options, Queue, milliseconds
from .clients import CallError, Line, MemoryArk, Photo, file_name, mime_type
from .logs import Log

PHOTO_OPTIONS = Options(3, Backoff("exponential", 2000), remove_on_complete=50, remove_on_fail=20)
NOTIFICATION_OPTIONS = Options(2, Backoff("fixed", 1000), remove_on_complete=10, remove_on_fail=5)
_POLL_SECONDS = 1.0
_TROUBLE_SECONDS = 1.0

Work = Callable[[Job], Awaitable[None]]
FailureListener = Callable[[Job, Exception, int], Awaitable[None]]
StallListener = Callable[[str], None]


async def _pause(ended: asyncio.Event, seconds: float) -> bool:
    """Wait, but not beyond the event; returns whether it has happened."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(ended.wait(), seconds)
    return ended.is_set()


class Pool:
    """Workers of one queue, and the two housekeepers that every queue needs.

    They are asked to end, never cancelled: a cancelled call to Redis may come back as one of the
    errors that are waited out here.
    """

    def __init__(
        self, queue: Queue, size: int, work: Work, on_failure: FailureListener, on_stall: StallListener
    ) -> None:
        self._queue = queue
        self._work = work
        self._on_failure = on_failure
        self._on_stall = on_stall
        self._size = size
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to work."""
        endless = [*[self._run] * self._size, self._promote, self._unstall]
        self._tasks = [asyncio.create_task(task()) for task in endless]

    async def stop(self) -> None:
        """Take no further job and wait until those in hand are done."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                job = await self._queue.take(_POLL_SECONDS)
                if job is not None:
                    await self._process(job)
            except (RedisError, OSError):
                # Like Bull in the real service: a lost Redis is waited for, without a word.
                await _pause(self._stopping, _TROUBLE_SECONDS)

    async def _process(self, job: Job) -> None:
        done = asyncio.Event()
        renewal = asyncio.create_task(self._renew(job, done))
        try:
            await self._work(job)
        except (CallError, KeyError, TypeError, ValueError) as error:
            made = await self._queue.fail(job, str(error))
            await self._on_failure(job, error, made)
        else:
            await self._queue.complete(job)
        finally:
            done.set()
            await renewal

    async def _renew(self, job: Job, done: asyncio.Event) -> None:
        while not await _pause(done, self._queue.lock_ms / 2000):
            with contextlib.suppress(RedisError, OSError):
                await self._queue.extend(job)

    async def _promote(self) -> None:
        while not await _pause(self._stopping, _POLL_SECONDS):
            with contextlib.suppress(RedisError, OSError):
                await self._queue.promote()

    async def _unstall(self) -> None:
        """Look soon after the start, when a predecessor may have died, then once per lock period."""
        period = self._queue.lock_ms / 1000
        pause = 0.0
        while not await _pause(self._stopping, pause):
            with contextlib.suppress(RedisError, OSError):
                moved, lost = await self._queue.unstall()
                for job_id in [*moved, *lost]:
                    self._on_stall(job_id)
            pause = min(pause * 2 or 1.0, period)


class Bot:
    """Both queues with their workers."""

    def __init__(self, client: Client, line: Line, ark: MemoryArk, log: Log, lock_ms: int = 30000) -> None:
        self._line = line
        self._ark = ark
        self._log = log
        self.photos = Queue(client, "photo-processing", PHOTO_OPTIONS, lock_ms)
        self.notifications = Queue(client, "notifications", NOTIFICATION_OPTIONS, lock_ms)
        self._pools = [
            Pool(self.photos, 3, self._archive, self._photo_failed, self._photo_stalled),
            Pool(self.notifications, 5, self._notify, self._notification_failed, lambda _: None),
        ]

    def start(self) -> None:
        """Start all workers."""
        for pool in self._pools:
            pool.start()

    async def stop(self) -> None:
        """Finish the jobs in hand."""
        await asyncio.gather(*(pool.stop() for pool in self._pools))

    async def enqueue_photo(self, data: dict[str, Any]) -> str:
        """Queue a photo; returns the job's number."""
        try:
            return await self.photos.add("process-photo", data)
        except (RedisError, OSError) as error:
            self._log.write(
                "error",
                None,
                "Failed to add photo processing job",
                error=str(error),
                messageId=data["messageId"],
            )
            raise CallError(str(error)) from error

    async def _archive(self, job: Job) -> None:
        """Move a photo from LINE into the archive."""
        data = job.data
        common = {"messageId": data["messageId"], "userId": data["userId"]}
        self._log.write("info", None, "Starting photo processing", jobId=job.id, **common)
        try:
            await self.photos.progress(job, 10)
            content = await self._line.download(data["imageUrl"])
            await self.photos.progress(job, 30)
            photo = await self._photo(data, content)
            await self.photos.progress(job, 50)
            await self._ark.upload(photo)
            await self.photos.progress(job, 80)
            await self._ark.save_user(data["userProfile"])
            await self.photos.progress(job, 90)
            await self._tell(data, "success", f"照片已成功上傳！檔案名稱：{photo.name}")
            await self.photos.progress(job, 100)
        except CallError as error:
            attempt = job.attempts_made + 1
            fields = {"jobId": job.id, "attempt": attempt, "error": str(error), **common}
            self._log.write("error", None, "Photo processing failed", **fields)
            raise
        self._log.write("info", None, "Photo processing completed successfully", jobId=job.id, **common)
        took = milliseconds() - job.timestamp
        self._log.write("info", None, "Photo processing completed", processingTime=took, **common)

    async def _photo(self, data: dict[str, Any], content: bytes) -> Photo:
        mime = mime_type(content)
        profile, group = data["userProfile"], data.get("groupInfo")
        try:
            sender = (await self._line.profile(profile["userId"])).get("displayName") or "未知用戶"
        except CallError as error:
            fields = {"userId": profile["userId"], "error": str(error)}
            self._log.write("warn", "line-webhook", "Failed to get user profile from LINE API", **fields)
            sender = f"用戶_{profile['userId'][:8]}"
        branch = f"群組上傳/{group['groupName']}" if group else "個人上傳"
        return Photo(
            name=file_name(data["messageId"], milliseconds(), mime),
            mime=mime,
            content=content,
            description=f"LINE 照片上傳 - {profile.get('displayName', 'Unknown User')}",
            tags=["line", "photo", profile.get("displayName", "unknown")],
            folder=f"LINE信徒照片上傳/{branch}/{sender}",
            metadata={"source": "line", "lineMessageId": data["messageId"], "userProfile": profile},
        )

    async def _photo_failed(self, job: Job, error: Exception, made: int) -> None:
        data = job.data
        self._log.write(
            "error",
            None,
            "Photo processing failed",
            attempts=made,
            error=str(error),
            messageId=data.get("messageId"),
            userId=data.get("userId"),
        )
        if made >= self.photos.options.attempts:
            await self._tell(data, "error", "照片處理失敗，請稍後重試或聯繫管理員")

    def _photo_stalled(self, job_id: str) -> None:
        self._log.write("warn", None, "Photo processing job stalled", jobId=job_id)

    async def _tell(self, data: dict[str, Any], kind: str, message: str) -> None:
        job = {
            "userId": data.get("userId"),
            "message": message,
            "type": kind,
            "data": {"messageId": data.get("messageId")},
        }
        await self.notifications.add("send-notification", job)

    async def _notify(self, job: Job) -> None:
        data = job.data
        try:
            await self._line.push(data["userId"], data["message"])
        except CallError as error:
            fields = {"error": str(error), "jobId": job.id, "type": data["type"], "userId": data["userId"]}
            self._log.write("error", None, "Failed to send notification", **fields)
            raise

    async def _notification_failed(self, job: Job, error: Exception, _: int) -> None:
        fields = {"error": str(error), "type": job.data.get("type"), "userId": job.data.get("userId")}
        self._log.write("warn", None, "Notification failed", **fields)
