"""How long the suites look: a few seconds a backend by default, much longer when asked.

Ask with `RAFTSTORE_TEST_PROFILE=thorough` in the environment, or with a loaded Hypothesis profile of that
name.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

_HEALTH = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def thorough() -> bool:
    """Whether there is time."""
    return "thorough" in (os.environ.get("RAFTSTORE_TEST_PROFILE"), settings.get_current_profile_name())


def times(fast: int) -> int:
    """How often to repeat what is done `fast` times by default."""
    return fast * 20 if thorough() else fast


def machine_settings(examples: int, steps: int) -> settings:
    """For a state machine that works on a disk: no deadline, since an fsync takes as long as it takes."""
    return settings(
        max_examples=times(examples),
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=_HEALTH,
        phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        print_blob=True,
    )
