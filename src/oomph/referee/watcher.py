"""Who follows a job as it runs: what it hears, and when."""

from __future__ import annotations

from typing import Any, Protocol


class Watcher(Protocol):
    """Who follows a job."""

    def mark(self, name: str) -> None:
        """Hear that an instant begins."""

    def ready(self, model: Any, optimizer: Any, reference: Any = None) -> None:
        """Hear that the step that counts comes next."""

    def passing(self, work: str) -> None:
        """Hear that a forward pass of an objective begins ("forward", "reference" ...) or is over ("objective")."""

    def backward_done(self, model: Any) -> None:
        """Hear that all gradients are there."""

    def updated(self, optimizer: Any) -> None:
        """Hear that the optimizer has made its step."""
