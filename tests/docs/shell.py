"""A shell for the commands of one page."""

import os
import signal
import subprocess
import threading
import uuid
from contextlib import suppress
from pathlib import Path


class Shell:
    """A bash process that runs commands in a folder, with shared variables and background jobs."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )

    def __enter__(self) -> "Shell":
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        with self._process:
            pass

    def run(self, commands: str, *, seconds: float = 120) -> tuple[str, int]:
        """Run commands, and return what they printed and the exit status of the last one.

        Raises:
            AssertionError: If they ended the shell, or did not finish in time.
        """
        process, mark = self._process, f"end-{uuid.uuid4().hex}"
        assert process.stdin and process.stdout
        timer = threading.Timer(seconds, self._kill)
        timer.start()
        try:
            process.stdin.write(f"{{ {commands.rstrip()}\n}} </dev/null\necho {mark} $?\n")
            process.stdin.flush()
            text = ""
            while mark not in text:
                line = process.stdout.readline()
                assert line, f"The shell ended during:\n{commands}\nIt printed:\n{text}"
                text += line
        finally:
            timer.cancel()
        output, _, status = text.partition(mark)
        return output, int(status)

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
