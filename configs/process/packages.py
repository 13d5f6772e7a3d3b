"""The versions of the packages that results depend on to the last bit."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from configs.errors import UserError

PACKAGES = ("potstill", "tensorflow", "keras", "numpy", "pillow")


def versions(*others: str) -> dict[str, str]:
    """The versions of `PACKAGES`, and of others, that are installed here."""
    installed = {}
    for name in (*PACKAGES, *others):
        try:
            installed[name] = version(name)
        except PackageNotFoundError:  # a checkout that is not installed
            continue
    return installed


def check_versions(here: Mapping[str, str], expected: Mapping[str, str], *, who: str) -> None:
    """Check that this process has the packages that another one expects.

    Args:
        who: this process, for the error.

    Raises:
        UserError: it has other ones.
    """
    names = sorted(n for n in {*here, *expected} if here.get(n) != expected.get(n))
    if names:
        raise UserError(
            f"{who} has other packages: "
            + ", ".join(f"{n} {here.get(n, 'missing')}, not {expected.get(n)}" for n in names)
            + ". Results would differ. Install the same versions on all machines."
        )
