"""The totals of a server of several workers: each asks the others for what they have counted.

A share is on disk before anybody sees it, so that what was shown once is not lost with its process: a worker that is
started again goes on from its predecessor's share. One that is killed takes along what it counted since it was last
asked, for a second at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path

from modelyard_runtime.telemetry.metrics import Metrics
from modelyard_runtime.telemetry.statistics import Statistics
from modelyard_runtime.telemetry.totals import Combined, Share, combine, combined_statistics, share_of
from modelyard_runtime.workers.shared_state import SharedState

__all__ = ["SharedTotals"]

_ANSWER_SECONDS = 1.0
"""After this, a worker that does not answer counts with what it last left on disk."""
_KEEP_SECONDS = 1.0


class SharedTotals:
    """The shares of all workers. For the event loop's thread."""

    def __init__(
        self,
        folder: Path,
        index: int,
        workers: int,
        state: SharedState,
        *,
        metrics: Metrics,
        statistics: Statistics,
    ) -> None:
        """Go on from what the worker before this one left, if there was one. `folder` holds the shares."""
        self._folder = folder
        self._index = index
        self._workers = workers
        self._state = state
        self._metrics = metrics
        self._statistics = statistics
        self._before = self._read(index).lasting
        self._server: asyncio.Server | None = None
        self._keeping: asyncio.Task[None] | None = None
        # Sockets in folders with long names can't be named: the system allows 107 bytes. Relative to an open folder,
        # the name is always short.
        self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)

    async def start(self) -> None:
        """Answer the others from now on."""
        listener = socket.socket(socket.AF_UNIX)
        path = self._socket(self._index)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        listener.bind(path)
        self._server = await asyncio.start_unix_server(self._answer, sock=listener)
        self._keeping = asyncio.create_task(self._keep())

    def close(self) -> None:
        """Leave the share for those who go on."""
        if self._keeping is not None:
            self._keeping.cancel()
        self._own()
        if self._server is not None:
            self._server.close()
        os.close(self._descriptor)

    async def metrics(self) -> Combined:
        """Return the metrics of all workers."""
        return Combined(await self._shares())

    async def statistics(self) -> Statistics:
        """Return the statistics of all workers."""
        return combined_statistics(await self._shares())

    async def _shares(self) -> list[Share]:
        others = [index for index in range(self._workers) if index != self._index]
        asked = await asyncio.gather(*(self._ask(index) for index in others))
        # Last, and with no await behind it: nothing that is counted meanwhile is seen by some and not by others.
        return [Share.from_json(self._own()), *asked]

    async def _ask(self, index: int) -> Share:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._socket(index))
                try:
                    return Share.from_json(await reader.read())
                finally:
                    writer.close()
        except TimeoutError:
            return self._read(index)
        except (OSError, ValueError):  # it is gone, or goes this moment
            return self._read(index).lasting

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(self._own())
            await writer.drain()
        writer.close()

    def _own(self) -> bytes:
        """Write this worker's share to disk and return it."""
        data = combine([self._before, share_of(self._metrics, self._statistics)]).to_json()
        new = self._file(self._index).with_suffix(".new")
        with contextlib.suppress(OSError):  # a full disk: then nothing is kept, and all goes on
            new.write_bytes(data)
            new.replace(self._file(self._index))
        return data

    async def _keep(self) -> None:
        while True:
            self._state.beat(self._index)
            self._own()
            await asyncio.sleep(_KEEP_SECONDS)

    def _read(self, index: int) -> Share:
        try:
            return Share.from_json(self._file(index).read_bytes())
        except FileNotFoundError:
            return Share()

    def _file(self, index: int) -> Path:
        return self._folder / f"{index}.share"

    def _socket(self, index: int) -> str:
        return f"/proc/self/fd/{self._descriptor}/{index}.socket"
