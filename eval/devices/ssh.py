"""A Linux machine over the user's own `ssh`: files go there, a probe runs, all is cleaned up."""

import hashlib
import json
import logging
import re
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from configs.artifacts import file_sha256
from configs.errors import StepFailed, UserError
from eval.devices.session import DeviceLost, ProbeSession, probe_words
from eval.devices.wheels import (
    RUNTIMES,
    Target,
    download,
    runtime_for,
)

log = logging.getLogger("potstill")

# No passwords (probes are many) and no new host keys: both are the user's to settle first. Silence
# for 15 seconds is a lost connection.
OPTIONS = [
    "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15",
    "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3",
]  # fmt: skip
LOST = 255
"""The exit code by which ssh says that it is about the connection, not the command."""

# Runs in the device's Python, so it uses what Python 3.8 has.
FACTS = f"""
import importlib.util, json, os, platform
from importlib import metadata
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
cpu = ""
try:
    for line in open("/proc/cpuinfo"):
        if line.split(":")[0].strip() in ("model name", "Model"):
            cpu = line.partition(":")[2].strip()
except OSError:
    pass
modules = {json.dumps(["numpy", *(m for _, modules in RUNTIMES.values() for m in modules)])}
print(json.dumps({{
    "cpu": cpu or platform.machine(),
    "num_cores": os.cpu_count(),
    "os": " ".join([platform.system(), platform.release(), platform.machine()]),
    "python": platform.python_version(),
    "arch": platform.machine(),
    "libc": list(platform.libc_ver()),
    "modules": {{m: version(m.replace("_", "-")) for m in modules if importlib.util.find_spec(m)}},
}}))
"""
UNPACK = (
    "import sys, zipfile\nfor path in sys.argv[2:]: zipfile.ZipFile(path).extractall(sys.argv[1])\n"
)
CACHE = '"${XDG_CACHE_HOME:-$HOME/.cache}/potstill"'
SECONDS, SLOWEST = 120, 50_000
"""How long a command may take, and bytes a second of the slowest network that will do."""


class Board:
    """An ssh host with a folder of its own for as long as the context is open.

    Raises:
        StepFailed: it cannot be reached, or has no Python.
        DeviceLost: it went away later on.
        UserError: no runtime is there and none can be put there.
    """

    formats: tuple[str, ...] = (".tflite", ".onnx")
    tells_means = False

    def __init__(
        self,
        host: str,
        *,
        python: str,
        cores: list[int] | None,
        openvino: bool,
        wheels: str | None,
        config: str | None,
        probe: Path,
    ) -> None:
        self.host, self._python, self._probe = host, python, probe
        self._cores, self._openvino = cores, openvino
        self._wheels = None if wheels is None else Path(wheels)
        extra = ["-F", config] if config else []
        self._ssh = ["ssh", *extra, *OPTIONS, "--", host]
        self._sent: dict[str, str] = {}
        self._sites: dict[str, str] = {}

    def __enter__(self) -> "Board":
        self.facts = self._facts()
        # What a connection that broke left there goes after a day.
        self._cache, self._folder = self._lines(
            f'umask 077; cache={CACHE}; mkdir -p "$cache" && cd "$cache" || exit; '
            "find . -maxdepth 1 -name 'call-*' -mmin +1440 -exec rm -rf {} + 2>/dev/null; "
            'pwd; mktemp -d "$PWD/call-XXXXXX"'
        )[-2:]
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._lines(f"rm -rf {shlex.quote(self._folder)}")
        except StepFailed as error:
            log.warning("%s: its folder %s stays there (%s)", self.host, self._folder, error)

    def machine(self) -> dict[str, Any]:
        """As `eval.devices.machine.machine`, of the board."""
        found = self.facts["modules"].items()
        packages = {module.replace("_", "-"): version for module, version in found if version}
        fields = ("cpu", "num_cores", "os", "python")
        return {**{key: self.facts[key] for key in fields}, "packages": packages}

    def is_back(self) -> bool:
        try:
            self._lines("true")
        except DeviceLost:
            return False
        return True

    def open(self, file: Path, *, num_threads: int) -> ProbeSession:
        """A probe that has loaded a file there."""
        site = self.site("openvino" if self._openvino else file.suffix.lower())
        words = probe_words(
            self._send(file), num_threads=num_threads, cores=self._cores, openvino=self._openvino
        )
        program = shlex.join([self._python, self._send(self._probe), *words])
        script = f"PYTHONPATH={shlex.quote(site)} {program}"
        # A shell that stays says 139 of a crash, where ssh would say 255, as of a lost connection.
        command = self._command(f"{script}; exit $?")
        return ProbeSession(command, file, device=self.host, lost_code=LOST)

    def site(self, kind: str) -> str:
        """Where a runtime is, a key of RUNTIMES: "" for the board's own, or a folder there."""
        runtime, has = runtime_for(kind), set(self.facts["modules"])
        if runtime is None or ("numpy" in has and has & set(runtime.modules)):
            return ""
        if kind not in self._sites:
            target = Target.of(self.facts)
            key = hashlib.sha256(repr((runtime.pin, target, _names(self._wheels))).encode())
            site = f"{self._cache}/site-{key.hexdigest()[:16]}"
            if self._lines(f"test -d {shlex.quote(site)} || echo missing")[-1:] == ["missing"]:
                self._install(runtime.pin, target, site)
            self._sites[kind] = site
        return self._sites[kind]

    def _install(self, package: str, target: Target, site: str) -> None:
        log.info("%s has no %s: putting it into %s there", self.host, package, site)
        with tempfile.TemporaryDirectory() as folder:
            found = download(package, target, Path(folder), self._wheels)
            sent = [self._send(wheel) for wheel in found]
        unfinished = f"{self._folder}/{Path(site).name}"
        words = [self._python, "-", unfinished, *sent]
        # A site is whole once it has its name; another call may have been faster.
        self._lines(shlex.join(words), stdin=UNPACK.encode())
        where = shlex.quote(site)
        self._lines(f"test -d {where} || mv {shlex.quote(unfinished)} {where}")

    def _send(self, file: Path) -> str:
        """The path of a file's copy in the board's folder, by its content."""
        digest = file_sha256(file)
        path = f"{self._folder}/{digest[:16]}{file.suffix}"
        if self._sent.get(path) != digest:
            quoted = shlex.quote(path)
            said = self._lines(f"cat > {quoted} && sha256sum {quoted}", stdin=file.read_bytes())
            if not said or said[-1].split()[0] != digest:
                raise StepFailed(
                    f"{file} arrived damaged on {self.host} ({' '.join(said) or 'no digest'}). "
                    "Is its disk full?"
                )
            self._sent[path] = digest
        return path

    def _command(self, script: str) -> list[str]:
        # sh, whatever shell the user has there.
        return [*self._ssh, f"exec sh -c {shlex.quote(script)}"]

    def _lines(self, script: str, stdin: bytes = b"") -> list[str]:
        """What a script says there, without what a login shell may say before."""
        seconds = SECONDS + len(stdin) / SLOWEST
        try:
            result = subprocess.run(
                self._command(script), input=stdin, capture_output=True, timeout=seconds
            )
        except FileNotFoundError:
            raise UserError("there is no ssh program here. Install OpenSSH's client.") from None
        except subprocess.TimeoutExpired:
            raise DeviceLost(f"{self.host} did not answer within {seconds:.0f} s.") from None
        said = result.stderr.decode(errors="replace").strip()
        if result.returncode == LOST:
            raise DeviceLost(f"{self.host} cannot be reached: {said[-400:]}{_advice(said)}")
        if result.returncode:
            raise StepFailed(
                f"{self.host} failed (exit code {result.returncode}): {said[-400:]}\n"
                f"The command was: {script[:200]}"
            )
        return result.stdout.decode(errors="replace").splitlines()

    def _facts(self) -> dict[str, Any]:
        try:
            said = self._lines(f"{shlex.quote(self._python)} -", stdin=FACTS.encode())
            facts: dict[str, Any] = json.loads(said[-1])
        except (ValueError, IndexError):
            raise StepFailed(f"{self.host}: {self._python} did not say what it is.") from None
        except DeviceLost:
            raise
        except StepFailed as error:
            raise StepFailed(
                f"{error}\n{self.host} needs Python 3.9 or later; name it with "
                f"{{name: ssh, host: {self.host}, python: /path/to/python3}}."
            ) from None
        return facts


def _names(folder: Path | None) -> list[str]:
    return [] if folder is None else sorted(path.name for path in folder.glob("*.whl"))


def _advice(said: str) -> str:
    if re.search(r"host key|authenticity", said, re.IGNORECASE):
        return "\nIts host key is not known here: log in once with ssh and compare the fingerprint."
    if "Permission denied" in said:
        return "\nIt asks for a password: give it a key first, with ssh-copy-id."
    return ""
