"""The daemon's settings as each of its parts takes them.

The parts below know nothing of the table of settings; ``app.py`` hands them what
stands here, at the start and after a reload.
"""

from __future__ import annotations

import os
import time

from tallymarkd.config import Settings
from tallymarkd.core.checkpoint import CheckpointSettings
from tallymarkd.core.engine import EngineSettings
from tallymarkd.server.desk import ServerSettings
from tallymarkd.storage.journal import JournalSettings


def journal_settings(settings: Settings) -> JournalSettings:
    """Of the journal. A running one keeps them."""
    return JournalSettings(
        segment_bytes_max=settings.segment_bytes_max,
        segment_chunk_bytes=settings.segment_chunk_bytes,
        random_bytes=os.urandom,
        clock_ns=time.time_ns,
    )


def checkpoint_settings(settings: Settings) -> CheckpointSettings:
    """Of the checkpointer."""
    return CheckpointSettings(
        settings.save_interval_seconds, settings.history_bytes_max, settings.history_days_max
    )


def engine_settings(settings: Settings) -> EngineSettings:
    """Of the engine."""
    return EngineSettings(
        settings.projects_max,
        settings.producers_max,
        settings.mark_days_max,
        settings.unacknowledged_bytes_max,
        settings.unacknowledged_total_bytes_max,
    )


def server_settings(settings: Settings) -> ServerSettings:
    """Of conversations."""
    return ServerSettings(
        settings.connections_max,
        settings.connections_per_user_max,
        settings.unacknowledged_bytes_max,
        settings.first_byte_timeout_seconds,
        settings.frame_timeout_seconds,
        serves_all=settings.serve == "all",
    )
