"""A real OpenSSH server on this machine, whose connections can be cut."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SSHD = shutil.which("sshd") or shutil.which("/usr/sbin/sshd")


@dataclass(frozen=True)
class Server:
    """A running sshd; `config` calls it `board` and has its host key."""

    config: Path
    cache: Path
    process: subprocess.Popen[bytes]

    def cut(self) -> None:
        """End every connection, as pulling the cable does; the server keeps running."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for child in children.read_text().split():
            os.kill(int(child), signal.SIGKILL)

    def call_folders(self) -> list[Path]:
        return list(self.cache.glob("potstill/call-*"))


def key(path: Path) -> Path:
    """A key pair, made once."""
    if not path.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


@contextmanager
def ssh_server(folder: Path) -> Iterator[Server]:
    """A server with its files in `folder`. A later one there has the same keys."""
    assert SSHD is not None
    host_key, user_key = key(folder / "host"), key(folder / "user")
    chatty_key = key(folder / "chatty")
    # It prints the command, JSON lines and half a line before the command, and a line after it.
    banner = (
        r"""command="echo \"$SSH_ORIGINAL_COMMAND\"; """
        r"""printf '{\"motd\": 1}\n{\n{\"ready\": true}'; """
        r"""sh -c \"$SSH_ORIGINAL_COMMAND\"; code=$?; echo Bye; exit $code" """
    )
    (folder / "authorized_keys").write_text(
        (folder / "user.pub").read_text() + banner + (folder / "chatty.pub").read_text()
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cache = folder / "cache"
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host_key}\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nPermitRootLogin yes\n"
        f"SetEnv XDG_CACHE_HOME={cache}\n"
    )
    public = (folder / "host.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}")
    config = folder / "ssh_config"
    config.write_text(
        f"Host *\n HostName 127.0.0.1\n Port {port}\n"
        f"Host board stranger\n IdentityFile {user_key}\n"
        f"Host chatty\n IdentityFile {chatty_key}\n"
        "Host stranger\n UserKnownHostsFile /dev/null\n"
        f"Host locked\n IdentityFile {host_key}\n"
        f"Host board locked chatty\n UserKnownHostsFile {folder}/known_hosts\n IdentitiesOnly yes\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where root's sshd locks itself in
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=-3)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                break
        time.sleep(0.05)
    try:
        yield Server(config, cache, process)
    finally:
        process.terminate()
        process.wait()
