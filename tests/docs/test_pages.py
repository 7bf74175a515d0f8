"""What the pages say about the tree and the command line is true: links, paths, verbs, flags, lengths, data files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from ruamel.yaml import YAML

import leaven
from leaven.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [p for p in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("studies/*/README.md"),
                            ROOT / "src/leaven/quickstart/README.md"]) if p.name != "log.md"]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]

pages = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


def slug(heading: str) -> str:
    """Return the anchor that code hosts make of a heading."""
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"(?<!!)\[[^\]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        place, _, anchor = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in {slug(h) for h in re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)}


@pages
def test_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[\w.-]+/)+[\w-]+\.(?:py|md|yaml|html))`", text))
    wrong = [n for n in named if not n.startswith("runs/") and not n.endswith("/x.py")
             and not any((base / n).exists() for base in (ROOT, ROOT / "src/leaven", page.parent))]
    assert not wrong


@pages
def test_commands_are_spelled_right(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    fenced = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`(leaven [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    for line in [*"\n".join(fenced).replace("&&", "\n").splitlines(), *inline]:
        words = line.split("#")[0].split()
        if words[:1] != ["leaven"] or words[1].isupper() or words[1].startswith("-"):
            continue
        assert words[1] in COMMANDS, line
        flags = {option for parameter in COMMANDS[words[1]].params for option in parameter.opts}
        assert {w for w in words if w.startswith("--")} <= flags, line


def test_readme_is_short_and_names_every_verb() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert set(COMMANDS) <= set(re.findall(r"`(\w+)`", text))
    assert set(COMMANDS) <= set(leaven.__all__)


def test_real_data_lists_the_files_of_its_study() -> None:
    folder = ROOT / "studies/real-data"
    study = YAML(typ="safe", pure=True).load((folder / "study.yaml").read_text(encoding="utf-8"))
    used = {s["file"] for s in [*study["data"]["sources"].values(), *study["measure"].values()]}
    listed = set(re.findall(r"^\| `([\w/.]+)` \|", (folder / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert {f"data:{name}" for name in listed} == used
