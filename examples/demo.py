"""The tour: two models and an A/B test on this machine, with the commands and manifests that a cluster takes.

`scripts/demo` sets up and runs it. Everything lives in one folder (`--dir`, default `.modelyard/demo`).
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from train import train

EXAMPLES = Path(__file__).parent
USERS = 1000
LOAD_CLIENTS = 4


def heading(number: int, text: str) -> None:
    """Begin a step of the tour."""
    print(f"\n\033[1m{number}. {text}\033[0m" if sys.stdout.isatty() else f"\n{number}. {text}", flush=True)


class Modelyard:
    """Runs `modelyard local …` as a person would, and shows it."""

    def __init__(self, state: Path) -> None:
        self._state = state

    def run(self, *args: str, show: bool = True) -> str:
        """Run one command and return what it prints; end the tour when it fails."""
        shown = "modelyard local " + " ".join(args)
        if show:
            print(f"   $ {shown}", flush=True)
        command = [sys.executable, "-m", "modelyard_cli.main", "local", *args, "--state", str(self._state)]
        done = subprocess.run(command, text=True, capture_output=True, check=False)
        if done.returncode != 0:
            sys.exit(f"`{shown}` failed:\n{done.stdout}{done.stderr}")
        if show:
            print("".join(f"   {line}\n" for line in done.stdout.splitlines()), end="", flush=True)
        return done.stdout

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """Return one object."""
        found: dict[str, Any] = json.loads(self.run("get", kind, name, "-o", "json", show=False))
        return found


@dataclass
class Answers:
    """What came back from a round of requests."""

    variant_of: dict[str, str] = field(default_factory=dict)
    correct: collections.Counter[str] = field(default_factory=collections.Counter)
    versions: collections.Counter[str] = field(default_factory=collections.Counter)
    failures: list[str] = field(default_factory=list)
    requests: int = 0

    def split(self) -> str:
        """Return the observed share and accuracy of each variant."""
        counts = collections.Counter(self.variant_of.values())
        lines = []
        for name, count in counts.most_common():
            share, accuracy = count / len(self.variant_of), self.correct[name] / count
            lines.append(f"   {name:10} {count:5} users  {share:6.1%}   accuracy {accuracy:.3f}")
        return "\n".join(lines)


class Client:
    """Sends held-out rows to one endpoint."""

    def __init__(self, session: aiohttp.ClientSession, url: str, held_out: dict[str, Any]) -> None:
        self._session, self._url = session, url
        self._rows = list(zip(held_out["instances"], held_out["labels"], strict=True))

    async def ask(self, user: int, answers: Answers) -> None:
        """Send one user's request and take note of the answer."""
        row, label = self._rows[user % len(self._rows)]
        key = f"user-{user}"
        answers.requests += 1
        try:
            async with self._session.post(
                f"{self._url}/predict", json={"features": row}, headers={"x-user-id": key}
            ) as response:
                body = await response.json()
                if response.status != 200:
                    answers.failures.append(f"{response.status} {body}")
                    return
        except (aiohttp.ClientError, TimeoutError) as error:
            answers.failures.append(repr(error))
            return
        variant = response.headers.get("x-modelyard-variant", "-")
        answers.variant_of[key] = variant
        answers.versions[body["model_version"]] += 1
        answers.correct[variant] += body["prediction"] == label

    async def ask_all(self, users: int) -> Answers:
        """Send one request for each of so many users."""
        answers, numbers = Answers(), iter(range(users))

        async def one_after_another() -> None:
            for user in numbers:
                await self.ask(user, answers)

        await asyncio.gather(*(one_after_another() for _ in range(8)))
        return answers

    @contextlib.asynccontextmanager
    async def load(self) -> AsyncIterator[Answers]:
        """Send requests without a pause for as long as the block lasts."""
        answers, numbers, done = Answers(), itertools.count(), asyncio.Event()

        async def one_after_another() -> None:
            while not done.is_set():
                await self.ask(next(numbers), answers)

        tasks = [asyncio.create_task(one_after_another()) for _ in range(LOAD_CLIENTS)]
        try:
            yield answers
        finally:
            done.set()
            await asyncio.gather(*tasks)


def edited(source: Path, target: Path, **changes: dict[str, Any]) -> Path:
    """Write a copy of a manifest file in which some objects (by name) have other values at some paths."""
    documents = list(yaml.safe_load_all(source.read_text()))
    for document in documents:
        for path, value in changes.get(document["metadata"]["name"].replace("-", "_"), {}).items():
            *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
            node: Any = document
            for part in parents:
                node = node[part]
            print(f"   {document['metadata']['name']}: {path} {node[last]} -> {value}")
            node[last] = value
    target.write_text(yaml.safe_dump_all(documents, sort_keys=False))
    return target


async def until_split(client: Client, before: Answers) -> float:
    """Wait until users that a shift moves are answered by their new variant; return the seconds it took."""
    started = time.monotonic()
    stayed = [int(key.removeprefix("user-")) for key, variant in before.variant_of.items() if variant == "logistic"]
    while time.monotonic() - started < 30:
        seen = Answers()
        for user in stayed[:20]:
            await client.ask(user, seen)
        if "forest" in seen.variant_of.values():
            return time.monotonic() - started
    sys.exit("the new weights did not reach the wire within 30 s: see `modelyard local get abt`")


async def tour(folder: Path, modelyard: Modelyard) -> None:
    """Take the steps of the tour, one after another."""
    heading(1, "Train two classifiers on the breast-cancer data that ships with scikit-learn")
    for name, accuracy in train(folder).items():
        print(f"   {name:20} accuracy {accuracy:.3f} on held-out rows")

    heading(2, "Start Modelyard on this machine")
    modelyard.run("up", "--detach", "--claim", f"models={folder / 'models'}")

    heading(3, "Apply the manifests that kubectl takes: two ModelDeployments, one ABTest at 90/10")
    started = time.monotonic()
    modelyard.run("apply", "-f", str(EXAMPLES / "models.yaml"))
    modelyard.run("apply", "-f", str(EXAMPLES / "abtest.yaml"))
    modelyard.run("wait", "--for=condition=Ready", "abt/diagnosis-test", "--timeout", "60")
    print(f"   ready {time.monotonic() - started:.1f} s after the first apply")
    modelyard.run("get", "mdep")
    modelyard.run("get", "abt")

    url = modelyard.get("abt", "diagnosis-test")["status"]["url"]
    held_out = json.loads((folder / "held-out.json").read_text())
    async with aiohttp.ClientSession() as session:
        client = Client(session, url, held_out)
        heading(4, f"Predict held-out rows for {USERS} users through the router at {url}")
        before = await client.ask_all(USERS)
        print(before.split())

        heading(5, "Edit the ABTest to 50/50")
        weights = {"spec.variants.0.weight": 50, "spec.variants.1.weight": 50}
        shifted = edited(EXAMPLES / "abtest.yaml", folder / "abtest-50-50.yaml", diagnosis_test=weights)
        modelyard.run("apply", "-f", str(shifted))
        print(f"   on the wire {await until_split(client, before):.2f} s after the apply returned")
        after = await client.ask_all(USERS)
        print(after.split())
        moves = collections.Counter((old, after.variant_of[key]) for key, old in before.variant_of.items())
        print(f"   moved from logistic to forest: {moves['logistic', 'forest']} users")
        print(f"   moved from forest to logistic: {moves['forest', 'logistic']} users (nobody left the challenger)")

        heading(6, "Roll diagnosis to version 2 under load")
        version = {"spec.model.uri": "pvc://models/diagnosis/2", "spec.model.version": "2"}
        rolled = edited(EXAMPLES / "models.yaml", folder / "models-2.yaml", diagnosis=version)
        async with client.load() as answers:
            await asyncio.to_thread(modelyard.run, "apply", "-f", str(rolled))
            await asyncio.to_thread(modelyard.run, "wait", "--for=condition=Ready", "mdep/diagnosis", "--timeout", "60")
            await asyncio.sleep(7)  # past the drain delay: the old pod has gone before the load stops
        print(f"   {answers.requests} requests during the rollout, {len(answers.failures)} failed")
        print(f"   answered by version: {dict(answers.versions)}")
        for failure in answers.failures[:3]:
            print(f"   failed: {failure}")
        if before.failures or after.failures or answers.failures:
            sys.exit("requests failed: this is a bug of Modelyard")

    heading(7, "What listens where")
    modelyard.run("get", "services")
    modelyard.run("get", "pods")
    row = json.dumps({"features": held_out["instances"][0]})
    (folder / "row.json").write_text(row)
    command = f"{Path(sys.executable).parent / 'modelyard'} local"
    state = f"--state {folder / 'state'}"
    print(f"""
   Try next, in another terminal:
     curl -si -H 'x-user-id: you' -d @{folder / "row.json"} {url}/predict
     curl -s -H 'x-modelyard-variant: forest' -d @{folder / "row.json"} {url}/predict
     {command} get abt {state}
     {command} apply {state} -f {shifted}        (after an edit)""")


@contextlib.contextmanager
def running(modelyard: Modelyard, folder: Path) -> Iterator[None]:
    """Take down whatever the tour started, however it ends."""
    try:
        yield
    finally:
        if (folder / "state").exists():
            modelyard.run("down")


def main() -> None:
    """Run the tour; stay up until Ctrl-C when a person is watching."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=Path(".modelyard/demo"), help="where everything is kept")
    parser.add_argument("--exit", action="store_true", help="stop after the tour instead of waiting for Ctrl-C")
    arguments = parser.parse_args()
    folder: Path = arguments.dir.absolute()
    modelyard = Modelyard(folder / "state")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if folder.exists():
        if (folder / "state").exists():
            modelyard.run("down", show=False)
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    with running(modelyard, folder):
        asyncio.run(tour(folder, modelyard))
        if not arguments.exit and sys.stdin.isatty() and sys.stdout.isatty():
            print("\n   Everything stays up until you press Ctrl-C.", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()


if __name__ == "__main__":
    main()
