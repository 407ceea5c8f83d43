"""Real storage servers as processes on free loopback ports, and the proxy that breaks their connections."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from modelyard_local import _exec
from unit.runtime.storage.programs import azurite, go_program
from unit.runtime.support import held_port

REGION = "us-east-1"
ACCESS_KEY, SECRET_KEY = "AKIATESTONLY", "not-so-secret-but-never-shown"
ACCOUNT, ACCOUNT_KEY = "modelyardtest", base64.b64encode(b"an account key, never to be shown").decode()


@dataclass(frozen=True)
class Server:
    """A running server: where it listens and what a client's environment needs."""

    scheme: str
    port: int
    environ: dict[str, str]
    secrets: tuple[str, ...]
    """What must not be seen in any message."""
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def through(self, port: int) -> dict[str, str]:
        """Return the environment of a client that comes through another port."""
        return {name: value.replace(f":{self.port}", f":{port}") for name, value in self.environ.items()}


class QuietHandler(BaseHTTPRequestHandler):
    """A handler that prints nothing."""

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def http_server(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """Serve in threads on a free loopback port, which is given."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def s3(folder: Path) -> Iterator[Server]:
    """Run versitygw over a folder; `models` is a bucket."""
    (folder / "data" / "models").mkdir(parents=True)
    (folder / "meta").mkdir()
    with held_port() as port:
        environ = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }
        command = [go_program("versitygw"), "--port", f"127.0.0.1:{port}", "--quiet", "--keep-alive", "posix"]
        env = {"ROOT_ACCESS_KEY_ID": ACCESS_KEY, "ROOT_SECRET_ACCESS_KEY": SECRET_KEY}
        with process([*map(str, command), "--sidecar", str(folder / "meta"), str(folder / "data")], port, folder, env):
            yield Server("s3", port, environ, (SECRET_KEY,), folder)


@contextlib.contextmanager
def gs(folder: Path) -> Iterator[Server]:
    """Run fake-gcs-server in memory; `models` is a bucket. It asks nobody for credentials."""
    with held_port() as port:
        url = f"http://127.0.0.1:{port}"
        environ = {"GOOGLE_BASE_URL": url, "GOOGLE_SKIP_SIGNATURE": "true"}
        command = [go_program("fake-gcs-server"), "-scheme", "http", "-host", "127.0.0.1", "-port", port]
        extra = ["-backend", "memory", "-public-host", "127.0.0.1", "-log-level", "error"]
        with process([*map(str, command), *extra], port, folder):
            post(f"{url}/storage/v1/b?project=test", json.dumps({"name": "models"}).encode(), "application/json")
            yield Server("gs", port, environ, (), folder)


@contextlib.contextmanager
def az(folder: Path) -> Iterator[Server]:
    """Run azurite in memory; `models` is a container."""
    with held_port() as port:
        url = f"http://127.0.0.1:{port}/{ACCOUNT}"
        environ = {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": ACCOUNT_KEY,
            "AZURE_STORAGE_ENDPOINT": url,
        }
        command = [*azurite(), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence", "--silent"]
        extra = ["--skipApiVersionCheck", "--disableTelemetry"]
        with process([*command, *extra], port, folder, {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{ACCOUNT_KEY}"}):
            _make_container(url, "models")
            yield Server("az", port, environ, (ACCOUNT_KEY,), folder)


@contextlib.contextmanager
def oci(folder: Path, auth: str = "") -> Iterator[Server]:
    """Run the registry `distribution` over a folder; `auth` is what its configuration says below that key, as JSON."""
    with held_port() as port:
        more = f"auth: {auth}\n" if auth else ""
        config = folder / "config.yml"
        config.write_text(
            f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
            f'http: {{addr: "127.0.0.1:{port}"}}\n{more}'
        )
        with process(
            [str(go_program("registry")), "serve", str(config)], port, folder, {"OTEL_TRACES_EXPORTER": "none"}
        ):
            yield Server("oci", port, {}, (), folder)


def _make_container(url: str, name: str) -> None:
    """Create a container; signed by hand (Shared Key), since obstore makes none."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    listed = "".join(f"{key}:{value}\n" for key, value in sorted(headers.items()))
    nothing = "\n" * 11  # Content-Encoding to Range
    text = f"PUT\n{nothing}{listed}/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    signature = hmac.new(base64.b64decode(ACCOUNT_KEY), text.encode(), hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(signature).decode()}"
    headers["Content-Length"] = "0"
    request = urllib.request.Request(f"{url}/{name}?restype=container", method="PUT", headers=headers)
    with _direct().open(request, timeout=30):
        pass


def post(url: str, body: bytes, content_type: str) -> None:
    request = urllib.request.Request(url, data=body, headers={"Content-Type": content_type})
    with _direct().open(request, timeout=30):
        pass


def _direct() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextlib.contextmanager
def process(command: Sequence[str], port: int, folder: Path, env: dict[str, str] | None = None) -> Iterator[None]:
    """Run a server until the block ends, or this process does; wait until it takes connections."""
    wrapper = [sys.executable, "-I", "-S", _exec.__file__, str(os.getpid())]
    log = folder / "server.log"
    full = {"PATH": os.environ["PATH"], "HOME": str(folder), **(env or {})}
    with log.open("wb") as output:
        running = subprocess.Popen(
            [*wrapper, *command], cwd=folder, env=full, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if running.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"{command[0]} does not listen: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)
        yield
    finally:
        running.terminate()
        try:
            running.wait(5)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


@dataclass
class Cutter:
    """A TCP proxy between a client and a server that makes trouble, connection by connection."""

    target: int
    cuts: list[int] = field(default_factory=list)
    """For each connection in turn, the bytes of answers after which it is cut (0: never); later ones are left alone."""
    errors: int = 0
    """So many connections, the first ones, are answered with 500."""
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    """What clients have sent."""

    @contextlib.contextmanager
    def running(self) -> Iterator[int]:
        """Listen on a free port, which is yielded."""
        listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            limit = self.cuts[self.connections] if self.connections < len(self.cuts) else 0
            self.connections += 1
            if self.connections <= self.errors:
                threading.Thread(target=self._refuse, args=(client,), daemon=True).start()
                continue
            server = socket.create_connection(("127.0.0.1", self.target))
            for source, sink, most in ((client, server, 0), (server, client, limit)):
                threading.Thread(target=self._pass_on, args=(source, sink, most), daemon=True).start()

    def _refuse(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            client.recv(65536)
            client.sendall(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    def _pass_on(self, source: socket.socket, sink: socket.socket, most: int) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                if sink.getpeername()[1] == self.target:
                    self.requests.append(chunk)
                if most and passed + len(chunk) > most:
                    sink.sendall(chunk[: most - passed])
                    break
                sink.sendall(chunk)
                passed += len(chunk)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
