"""What runs on this machine, with a fix for each problem."""

from __future__ import annotations

from ztcir_sdk.doctor.diagnosis import diagnose
from ztcir_sdk.doctor.findings import Diagnosis, Finding

__all__ = ["Diagnosis", "Finding", "diagnose"]
