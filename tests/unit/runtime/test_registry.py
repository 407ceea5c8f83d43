"""Several models and versions: swaps without a gap, and answers that never outlive the version they are of."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from modelyard_runtime.dataplane.registry import ModelState, Registry, ServedModel
from modelyard_runtime.errors import UnknownModel
from unit.runtime.support import Api, FakeModel
from waiting import eventually_async

Serve = Callable[..., Api]
BODY = {"features": [1, 2], "use_cache": True}


def served(version: str, name: str = "m") -> ServedModel:
    return ServedModel(name, version, "linear", "sha256:00", "file:///m", FakeModel())


def test_a_loaded_version_can_be_gone_back_to() -> None:
    registry = Registry()
    for version in ("1", "2"):
        registry.activate(served(version))

    back = registry.switch("m", "1")

    assert registry.resolve("m") is back
    assert registry.versions("m") == ["2", "1"]


def test_few_inactive_versions_stay_loaded() -> None:
    registry = Registry()
    for version in "12345":
        registry.activate(served(version))

    assert registry.versions("m") == ["3", "4", "5"]
    with pytest.raises(UnknownModel, match="no version '1' of the model 'm' is loaded; loaded are: 3, 4, 5"):
        registry.switch("m", "1")


def test_a_version_may_be_loaded_without_being_active() -> None:
    registry = Registry()
    registry.activate(served("1"))

    registry.add(served("2"))

    assert registry.resolve("m").version == "1"


def test_a_failed_load_keeps_the_version_that_is_served() -> None:
    registry = Registry()
    registry.activate(served("1"))

    registry.expect("m")
    registry.fail("m")

    assert (registry.resolve("m").version, registry.states["m"]) == ("1", ModelState.READY)


def test_a_removed_model_is_unknown() -> None:
    registry = Registry()
    registry.activate(served("1"))

    registry.remove("m")

    with pytest.raises(UnknownModel):
        registry.resolve("m")
    with pytest.raises(UnknownModel):
        registry.remove("m")


def test_listeners_hear_of_every_change() -> None:
    registry, heard = Registry(), []
    registry.on_change(lambda name: heard.append((name, registry.states.get(name))))

    registry.activate(served("1"))
    registry.add(served("2"))
    registry.switch("m", "2")
    registry.remove("m")

    assert heard == [("m", ModelState.READY)] * 2 + [("m", None)]


def test_a_swap_drops_the_cached_answers_even_of_an_equal_version(serve: Serve) -> None:
    api = serve({"m": FakeModel(), "other": FakeModel()})
    body = {**BODY, "model_name": "m"}
    for name in ("m", "other"):
        api.predict({**BODY, "model_name": name})

    api.activate("m", "1", FakeModel(answer=lambda rows: rows.sum(axis=1) * 10))
    answers = [api.predict(body).json(), api.predict({**BODY, "model_name": "other"}).json()]

    assert [(answer["prediction"], answer["cached"]) for answer in answers] == [(30.0, False), (3.0, True)]


class Gate:
    """A model in a thread that waits until the test lets it go on, and counts its calls."""

    def __init__(self, outcome: Callable[[Any], Any] = lambda rows: rows.sum(axis=1)) -> None:
        self.open = threading.Event()
        self.calls = 0
        self._outcome = outcome

    def model(self) -> FakeModel:
        return FakeModel(answer=self._answer, inline=False)

    def _answer(self, rows: Any) -> Any:
        self.calls += 1
        assert self.open.wait(30)
        return self._outcome(rows)


def ask_while_closed(api: Api, gate: Gate, count: int, meanwhile: Callable[[], None] = lambda: None) -> list[Any]:
    """Send `count` equal cacheable requests before the model answers the first, and return what each was answered."""

    async def scenario() -> list[Any]:
        tasks = [asyncio.create_task(api.request("POST", "/predict", json=BODY)) for _ in range(count)]
        await eventually_async(lambda: gate.calls > 0 and api.app.plane.in_flight == count)
        meanwhile()
        gate.open.set()
        return [(answer.status_code, answer.json()) for answer in await asyncio.gather(*tasks)]

    return asyncio.run(scenario())


def test_equal_cacheable_requests_in_flight_are_computed_once(serve: Serve) -> None:
    gate = Gate()
    api = serve({"m": gate.model()})

    answers = ask_while_closed(api, gate, 5)

    assert gate.calls == 1
    assert [(status, body["prediction"]) for status, body in answers] == [(200, 3.0)] * 5
    assert sorted(body["cached"] for _, body in answers) == [False, True, True, True, True]


def test_an_error_is_shared_and_not_kept(serve: Serve) -> None:
    gate = Gate(lambda rows: rows.sum(axis=1) * float("nan"))
    api = serve({"m": gate.model()})

    answers = ask_while_closed(api, gate, 3)
    again = api.predict(BODY)

    assert [status for status, _ in answers] == [422] * 3
    assert (again.status_code, gate.calls) == (422, 2)


def test_an_answer_of_a_version_that_is_gone_is_not_kept(serve: Serve) -> None:
    gate = Gate()
    api = serve({"m": gate.model()})

    def swap() -> None:
        api.activate("m", "2", FakeModel(answer=lambda rows: rows.sum(axis=1) * 10))

    answers = ask_while_closed(api, gate, 2, swap)
    after = api.predict(BODY).json()

    assert {(body["prediction"], body["model_version"]) for _, body in answers} == {(3.0, "1")}
    assert (after["prediction"], after["model_version"], after["cached"]) == (30.0, "2", False)
