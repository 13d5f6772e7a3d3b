"""How a command ends a run that was measured: the report, and the sentences about it."""

from commands.options import Result
from commands.tables import device_note, files_table
from configs.run_dir import RunDir
from configs.schema import Experiment


def finish_report(run: RunDir, experiment: Experiment, failures: dict[str, str]) -> Result:
    """Write the reports and sum them up.

    Args:
        failures: files that could not be written, and why.
    """
    from compress.run.measure import write_run_report

    report = write_run_report(run, experiment, without=tuple(failures))
    models = "  ".join(f"{m['name']} {100 * m['accuracy']['top1']:.1f}" for m in report["models"])
    verdict = report["verdict"]
    robustness = (report["robustness"] or {}).get("sentence")
    lines = [
        f"top-1 on {report['data']['num_test']} test photos: {models}\n",
        f"{files_table(report['files'], verdict['chosen_file'])}{device_note(report['files'])}\n",
        f"* {verdict['chosen_file']}: {verdict['reason']}",
        *([robustness] if robustness else []),
        *failure_lines(failures),
        f"report: {run.path / 'report.html'}",
    ]
    value = {**report, "failures": failures} if failures else report
    return Result(value, "\n".join(lines), exit_code=1 if failures else 0)


def failure_lines(failures: dict[str, str]) -> list[str]:
    """One line for each file that could not be written."""
    return [f"{file} failed: {why}" for file, why in failures.items()]
