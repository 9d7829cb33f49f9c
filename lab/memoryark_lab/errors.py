"""The one exception of the lab for failures its user can mend."""

from __future__ import annotations


class LabError(Exception):
    """An expected failure: one sentence saying what failed and how to mend it.

    The command line prints the sentence without a traceback.
    """
