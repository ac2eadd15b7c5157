"""What the pages in docs/ say about commands, settings, files and each other is so."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import typer.main

from lern.cli.commands import app
from lern.settings import VARIABLES

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])
# Families of settings, named by how they begin.
FAMILIES: Final = ("LERN_TOPIC_", "LERN_TABLE_", "LERN_FLOWER_")


def named(pages: list[Path]) -> list[Any]:
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages]


def typed(text: str) -> Iterator[list[str]]:
    """Give every command line of ours that stands in a block of code, to be typed as it is."""
    for line in re.findall(r"^ {4}(?:docker compose exec \w+ )?(lern [a-z].+)$", text, re.MULTILINE):
        yield shlex.split(line, comments=True)


def mentioned(text: str) -> Iterator[list[str]]:
    """Give every command of ours that a sentence names, with options or without."""
    for found in re.findall(r"`(lern [a-z][^`]*)`", text):
        yield re.findall(r"[\w./:-]+", found)


def walk(words: list[str], *, whole: bool) -> None:
    """Parse a command line with the real command tree; not `whole`: only look its command and options up."""
    program, *arguments = words
    command: Any = typer.main.get_command(app)
    context = None
    while True:
        is_group = hasattr(command, "resolve_command")
        if not whole and (not is_group or not arguments):
            break
        context = command.make_context(program, arguments, parent=context)
        if not is_group:
            return
        program, command, arguments = command.resolve_command(context, [*context._protected_args, *context.args])
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in arguments if word.startswith("-")} <= known | {"--help"}, words


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def concrete(words: list[str]) -> list[str]:
    """Put values where the page has placeholders that must be numbers."""
    is_dead = words[1:2] == ["dead"]
    return ["7" if is_dead and word == "ID" else word for word in words]


@pytest.mark.parametrize("page", named(PAGES))
def test_every_command_exists(page: Path) -> None:
    look_up(page.read_text())


def look_up(text: str) -> None:
    for words in typed(text):
        walk(concrete(words), whole=True)
    for words in mentioned(text):
        walk(words, whole=False)


def test_a_command_or_option_that_is_not_there_is_found_out() -> None:
    # The test above says something only if this one holds.
    for text in ("    lern runs lits\n", "    lern runs retry\n", "`lern runs list --sate failed`", "`lern fly`"):
        with pytest.raises(Exception, match=r"No such|Missing|--sate"):
            look_up(text)


@pytest.mark.parametrize("page", named(PAGES))
def test_every_setting_exists(page: Path) -> None:
    for name in re.findall(r"\bLERN_[A-Z_]*[A-Z]\b|\bLERN_[A-Z]+_(?=…)", page.read_text()):
        assert name in VARIABLES or name in FAMILIES, name


@pytest.mark.parametrize("page", named(PAGES))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


@pytest.mark.parametrize("page", named(PAGES))
def test_every_file_that_is_named_is_there(page: Path) -> None:
    for name in re.findall(r"`((?:lern|tasks|workflows|tests|docs|deploy)/[\w./*-]+)`", page.read_text()):
        found = list(ROOT.glob(name)) if "*" in name else [ROOT / name]
        assert found, name
        assert all(path.exists() for path in found), name


def test_every_picture_is_shown_on_some_page() -> None:
    shown = {name for page in PAGES for name in re.findall(r"!\[[^\]]+\]\(images/([^)]+)\)", page.read_text())}
    assert shown == {picture.name for picture in (ROOT / "docs" / "images").iterdir()}
