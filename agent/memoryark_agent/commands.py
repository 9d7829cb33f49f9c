"""Other programs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

from memoryark_agent.errors import AgentError

# The end of a program's output says why it failed; more than this hides it.
SHOWN_LINES = 30


def run(
    command: Sequence[str], *, data: bytes = b"", timeout: float = 60.0, env: Mapping[str, str] | None = None
) -> str:
    """Return a command's output; raises AgentError with what it said, also after ``timeout`` seconds."""
    try:
        done = subprocess.run(
            command,
            input=data,
            capture_output=True,
            timeout=timeout,
            check=False,
            env={**os.environ, **(env or {})},
        )
    except subprocess.TimeoutExpired as error:
        raise AgentError(f"{command[0]} did not end within {timeout:g} s") from error
    except OSError as error:
        raise AgentError(f"{command[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace").strip().splitlines()
        words = "\n".join(said[-SHOWN_LINES:]) or "it said nothing"
        raise AgentError(f"{command[0]} failed with exit code {done.returncode}: {words}")
    return done.stdout.decode(errors="replace")
