"""The models of this process: which are there, in what state, and which one a request means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from modelyard_runtime.errors import BadRequest, NotReady, UnknownModel
from modelyard_runtime.formats.base import Model

__all__ = ["ModelState", "Registry", "ServedModel"]


_INACTIVE_VERSIONS = 2
"""How many versions of a model stay loaded beside the active one: what can be gone back to, and the memory it takes."""


class ModelState(StrEnum):
    """Where a model is on its way."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    UNLOADED = "unloaded"
    """Taken off by a request; another brings it up again."""


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
    """Models by name, each with its versions, of which one is active.

    Only the event loop's thread changes it, between requests: none sees half of a change, and one that has begun
    keeps the version that it began with.
    """

    def __init__(self) -> None:
        self._served: dict[str, ServedModel] = {}
        self._states: dict[str, ModelState] = {}
        self._versions: dict[str, dict[str, ServedModel]] = {}
        self._listeners: list[Callable[[str], None]] = []
        self._others: Callable[[], bool] | None = None

    @property
    def states(self) -> Mapping[str, ModelState]:
        """The state of every model, ready or not."""
        return self._states

    @property
    def ready(self) -> bool:
        """Whether there are models that answer, and all do but those that were unloaded."""
        expected = sum(state is not ModelState.UNLOADED for state in self._states.values())
        if not self._served or len(self._served) != expected:
            return False
        return self._others is None or self._others()

    def hold(self, others: Callable[[], bool]) -> None:
        """Count as not ready, whatever the models are, until `others`, the other workers, are, or until `release`."""
        self._others = others

    def release(self) -> None:
        """Take `hold` back."""
        self._others = None
        for name in self._served:
            self._tell(name)

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the name of each model whose active version changes, right after it has."""
        self._listeners.append(listener)

    def expect(self, name: str) -> None:
        """Note that a model of this name is being loaded; one that answers goes on answering meanwhile."""
        if name not in self._served:
            self._states[name] = ModelState.LOADING

    def add(self, served: ServedModel) -> None:
        """Keep a version that is loaded beside the active one; of inactive ones, the newest few stay."""
        versions = self._versions.setdefault(served.name, {})
        versions.pop(served.version, None)
        versions[served.version] = served
        active = self._served.get(served.name)
        inactive = [version for version in versions if active is None or version != active.version]
        for version in inactive[:-_INACTIVE_VERSIONS]:
            del versions[version]

    def activate(self, served: ServedModel) -> None:
        """Serve this model from the next request on; the version that was active stays loaded."""
        self._served[served.name] = served
        self._states[served.name] = ModelState.READY
        self.add(served)
        self._tell(served.name)

    def switch(self, name: str, version: str) -> ServedModel:
        """Activate a version that is loaded, and return it. Raises UnknownModel."""
        served = self._versions.get(name, {}).get(version)
        if served is None:
            known = ", ".join(sorted(self._versions.get(name, ()))[:10]) or "none"
            raise UnknownModel(
                f"no version {_shorten(version)} of the model {_shorten(name)} is loaded; loaded are: {known}"
            )
        self.activate(served)
        return served

    def remove(self, name: str) -> None:
        """Serve this model no more; requests that have begun are finished. Raises UnknownModel."""
        if self._states.pop(name, None) is None:
            raise UnknownModel(f"no model {_shorten(name)} is served here; this server has {_listing(self._states)}")
        self._served.pop(name, None)
        self._versions.pop(name, None)
        self._tell(name)

    def unload(self, name: str) -> None:
        """Serve this model no more, and remember its name; requests that have begun are finished."""
        self._states[name] = ModelState.UNLOADED
        self._served.pop(name, None)
        self._versions.pop(name, None)
        self._tell(name)

    def fail(self, name: str) -> None:
        """Note that loading failed; a version that was served before goes on being served."""
        if name not in self._served:
            self._states[name] = ModelState.FAILED

    def forget(self, name: str) -> None:
        """Take back that a model of this name is expected, where it was never served."""
        if name not in self._served:
            self._states.pop(name, None)

    def active(self, name: str) -> ServedModel | None:
        """Return the model that answers to this name, None where none does."""
        return self._served.get(name)

    def is_active(self, served: ServedModel) -> bool:
        """Whether requests are answered by this very model now."""
        return self._served.get(served.name) is served

    def holds(self, served: ServedModel) -> bool:
        """Whether this very model is loaded, active or not."""
        return self._versions.get(served.name, {}).get(served.version) is served

    def versions(self, name: str) -> list[str]:
        """Return the versions of a model that are loaded, oldest first."""
        return list(self._versions.get(name, ()))

    def _tell(self, name: str) -> None:
        for listener in self._listeners:
            listener(name)

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
        if self._states.get(name or "") is ModelState.UNLOADED:
            raise NotReady(f"the model {name} is unloaded; POST /v2/repository/models/{name}/load brings it up again")
        if name in self._states:
            raise NotReady(f"the model {name} is {self._states[name]}; try again in a moment")
        raise UnknownModel(f"no model {_shorten(name)} is served here; this server has {_listing(self._states)}")

    def resolve_version(self, name: str | None, version: str | None) -> ServedModel:
        """Return the model that a request means, of the active version or none. Raises what `resolve` raises."""
        served = self.resolve(name)
        if version and version != served.version:
            raise UnknownModel(
                f"no version {version[:100]!r} of the model {served.name} is served here; it is {served.version}"
            )
        return served


def _listing(states: Mapping[str, ModelState]) -> str:
    return ", ".join(sorted(states)[:10]) or "none"


def _shorten(name: str | None) -> str:
    text = repr(name)
    return text if len(text) <= 100 else f"{text[:100]}…"
