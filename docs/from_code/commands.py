"""The page of commands."""

from typing import Any

from docs.from_code.text import plain, table

COMMON = ("quiet", "json", "debug")
"""The options of every command, which its page explains once."""


def commands() -> str:
    """Every command of the three programs, with its arguments and options."""
    from typer.main import get_command

    from commands import compress, distill, evaluate

    text = []
    for program, module in (("distill", distill), ("compress", compress), ("evaluate", evaluate)):
        group: Any = get_command(module.app)
        text.append(f"## {program}\n\n{plain(group.help or '')}\n")
        for name, command in group.commands.items():
            context = command.context_class(command, info_name=f"{program} {name}")
            arguments = [p for p in command.params if p.param_type_name == "argument"]
            words = [_argument(parameter) for parameter in arguments]
            text.append(f"### {program} {name}\n\n{plain(command.help or '')}\n")
            text.append(f"    {' '.join([program, name, *words, '[OPTIONS]'])}\n")
            rows = [(f"`{_argument(p)}`", plain(p.help or "")) for p in arguments]
            for parameter in command.params:
                record = parameter.get_help_record(context)
                if parameter not in arguments and record and parameter.name not in COMMON:
                    rows.append((f"`{record[0]}`", plain(record[1])))
            text.append(table(["argument or option", "meaning"], rows))
    return "\n".join(text)


def _argument(parameter: Any) -> str:
    """An argument as a usage line shows it, in brackets if it can be left out."""
    word = parameter.metavar or parameter.name.upper()
    return word if parameter.required else f"[{word}]"
