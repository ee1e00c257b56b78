"""The results of a diagnosis."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ztcir_sdk.environment import describe_machine, now, versions
from ztcir_sdk.runtime.onnx.trial import ProviderRun

Status = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str
    status: Status
    """"problem": a search cannot run; "note": it can."""
    detail: str
    fix: str = ""
    """What to do, if something needs to be done."""

    def to_dict(self) -> dict[str, str]:
        """Return JSON values."""
        values = {"name": self.name, "status": self.status, "detail": self.detail}
        # The key "cure" is part of the format of `ztcir doctor --json`.
        return {**values, "cure": self.fix} if self.fix else values


@dataclass
class Diagnosis:
    """All findings, in the order of the checks."""

    findings: list[Finding] = field(default_factory=list)
    providers: list[ProviderRun] = field(default_factory=list)
    model_card: dict[str, Any] | None = None

    @property
    def can_search(self) -> bool:
        """Whether a search can run: no finding is a problem."""
        return all(finding.status != "problem" for finding in self.findings)

    def add(self, name: str, status: Status, detail: str, fix: str = "") -> None:
        """Add a finding."""
        self.findings.append(Finding(name, status, detail, fix))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, with the date, the machine and the versions."""
        return {
            "can_search": self.can_search,
            "date": now(),
            "machine": describe_machine(),
            "versions": versions(),
            "providers": [run.to_dict() for run in self.providers],
            "model_card": self.model_card,
            "findings": [finding.to_dict() for finding in self.findings],
        }
