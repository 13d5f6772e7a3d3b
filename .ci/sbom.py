"""Write a bill of materials (CycloneDX 1.6, JSON) of requirements.lock and of the web assets.

    python .ci/sbom.py sbom.cdx.json

Names, versions and hashes come from the lock. Licences, and which package needs which, come from
what is installed here. A package for another system has neither. The same lock and the same
environment give the same bytes.
"""

import json
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
MAX_LICENCE = 60
"""Some packages give the whole text where others give a name."""
WEB_LICENCES = {
    "@litertjs/core": "Apache-2.0",
    "@litertjs/wasm-utils": "Apache-2.0",
    "onnxruntime-web": "MIT",
}


@dataclass(frozen=True)
class Locked:
    """A package of the lock.

    Attributes:
        marker: for which systems and Pythons; "" for all.
        sha256: of its files.
    """

    name: str
    version: str
    marker: str
    sha256: tuple[str, ...]

    @property
    def purl(self) -> str:
        return f"pkg:pypi/{self.name}@{self.version}"


def locked(text: str) -> Iterator[Locked]:
    """The packages of a lock."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        words, *hashes = line.split(" --hash=sha256:")
        requirement = Requirement(words.strip())
        (pin,) = requirement.specifier
        assert pin.operator == "==", line
        marker = str(requirement.marker or "")
        sha256 = tuple(value.strip() for value in hashes)
        yield Locked(canonicalize_name(requirement.name), pin.version, marker, sha256)


def licence_of(name: str, version: str) -> list[dict[str, Any]]:
    """The licence that the metadata of an installed package names; empty if there is none."""
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return []
    if about["Version"] != version:
        return []
    if expression := about.get("License-Expression"):
        return [{"expression": expression}]
    classifiers = about.get_all("Classifier") or []
    names = [c.rsplit(" :: ", 1)[-1] for c in classifiers if c.startswith("License :: OSI")]
    text = (about.get("License") or "").strip()
    if not names and text != "UNKNOWN" and text and len(text) <= MAX_LICENCE:
        names = [text.splitlines()[0]]
    if not names:
        names = [first for first in _licence_files(name) if first][:1]
    return [{"license": {"name": value}} for value in names]


def _licence_files(name: str) -> Iterator[str]:
    """The line of each licence file of an installed package that names the licence."""
    for file in metadata.files(name) or []:
        if re.match(r"(licen[cs]e|copying)", file.name, re.IGNORECASE):
            path = Path(str(file.locate()))
            lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
            named = [line.strip() for line in lines if re.search("licen[cs]e", line, re.IGNORECASE)]
            yield next(iter(named), "")[:MAX_LICENCE]


def needs_of(name: str) -> set[str]:
    """What an installed package needs here, extras left out; empty for one that is not here."""
    try:
        lines = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return set()
    needed = set()
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:  # old packages write what no standard allows
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            needed.add(canonicalize_name(requirement.name))
    return needed


def reached_from(names: Iterable[str]) -> set[str]:
    """These packages and all that they need."""
    reached: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += needs_of(name)
    return reached


def bill() -> dict[str, Any]:
    """The bill of materials."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = [Requirement(line).name for line in project["dependencies"]]
    packages = list(locked(LOCK.read_text()))
    refs = {package.name: package.purl for package in packages}
    required = reached_from(direct)
    this = f"pkg:pypi/{project['name']}@{project['version']}"
    needs = {p.purl: sorted(refs[n] for n in needs_of(p.name) if n in refs) for p in packages}
    needs[this] = sorted(refs[canonicalize_name(name)] for name in direct)
    components = [_component(p, p.name in required) for p in packages] + list(_web_components())
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": this,
                "name": project["name"],
                "version": project["version"],
                "purl": this,
                "licenses": [{"license": {"id": project["license"]}}],
            }
        },
        "components": components,
        "dependencies": [{"ref": ref, "dependsOn": on} for ref, on in sorted(needs.items())],
    }


def _component(package: Locked, is_required: bool) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.version,
        "purl": package.purl,
        "scope": "required" if is_required else "optional",
        "hashes": [{"alg": "SHA-256", "content": value} for value in package.sha256],
    }
    if licences := licence_of(package.name, package.version):
        component["licenses"] = licences
    if package.marker:
        component["properties"] = [{"name": "potstill:marker", "value": package.marker}]
    return component


def _web_components() -> Iterator[dict[str, Any]]:
    from eval.serve.runtimes import PACKAGES

    for package in PACKAGES:
        purl = f"pkg:npm/{package.name.replace('@', '%40')}@{package.version}"
        yield {
            "type": "library",
            "bom-ref": purl,
            "name": package.name,
            "version": package.version,
            "purl": purl,
            "scope": "optional",
            "hashes": [{"alg": "SHA-256", "content": package.sha256}],
            "licenses": [{"license": {"id": WEB_LICENCES[package.name]}}],
        }


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    sys.path.insert(0, str(ROOT))
    content = bill()
    path = Path(sys.argv[1])
    path.write_text(json.dumps(content, indent=1) + "\n")
    lacking = [c["name"] for c in content["components"] if "licenses" not in c]
    print(f"{path}: {len(content['components'])} components")
    if lacking:
        print("no licence is known of (not installed here, or it names none):", ", ".join(lacking))


if __name__ == "__main__":
    main()
