"""Finds the programs of a cluster, or builds them from Go modules into a cache outside the checkout.

Kubernetes publishes no package that a test may simply install, and images need a container runtime first. Its Go
modules need neither, and `binaries/go.sum` vouches for every line that is compiled.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from .errors import BuildFailed, ClusterError
from .go_toolchain import find_go
from .paths import cache_root, sources_of_binaries
from .programs import KUBERNETES, PROGRAMS, Program, version_of
from .run import Report, run, say, tail

__all__ = ["Binaries"]

_BUILD_LIMIT = 45 * 60.0
"""Seconds for one program; the API server takes six minutes on two idle cores, and tests may run beside it."""


class Binaries:
    """The programs of a cluster, each found or built when first asked for.

    KUBEBUILDER_ASSETS comes first, then PATH, then the cache. What is found in the first two is used only if its
    version goes with the rest: a kubelet must not be newer than its API server.

    Args:
        env: where KUBEBUILDER_ASSETS, PATH and the cache's place are read from.
        report: called with each line of progress.
    """

    def __init__(self, env: Mapping[str, str] | None = None, report: Report = say) -> None:
        self._env = dict(os.environ if env is None else env)
        self._report = report
        self._found: dict[str, Path] = {}
        self._sources = sources_of_binaries()
        own = ("go.mod", "go.sum", "coredns/main.go", "pause/main.go")
        self.folder = cache_root(self._env) / "kube" / f"{KUBERNETES}-{self._fingerprint(*own)}" / "bin"

    def _fingerprint(self, *sources: str) -> str:
        digest = hashlib.sha256()
        for source in sources:
            digest.update((self._sources / source).read_bytes())
        return digest.hexdigest()[:12]

    def _folder_of(self, program: Program) -> Path:
        if not program.module:
            return self.folder
        pins = (f"{program.module}/go.mod", f"{program.module}/go.sum")
        return cache_root(self._env) / program.module / self._fingerprint(*pins) / "bin"

    def path(self, name: str) -> Path:
        """Return where a program is, building it if need be.

        Raises:
            MissingPrerequisite: it has to be built and there is no Go toolchain.
            BuildFailed: the build failed or took too long.
        """
        return self.ensure([name])[name]

    def ensure(self, names: Iterable[str]) -> dict[str, Path]:
        """Return where each of these programs is, building what is missing."""
        wanted = list(names)
        missing = [name for name in wanted if self.find(name) is None]
        if missing:
            self._build([PROGRAMS[name] for name in missing])
        return {name: self._must_find(name) for name in wanted}

    def _must_find(self, name: str) -> Path:
        found = self.find(name)
        if found is None:
            raise BuildFailed(
                f"{name} was built, but is not in {self._folder_of(PROGRAMS[name])}; delete that folder and try again"
            )
        return found

    def find(self, name: str) -> Path | None:
        """Return where a program is, or None if it would have to be built."""
        if name not in self._found and (place := self._look_for(PROGRAMS[name])):
            self._found[name] = place
        return self._found.get(name)

    def _look_for(self, program: Program) -> Path | None:
        cached = self._folder_of(program) / program.name
        folders = (self._env.get("KUBEBUILDER_ASSETS"), self._env.get("PATH")) if program.asks else ()
        for folder in folders:
            place = shutil.which(program.name, path=folder) if folder else None
            if not place or Path(place) == cached:
                continue
            version = self._version(Path(place), program)
            if version and version.startswith(program.wanted):
                return Path(place).absolute()
            if not cached.exists():
                self._report(f"{place} is {version or 'of an unknown version'}, not {program.wanted}x: not used")
        return cached if cached.exists() else None

    def _version(self, place: Path, program: Program) -> str | None:
        try:
            return version_of(run(place, *program.asks, timeout=30, env=self._env))
        except ClusterError:
            return None

    def _build(self, programs: list[Program]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._only_one_builder():
            # Another builder may have made some while this one waited.
            left = [program for program in programs if not (self._folder_of(program) / program.name).exists()]
            if not left:
                return
            go = find_go(self._env, cache_root(self._env), self._sources / "go.mod", self._report)
            self._report(
                f"building {', '.join(program.name for program in left)} into {self.folder} with {go}: "
                f"minutes the first time (nine for all, on two idle cores), then never again"
            )
            for program in left:
                self._compile(go, program)

    @contextlib.contextmanager
    def _only_one_builder(self) -> Iterator[None]:
        """Hold the cache's lock: two test runs must not compile the same at once."""
        with (self.folder / ".lock").open("w") as lock:
            begun = said = time.monotonic()
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() - begun > _BUILD_LIMIT:
                        raise BuildFailed(f"another build holds {lock.name} for {_BUILD_LIMIT / 60:.0f} min") from None
                    if said == begun or time.monotonic() - said > 30:
                        said = time.monotonic()
                        self._report(f"another run builds into {self.folder}: waiting, {said - begun:.0f} s")
                    time.sleep(0.5)
            yield

    def _compile(self, go: Path, program: Program) -> None:
        """Build one program beside its place and move it there: what has the name is always whole."""
        begun = time.monotonic()
        folder = self._folder_of(program)
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / f".{program.name}.log"
        new = folder / f".{program.name}.{os.getpid()}"
        major, minor, _ = KUBERNETES.split(".")
        versions = {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor}
        stamp = " ".join(f"-X k8s.io/component-base/version.{key}={value}" for key, value in versions.items())
        argv = [str(go), "build", "-trimpath", "-buildvcs=false", "-ldflags", f"-s -w {stamp}", "-o", str(new)]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*argv, program.package],
                cwd=self._sources / program.module,
                env={**self._env, "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-mod=readonly"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                status = self._follow(process, program, begun)
            except BaseException:
                process.kill()
                process.wait()
                raise
        if status != 0:
            new.unlink(missing_ok=True)
            raise BuildFailed(
                f"{' '.join(argv[:2])} {program.package} ended with {status}; {log} ends with:\n{tail(log)}"
            )
        new.rename(folder / program.name)
        self._report(f"  {program.name}: built in {time.monotonic() - begun:.0f} s")

    def _follow(self, process: subprocess.Popen[bytes], program: Program, begun: float) -> int:
        while True:
            try:
                return process.wait(30)
            except subprocess.TimeoutExpired:
                passed = time.monotonic() - begun
                if passed > _BUILD_LIMIT:
                    raise BuildFailed(
                        f"{program.name} did not compile within {_BUILD_LIMIT / 60:.0f} min; what is compiled is kept, "
                        f"so the same command goes on from there"
                    ) from None
                self._report(f"  {program.name}: compiling, {passed:.0f} s")
