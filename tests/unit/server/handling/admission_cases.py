"""Routes under admission."""

from __future__ import annotations

import dataclasses
from typing import Any

from mirl_server.handling.admission import KINDS, Admission
from mirl_server.settings.limits import AdmissionSettings
from tests.unit.server.harness import Harness


def admitted(harness: Harness, **how: Any) -> Admission:
    """Put a harness under admission with these settings; return the admission."""
    admission = Admission(AdmissionSettings(**how))
    harness.service = harness.app.state.mirl = dataclasses.replace(
        harness.app.state.mirl, admission=admission
    )
    return admission


def idle(admission: Admission) -> bool:
    """Return whether nothing runs and nothing waits."""
    return not any(admission.running(kind) or admission.queued(kind) for kind in KINDS)
