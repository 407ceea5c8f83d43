"""Which reconciles follow from which."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import Any, cast

from modelyard_operator.manifests.settings import Settings
from modelyard_operator.reconcile.controller import Controller, Key
from waiting import eventually_async

SETTINGS = Settings(runtime_image="r", router_image="o", envoy_image="e")
MODEL, TEST = Key("ModelDeployment", "shop", "churn"), Key("ABTest", "shop", "churn-test")
ABTEST = {
    "metadata": {"namespace": "shop", "name": "churn-test"},
    "spec": {"variants": [{"name": "current", "modelDeployment": "churn"}]},
}


class Recording(Controller):
    """Notes what it reconciles, and does nothing else."""

    def __init__(self) -> None:
        super().__init__(cast("Any", RouterStates()), SETTINGS, lambda: datetime.now(UTC))
        self.seen: list[Key] = []

    async def _reconcile(self, key: Key) -> float | None:
        self.seen.append(key)
        return None


class RouterStates:
    """The one verb that a controller asks for when it is made."""

    async def router_state(self, *_: object) -> None:
        return None


async def test_a_test_follows_its_model_though_no_event_tells_of_the_status_just_written() -> None:
    controller = Recording()
    running = asyncio.create_task(controller.run())
    try:
        controller.on_event("ABTest", ABTEST)
        await eventually_async(lambda: controller.seen == [TEST])

        controller.enqueue("ModelDeployment", "shop", "churn")
        await eventually_async(lambda: controller.seen == [TEST, MODEL, TEST])

        controller.on_event("ABTest", ABTEST, deleted=True)
        controller.enqueue("ModelDeployment", "shop", "churn")
        await eventually_async(lambda: controller.seen[3:].count(MODEL) == 1)
        assert controller.seen[3:].count(TEST) <= 1  # of its own deletion
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
