"""Estimate what a training costs and learns on this machine, before it starts."""

from fromnoise.doctor.doctor import diagnose
from fromnoise.doctor.findings import Finding

__all__ = ["Finding", "diagnose"]
