"""What the commands say of a run that was measured; loads what the run was made with."""

from typing import Any

from commands.bare import describe, latency_row
from commands.tables import files_table
from compress.pipeline import file_names, model_names, run_photos
from configs.records import from_json
from configs.run_dir import RunDir
from configs.schema import Experiment
from eval.report.report import build_report, write_report
from eval.timing.latency import Latency


def finish_report(directory: RunDir, experiment: Experiment) -> tuple[dict[str, Any], str]:
    """Write the reports; returns report.json and the text that ends a run."""
    result = write_report(
        directory,
        experiment,
        photos=run_photos(directory),
        models=model_names(experiment),
        files=file_names(experiment),
    )
    models = "  ".join(f"{m['name']} {100 * m['accuracy']['top1']:.1f}" for m in result["models"])
    verdict = result["verdict"]
    robustness = (result["robustness"] or {}).get("sentence")
    lines = [
        f"top-1 on {result['data']['num_test']} test photos: {models}\n",
        f"{files_table(result['files'], verdict['chosen_file'])}\n",
        f"* {verdict['chosen_file']}: {verdict['reason']}",
        *([robustness] if robustness else []),
        f"report: {directory.path / 'report.html'}",
    ]
    return result, "\n".join(lines)


def report_rows(directory: RunDir, experiment: Experiment) -> list[dict[str, Any]]:
    """The rows of a run's files, scores and latencies as far as they were measured."""
    report, _ = build_report(
        directory,
        experiment,
        photos=run_photos(directory),
        models=model_names(experiment),
        files=file_names(experiment),
    )
    return list(report["files"])


def latency_rows(directory: RunDir, manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a run's files with the timing alone, a manifest for each device."""
    names = dict.fromkeys(name for manifest in manifests for name in manifest["latency"])
    return [
        latency_row(
            directory.file(name),
            describe(directory.file(name)),
            [
                from_json(Latency, manifest["latency"][name])
                for manifest in manifests
                if name in manifest["latency"]
            ],
        )
        for name in names
    ]
