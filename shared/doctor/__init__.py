"""What an installation has, what it lacks, and the command that mends it: `featherwire doctor`."""

from __future__ import annotations

from shared.doctor.examination import Places, Report, examine
from shared.doctor.finding import Finding, Role, State
from shared.doctor.install import Installed, roles_of

__all__ = [
    "Finding",
    "Installed",
    "Places",
    "Report",
    "Role",
    "State",
    "examine",
    "roles_of",
]
