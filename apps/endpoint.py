"""Endpoint: the models of one application, on which every protocol stands."""

from collections.abc import Mapping
from dataclasses import dataclass

from apps.errors import UnknownModelError
from apps.router import UnknownReleaseError
from apps.service import Service


@dataclass(frozen=True)
class Endpoint:
    """One Service a model, by its name."""

    services: Mapping[str, Service]
    max_body_bytes: int = 8_000_000

    def service(self, model: str) -> Service:
        """Raises UnknownModelError."""
        found = self.services.get(model)
        if found is None:
            served = ", ".join(map(repr, self.services))
            raise UnknownModelError(f"model {model[:80]!r} is not served here; served are {served}")
        return found

    def find(self, model: str, version: str | None) -> tuple[Service, int | None]:
        """The Service, and the Release that `version` names (None: any); raises the two Unknown errors."""
        service = self.service(model)
        if not version:
            return service, None
        if version not in service.versions:
            served = ", ".join(service.versions)
            raise UnknownReleaseError(f"version {version[:40]!r} of {model!r} is not served; served are {served}")
        return service, int(version)
