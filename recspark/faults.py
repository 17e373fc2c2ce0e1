"""Named points where a test may kill the process, to prove that the next run mends what is left.

Set ``RECSPARK_FAULT=train.step:12`` and the process that reaches that point ends by SIGKILL, as a lost machine would.
Of several ranks that is rank 0; ``train.step:12:rank1`` names another.
Unset, which it always is in production, a point costs one dictionary lookup.
"""

import os
import signal

FAULT_VARIABLE = "RECSPARK_FAULT"


def fault_point(name: str) -> None:
    """Kills this process if a test has armed ``name``."""
    if os.environ.get(FAULT_VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
