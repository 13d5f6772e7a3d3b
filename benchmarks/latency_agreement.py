"""Our p50 of a .tflite file compared with `litert-benchmark` from the ai-edge-litert package.

    python benchmarks/latency_agreement.py runs/photos/files/student-int8.tflite --json

The two take turns on the same file with the same numbers of threads and runs. Both use XNNPACK. We
use LiteRT's interpreter. `litert-benchmark` uses its compiled model, on random pixels and in one
process.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from eval.timing.measure import measure


def litert_benchmark_ms(file: Path, *, num_threads: int, num_runs: int) -> float:
    """The median of its runs, which it rounds to a hundredth of a millisecond."""
    with tempfile.TemporaryDirectory() as temporary:
        result = Path(temporary) / "result.json"
        program = [sys.executable, "-m", "ai_edge_litert.tools.benchmark_litert_model"]
        numbers = {"num_threads": num_threads, "num_runs": num_runs, "warmup_runs": 20}
        words = [f"--{name}={value}" for name, value in numbers.items()]
        subprocess.run(
            [*program, f"--model={file}", *words, f"--result_json={result}"],
            check=True,
            capture_output=True,
        )
        return float(json.loads(result.read_text())["latency"]["median_ms"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--alternations", type=int, default=5)
    parser.add_argument("--num-runs", type=int, default=200)
    parser.add_argument("--num-threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    ours, theirs = [], []
    for _ in range(options.alternations):
        counts = {"num_threads": options.num_threads, "num_runs": options.num_runs}
        ours.append(measure([options.file], **counts)[options.file].p50_ms)
        theirs.append(litert_benchmark_ms(options.file, **counts))
        if not options.json:
            print(
                f"ours {ours[-1]:.2f} ms  litert-benchmark {theirs[-1]:.2f} ms  "
                f"ratio {ours[-1] / theirs[-1]:.3f}",
                flush=True,
            )
    result = {
        "ratio": round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 4),
        "ours_ms": [round(value, 3) for value in ours],
        "litert_benchmark_ms": theirs,
        "file": options.file.name,
        **{k: v for k, v in vars(options).items() if k not in ("json", "file")},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
