"""`model_card.md`: what a run's files are, for those who get them without the run.

In the form that Hugging Face reads: YAML between two lines of dashes, then Markdown.
"""

import json

from configs.contract import TeacherFile, settled
from configs.records import from_json
from configs.schema import Experiment
from configs.schema.choice import Choice
from configs.schema.training import TeacherConfig
from eval.needs import Runtime, operators_text
from eval.report.html import ReportJson, markdown_environment
from eval.report.wording import plain


def render_card(report: ReportJson, experiment: Experiment) -> str:
    """The card of the run that `report` (report.json) and its config describe.

    Its headline numbers are those of the chosen file, or of the shipped model where none was
    chosen. A license is the user's to give.
    """
    shipped = (report.get("shipped") or {}).get("model") or "student"
    student = next(row for row in report["models"] if row["name"] == shipped)
    chosen_name = report["verdict"]["chosen_file"]
    chosen = next((row for row in report["files"] if row["name"] == chosen_name), None)
    environment = markdown_environment()
    environment.filters |= {
        "yaml": yaml_text,
        "choice": choice_text,
        "needs": needs_text,
        "contract": contract_text,
        "operators": operators_text,
    }
    return environment.get_template("model_card.md").render(
        report=report,
        experiment=experiment,
        student=student,
        chosen=chosen,
        scored=chosen or student,
        formats=sorted({row["format"] for row in report["files"]}),
        is_trained_here=isinstance(experiment.teacher, TeacherConfig),
        views={name: value for name, value in experiment.views.model_dump().items() if value},
    )


def yaml_text(text: object) -> str:
    """Text as YAML takes it, whatever is in it: JSON's strings are YAML's too."""
    return json.dumps(str(text), ensure_ascii=False)


def choice_text(choice: Choice) -> str:
    """A choice of the config in words: kd (temperature 4.0)."""
    options = ", ".join(f"{k} {v}" for k, v in choice.options.items() if v is not None)
    return plain(f"{choice.name} ({options})" if options else choice.name)


def contract_text(file: TeacherFile) -> str:
    """What the config says of the input of a teacher that is given as a file; may be empty."""
    contract = settled(("the config", file.statement))
    return f" ({plain(contract.line)})" if contract.stated_by else ""


def needs_text(row: ReportJson) -> str:
    """What a file of report.json needs to run; a dash in reports that do not say it."""
    return from_json(Runtime, row["runtime"]).text if row.get("runtime") else "–"
