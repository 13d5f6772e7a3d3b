"""Every command in the README and in docs/ exists, and those that can be run here run."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.exceptions import Exit
from typer.main import get_command

from configs.loading.experiment import load_experiment
from configs.loading.targets import CONFIGS
from configs.loading.yaml_text import parse_yaml
from configs.registry import Registry
from doc_pages import (
    PAGES,
    Command,
    blocks,
    commands_in,
    fences,
    files,
    inline_commands,
    links,
    name_of,
    tokens_of,
)
from support import ROOT, Outcome

README, START = ROOT / "README.md", ROOT / "docs" / "index.md"
BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = [c for block in BLOCKS for c in block.commands]
MENTIONED = [c for page in PAGES for c in inline_commands(page)]
IN_ORDER = [(START.parent / link).resolve() for link in links(START) if link.endswith(".md")]
RUNNING = [page for page in IN_ORDER if any(block.mark == "runs" for block in blocks(page))]
TINY = [
    f"{model}.{setting}"
    for model in ("teacher", "student")
    for setting in (
        # The first replaces the backbone with its options, the second says which file it is.
        "backbone=keras_file", "backbone={name: keras_file, weights: tiny.keras}",
        "image_size=32", "epochs=1",
    )
] + [
    "soft_labels.num_views=1", "evaluate.num_runs=10", "evaluate.num_warmup=0",
    "student.ship=student",  # a teacher of one epoch may harm it, and pages name its files
]  # fmt: skip
"""One epoch of two networks that compile in a second."""


class AnyName(Registry):
    """Accepts every name: a config is checked without TensorFlow, which the real registries load.

    A slow test has the real ones.
    """

    def __getitem__(self, name: str) -> Any:
        return None

    def check(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        return dict(options)


KINDS = (
    "source", "backbone", "strategy", "schedule", "optimizer", "loss", "feature_loss", "method",
    "recipe", "device", "corruption", "tracker",
)  # fmt: skip
ANY_NAMES = {kind: AnyName(kind, label=lambda name, options: f"{name} {options}") for kind in KINDS}


def parsed(words: tuple[str, ...]) -> dict[str, Any]:
    """The arguments of a command, by the parser that the program uses."""
    from commands import compress, distill, evaluate

    apps = {"distill": distill.app, "compress": compress.app, "evaluate": evaluate.app}
    group: Any = get_command(apps[words[0]])
    assert words[1] in group.commands, f"{words[0]} has no command {words[1]}"
    return group.commands[words[1]].make_context(words[1], list(words[2:])).params


def check_parsed(line: Command, registries: Mapping[str, Registry] = ANY_NAMES) -> None:
    """Fail on a word that the command does not take, or a --set that its config does not."""
    params = parsed(line.words)
    if params.get("set_"):
        bundled = CONFIGS / f"{Path(str(params['target'])).stem}.yaml"
        config = bundled if bundled.exists() else CONFIGS / "photos.yaml"
        load_experiment(config, registries, params["set_"], photos=Path("photos"))


@pytest.mark.parametrize("line", COMMANDS, ids=lambda line: line.id)
def test_a_command_exists_with_its_options_and_settings(line: Command) -> None:
    check_parsed(line)


@pytest.mark.parametrize("line", MENTIONED, ids=lambda line: line.id)
def test_a_command_in_a_sentence_exists(line: Command) -> None:
    try:
        check_parsed(line)
    except Exit:  # --help
        assert "--help" in line.words
    except Exception as error:  # Typer keeps the class private
        # A sentence may leave out the arguments.
        if not str(error).startswith("Missing parameter"):
            raise


def test_every_block_says_how_it_is_tested() -> None:
    unmarked = [f"{name_of(b.page)}:{b.line}" for b in BLOCKS if not b.mark and b.page != README]
    assert not unmarked, "write <!-- runs --> or <!-- parsed: why --> above it (tests/doc_pages.py)"


def test_the_commands_of_the_readme_run_on_some_page() -> None:
    running = {c.words for b in BLOCKS if b.mark == "runs" for c in b.commands}
    lacking = [c.id for b in blocks(README) for c in b.commands if c.words not in running]
    assert not lacking


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_script_that_a_page_names_exists(page: Path) -> None:
    texts = [token.content for token in tokens_of(page) if token.type in ("code_block", "fence")]
    scripts = [
        line.words[1]
        for text in texts
        for line in commands_in(page, text if "python " in text else "")
        if line.words[0] == "python" and line.words[1].startswith("benchmarks/")
    ]
    assert not [script for script in scripts if not (ROOT / script).exists()]


@pytest.mark.parametrize("page", [p for p in PAGES if fences(p, "yaml")], ids=name_of)
def test_a_config_on_a_page_fits_the_schema(page: Path, tmp_path: Path) -> None:
    usual = parse_yaml((CONFIGS / "photos.yaml").read_text())
    for text in fences(page, "yaml"):
        if text.startswith("apiVersion:"):
            continue  # for Kubernetes
        shown = parse_yaml(text)
        # A page may show a part of a config. A teacher that is given replaces one that is trained.
        sections = {
            key: {**usual.get(key, {}), **value} if is_section(value) else value
            for key, value in shown.items()
        }
        path = tmp_path / "config.yaml"
        path.write_text(json.dumps({**usual, **sections}))
        experiment = load_experiment(path, ANY_NAMES, photos=Path("photos"))
        assert shown.keys() <= experiment.model_dump().keys()


def is_section(value: object) -> bool:
    return isinstance(value, dict) and "files" not in value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all pages, in which they find what pages before them made."""
    from doc_inputs import save_inputs

    path = tmp_path_factory.mktemp("docs")
    save_inputs(path)
    return path


def tiny_settings(target: str) -> list[str]:
    """TINY, as far as it fits the config of a TARGET: on pages, teachers are files."""
    has_given_teacher = target.endswith(".yaml")
    return [s for s in TINY if not (has_given_teacher and s.startswith("teacher."))]


@pytest.mark.slow
def test_the_names_in_settings_exist() -> None:
    from compress.config_choices import REGISTRIES

    for line in COMMANDS:
        check_parsed(line, REGISTRIES)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", RUNNING, ids=name_of)
def test_the_commands_of_a_page_run(
    page: Path, folder: Path, program: Callable[..., Outcome]
) -> None:
    for name, text in files(page).items():
        (folder / name).write_text(text)
    for block in blocks(page):
        for line in block.commands if block.mark == "runs" else []:
            settings = tiny_settings(line.words[2]) if block.is_tiny else []
            extra = [word for setting in settings for word in ("--set", setting)]
            outcome = program(*line.words, *extra, cwd=folder)
            assert outcome.code in ((0, 1) if block.may_fail else (0,)), (
                f"{line.id}\n{outcome.out}{outcome.err}"
            )
