"""A headless Chromium that opens one address, for as long as the context is open."""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Self

from configs.errors import StepFailed, UserError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
FLAGS = (
    "--headless=new", "--no-first-run", "--no-default-browser-check", "--disable-extensions",
    "--disable-sync", "--disable-background-networking", "--disable-component-update",
    # Containers often have 64 MB of shared memory, which is too little.
    "--disable-dev-shm-usage",
)  # fmt: skip
WEBGPU = ("--enable-unsafe-webgpu", "--enable-features=Vulkan")
STOP_SECONDS = 3
"""A stopped command has 8 seconds in all: SECONDS_TO_STOP in configs/process/stopping.py."""
ON_A_PIPE = 'exec "$0" "$@" --remote-debugging-pipe 3<&0 4>/dev/null </dev/null'
"""Runs the browser with what was standard input as descriptor 3, where it reads commands."""


def find_chromium(program: str = "") -> str:
    """The path of Chromium or Chrome.

    Args:
        program: its name or path; by default, the usual names are tried.

    Raises:
        UserError: it is not here.
    """
    for name in [program] if program else [*NAMES, str(MAC)]:
        path = shutil.which(name)
        if path is not None:
            return path
    what = f"{program} is not" if program else "neither Chromium nor Chrome is"
    raise UserError(
        f"{what} here. Install one, or name it: {{name: browser, headless: true, program: PATH}}."
    )


class HeadlessChromium:
    """The browser, with a profile of its own that is removed at the end.

    Args:
        webgpu: let it use the graphics processor.
        trusted_key: the digest of the one public key that it trusts besides the usual ones.
    """

    def __init__(self, program: str, *, webgpu: bool, trusted_key: bytes | None) -> None:
        flags = [*FLAGS, *(WEBGPU if webgpu else ["--disable-gpu"])]
        if trusted_key is not None:
            pin = base64.b64encode(trusted_key).decode()
            flags.append(f"--ignore-certificate-errors-spki-list={pin}")
        if sys.platform == "linux" and os.geteuid() == 0:
            flags.append("--no-sandbox")  # its sandbox does not work for root
        self._command = [program, *flags]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._errors = tempfile.TemporaryFile()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._errors.close()
        self._profile.cleanup()

    def open(self, url: str) -> None:
        """Start the browser, again if it runs, and open an address.

        Other users of this machine read the arguments of a process, but not what a pipe carries.
        The address has a token. So the browser gets it as a command of the Chrome DevTools
        Protocol. It ends by itself when nobody holds the other end of the pipe.
        """
        self._stop()
        command = [*self._command, f"--user-data-dir={self._profile.name}", "about:blank"]
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", ON_A_PIPE, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
        )
        message = {"id": 1, "method": "Target.createTarget", "params": {"url": url}}
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, and `failure` says why
            self._process.stdin.write(json.dumps(message).encode() + b"\0")
            self._process.stdin.flush()

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def failure(self) -> StepFailed:
        """The error for a browser that does not open the page, with the last that it printed."""
        self._errors.seek(0)
        errors = self._errors.read().decode(errors="replace").strip()[-800:]
        state = "did not open the page" if self.is_running else "ended"
        return StepFailed(f"{self._command[0]} {state}. It printed:\n{errors or 'nothing'}")

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process = None
