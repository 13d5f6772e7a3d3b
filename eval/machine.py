"""The machine that results were measured on."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = [
    "potstill",
    "tensorflow",
    "keras",
    "tf-keras",
    "tensorflow-model-optimization",
    "onnx",
    "onnxruntime",
    "tf2onnx",
    "ai-edge-litert",
    "numpy",
    "pillow",
]
# What int8 arithmetic can make use of, on x86 and ARM.
ISA = {
    "avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8",
    "asimd", "asimddp", "i8mm", "bf16", "sve",
}  # fmt: skip


def machine() -> dict[str, Any]:
    """`machine` of report.json."""
    cpu, isa = _cpu()
    return {
        "cpu": cpu,
        "num_cores": os.cpu_count(),
        "isa": isa,
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES if package_version(name)},
    }


def package_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> tuple[str, list[str]]:
    """The processor's name and the instruction sets that matter here; Linux knows both."""
    fields: dict[str, str] = {}
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, sorted(ISA & set(flags))
