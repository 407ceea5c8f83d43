"""The models of this process: which are there, in what state, and which one a request means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from modelyard_runtime.errors import BadRequest, NotReady, UnknownModel
from modelyard_runtime.formats.base import Model

__all__ = ["ModelState", "Registry", "ServedModel"]


class ModelState(StrEnum):
    """Where a model is on its way."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True)
class ServedModel:
    """A model that is loaded and warm, and what it was loaded from."""

    name: str
    version: str
    format: str
    digest: str
    uri: str
    model: Model


class Registry:
    """Models by name. Only the event loop's thread changes it, between requests: none sees half of a change."""

    def __init__(self) -> None:
        self._served: dict[str, ServedModel] = {}
        self._states: dict[str, ModelState] = {}

    @property
    def states(self) -> Mapping[str, ModelState]:
        """The state of every model, ready or not."""
        return self._states

    @property
    def ready(self) -> bool:
        """Whether there are models and all of them answer."""
        return bool(self._states) and len(self._served) == len(self._states)

    def expect(self, name: str) -> None:
        """Note that a model of this name is being loaded."""
        self._states[name] = ModelState.LOADING

    def activate(self, served: ServedModel) -> None:
        """Serve this model from the next request on."""
        self._served[served.name] = served
        self._states[served.name] = ModelState.READY

    def fail(self, name: str) -> None:
        """Note that loading failed; a version that was served before goes on being served."""
        if name not in self._served:
            self._states[name] = ModelState.FAILED

    def served(self) -> list[ServedModel]:
        """Return the models that answer."""
        return list(self._served.values())

    def resolve(self, name: str | None) -> ServedModel:
        """Return the model that a request means; `name` may be None where there is but one.

        Raises UnknownModel, NotReady while it loads, BadRequest when a name is needed.
        """
        if name is None:
            if len(self._states) > 1:
                raise BadRequest(f"give model_name: this server has {_listing(self._states)}")
            name = next(iter(self._states), None)
        served = self._served.get(name) if name is not None else None
        if served is not None:
            return served
        if name in self._states:
            raise NotReady(f"the model {name} is {self._states[name]}; try again in a moment")
        raise UnknownModel(f"no model {_shorten(name)} is served here; this server has {_listing(self._states)}")


def _listing(states: Mapping[str, ModelState]) -> str:
    return ", ".join(sorted(states)[:10]) or "none"


def _shorten(name: str | None) -> str:
    text = repr(name)
    return text if len(text) <= 100 else f"{text[:100]}…"
