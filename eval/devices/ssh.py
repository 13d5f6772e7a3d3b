"""A Linux machine over the user's own `ssh`: copy files, run a probe, remove everything."""

import hashlib
import json
import logging
import re
import shlex
import subprocess
import tempfile
from pathlib import Path

from configs.artifacts import ending, file_sha256
from configs.errors import StepFailed, UserError
from configs.records import from_json
from eval.devices.machine import Machine
from eval.devices.session import (
    BYTES_PER_SECOND,
    DeviceLost,
    ProbeSession,
    new_marker,
    probe_arguments,
)
from eval.devices.wheels import DESCRIBE, Facts, Target, download, runtime_for
from eval.footprint import model_parts, model_sha256

log = logging.getLogger("potstill")

# Passwords and new host keys are for the user to settle first, because there are many connections.
# Silence for 15 seconds is a lost connection.
OPTIONS = [
    "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15",
    "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3",
]  # fmt: skip
LOST = 255
"""The exit code of ssh for a broken connection, as opposed to a command that failed."""

UNPACK = (
    "import sys, zipfile\nfor path in sys.argv[2:]: zipfile.ZipFile(path).extractall(sys.argv[1])\n"
)
CACHE = '"${XDG_CACHE_HOME:-$HOME/.cache}/potstill"'
COMMAND_SECONDS = 120
"""How long a command may take, besides the time to send its input."""


class Board:
    """A machine that ssh reaches, with a folder of its own there while the context is open.

    Raises:
        StepFailed: it has no Python.
        DeviceLost: it cannot be reached.
        UserError: it has no runtime and cannot get one.
    """

    formats: tuple[str, ...] = (".tflite", ".onnx")
    reports_means = False

    def __init__(
        self,
        host: str,
        *,
        python: str,
        cores: list[int] | None,
        openvino: bool,
        wheels: Path | None,
        config: Path | None,
        probe: Path,
    ) -> None:
        """Prepare to connect.

        Args:
            python: its name or path there; `wheels`, `config` and `probe` are paths here.
        """
        self.host, self._probe = host, probe
        self._python = device_path(python)
        self._cores, self._openvino, self._wheels = cores, openvino, wheels
        extra = ["-F", str(config)] if config else []
        self._ssh = ["ssh", *extra, *OPTIONS, "--", host]
        self._sent: dict[str, str] = {}
        self._sites: dict[str, str] = {}

    def __enter__(self) -> "Board":
        self.facts = self._facts()
        # A connection that broke leaves its folder there; it is removed after a day.
        self._cache, self._folder = self._lines(
            f'umask 077; cache={CACHE}; mkdir -p "$cache" && cd "$cache" || exit; '
            "find . -maxdepth 1 -name 'call-*' -mmin +1440 -exec rm -rf {} + 2>/dev/null; "
            'pwd; mktemp -d "$PWD/call-XXXXXX"'
        )[:2]
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._lines(f"rm -rf {shlex.quote(self._folder)}")
        except StepFailed as error:
            log.warning(
                "%s: the folder %s could not be removed (%s)", self.host, self._folder, error
            )

    def machine(self) -> Machine:
        packages = {
            module.replace("_", "-"): version
            for module, version in self.facts.modules.items()
            if version
        }
        return Machine(
            cpu=self.facts.cpu,
            num_cores=self.facts.num_cores,
            isa=None,
            os=self.facts.os,
            python=self.facts.python,
            packages=packages,
        )

    def is_back(self) -> bool:
        try:
            self._lines("true")
        except DeviceLost:
            return False
        return True

    def open(self, file: Path, *, num_threads: int) -> ProbeSession:
        """A probe that has loaded a file there."""
        site = self.site("openvino" if self._openvino else ending(file))
        marker = new_marker()
        arguments = probe_arguments(
            self._send_model(file),
            marker=marker,
            num_threads=num_threads,
            cores=self._cores,
            openvino=self._openvino,
        )
        program = f"{self._python} {shlex.join([self._send(self._probe), *arguments])}"
        # With exit, a shell stays behind the probe and reports a crash as 139. Without it, ssh
        # would report 255, as for a lost connection.
        command = self._command(f"PYTHONPATH={shlex.quote(site)} {program}; exit $?")
        return ProbeSession(command, file, marker=marker, device=self.host, lost_code=LOST)

    def site(self, kind: str) -> str:
        """The folder there that a runtime is in; "" if the device's own Python has it.

        Args:
            kind: a key of RUNTIMES.
        """
        runtime, modules = runtime_for(kind), set(self.facts.modules)
        if runtime is None or ("numpy" in modules and modules & set(runtime.modules)):
            return ""
        if kind not in self._sites:
            target = self.facts.target
            key = hashlib.sha256(repr((runtime.pin, target, _names(self._wheels))).encode())
            site = f"{self._cache}/site-{key.hexdigest()[:16]}"
            if "missing" in self._lines(f"test -d {shlex.quote(site)} || echo missing"):
                self._install(runtime.pin, target, site)
            self._sites[kind] = site
        return self._sites[kind]

    def _install(self, package: str, target: Target, site: str) -> None:
        log.info("%s has no %s: installing it in %s there", self.host, package, site)
        with tempfile.TemporaryDirectory() as folder:
            wheels = download(package, target, Path(folder), self._wheels)
            sent = [self._send(wheel) for wheel in wheels]
        unfinished = f"{self._folder}/{Path(site).name}"
        arguments = shlex.join(["-", unfinished, *sent])
        self._lines(f"{self._python} {arguments}", stdin=UNPACK.encode())
        # The folder gets its name when it is complete; another process may have been faster.
        name = shlex.quote(site)
        self._lines(f"test -d {name} || mv {shlex.quote(unfinished)} {name}")

    def _send_model(self, file: Path) -> str:
        """The path of a model's copy on the device, with the files of its weights beside it."""
        own, *others = model_parts(file)
        if not others:
            return self._send(file)
        folder = f"{self._folder}/{model_sha256(file)[:16]}"
        for part in others:
            self._send(part, f"{folder}/{part.relative_to(file.parent).as_posix()}")
        return self._send(own, f"{folder}/{file.name}")

    def _send(self, file: Path, path: str | None = None) -> str:
        """The path of a file's copy on the device; by default it is named by its content."""
        digest = file_sha256(file)
        path = path or f"{self._folder}/{digest[:16]}{ending(file)}"
        if self._sent.get(path) != digest:
            name, folder = shlex.quote(path), shlex.quote(path.rpartition("/")[0])
            copy = f"mkdir -p {folder} && cat > {name} && sha256sum < {name}"
            lines = self._lines(copy, stdin=file.read_bytes())
            if not lines or lines[0].split()[0] != digest:
                raise StepFailed(
                    f"{file} arrived damaged on {self.host}: expected the digest {digest}; got "
                    f"{' '.join(lines) or 'none'}. Check whether its disk is full."
                )
            self._sent[path] = digest
        return path

    def _command(self, script: str) -> list[str]:
        # sh, whatever shell the user has there.
        return [*self._ssh, f"exec sh -c {shlex.quote(script)}"]

    def _lines(self, script: str, stdin: bytes = b"") -> list[str]:
        """What a script prints there, without what a login shell prints before it."""
        marker, seconds = new_marker(), COMMAND_SECONDS + len(stdin) / BYTES_PER_SECOND
        # The marker has a line of its own, even if a banner did not end its last line.
        command = self._command(f"printf '\\n%s\\n' {marker}; {script}")
        try:
            result = subprocess.run(command, input=stdin, capture_output=True, timeout=seconds)
        except FileNotFoundError:
            raise UserError("there is no ssh program here. Install OpenSSH's client.") from None
        except subprocess.TimeoutExpired:
            raise DeviceLost(f"{self.host} did not answer within {seconds:.0f} s.") from None
        errors = result.stderr.decode(errors="replace").strip()
        if result.returncode == LOST:
            raise DeviceLost(f"{self.host} cannot be reached: {errors[-400:]}{_advice(errors)}")
        if result.returncode:
            raise StepFailed(
                f"{self.host} failed (exit code {result.returncode}): {errors[-400:]}\n"
                f"The command was: {script[:200]}"
            )
        lines = result.stdout.decode(errors="replace").splitlines()
        return lines[lines.index(marker) + 1 :] if marker in lines else []

    def _facts(self) -> Facts:
        marker = new_marker()
        try:
            lines = self._lines(f"{self._python} - {marker}", stdin=DESCRIBE.encode())
        except DeviceLost:
            raise
        except StepFailed as error:
            raise StepFailed(
                f"{error}\n{self.host} needs Python 3.9 or later; name it with "
                f"{{name: ssh, host: {self.host}, python: /path/to/python3}}."
            ) from None
        for line in lines:
            if line.startswith(marker):
                return from_json(Facts, json.loads(line.removeprefix(marker)))
        raise StepFailed(
            f"{self._python} on {self.host} did not describe its machine. Expected a line of JSON; "
            f"got {lines[-1:] or 'nothing'}. Check that it is a Python, with: ssh {self.host} "
            f"{self._python} --version"
        )


def device_path(path: str) -> str:
    """A path as a word for the shell of a device, which puts its home directory in place of `~`."""
    first, slash, rest = path.partition("/")
    if re.fullmatch(r"~[\w.-]*", first, re.ASCII):
        return f"{first}{slash}{shlex.quote(rest) if rest else ''}"
    return shlex.quote(path)


def _names(folder: Path | None) -> list[str]:
    return [] if folder is None else sorted(path.name for path in folder.glob("*.whl"))


def _advice(errors: str) -> str:
    if re.search(r"host key|authenticity", errors, re.IGNORECASE):
        return "\nIts host key is not known here: log in once with ssh and compare the fingerprint."
    if "Permission denied" in errors:
        return "\nIt asks for a password: give it a key first, with ssh-copy-id."
    return ""
