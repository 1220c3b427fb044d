"""The documentation is true: its examples run, in order, and its links lead somewhere.

In README.md, the distributions' README.md and docs/*.md:

- a block fenced as ``python`` is executed; all of a file share one namespace;
- in a block fenced as ``console``, each line ``$ tallymark …`` or
  ``$ tallymarkd --check-config`` is run and must exit 0, or as ``# exit N`` at
  its end says; other lines are output, or commands that are not ours to run.

They run in the order of the file, in a fresh process, against a daemon of
their own. A program in a doc that is not to be run is fenced as ``text``.

The tables of docs/OPERATIONS.md have every setting, reason and exit code of the code.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from tallymark.errors import DeliveryError
from tallymarkd import __main__
from tallymarkd.app import EXIT_SOFTWARE
from tallymarkd.cli.health import unreachable
from tallymarkd.config import SETTINGS
from tallymarkd.core.committer import EXIT_IO_ERROR
from tallymarkd.health.troubles import TROUBLES, Weight
from tallymarkd.setting import Setting
from tests.doc_tables import table

ROOT = Path(__file__).resolve().parent.parent
WITH_EXAMPLES = sorted(
    path
    for pattern in ("README.md", "client/README.md", "daemon/README.md", "docs/*.md")
    for path in ROOT.glob(pattern)
)
ALL = sorted({*WITH_EXAMPLES, *ROOT.glob("*.md")})
START_SECONDS_MAX = 60.0

FENCE = re.compile(r"^\s*(```+|~~~+)\s*(\S*)")
COMMAND = re.compile(r"^\$ (tallymark(?: .*?)?|tallymarkd --check-config)(?:\s+# exit (\d+))?$")
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)

# Runs in the fresh process. A traceback shows the file and the line of the document.
RUNNER = """
import json, subprocess, sys
path, examples = sys.argv[1], json.loads(sys.argv[2])
namespace = {"__name__": "__main__"}
for example in examples:
    if example["kind"] == "python":
        source = "\\n" * (example["line"] - 1) + example["source"]
        exec(compile(source, path, "exec"), namespace)
        continue
    code = subprocess.run(example["source"], shell=True, stdin=subprocess.DEVNULL).returncode
    if code != example["exit"]:
        sys.exit(f"{path}:{example['line']}: {example['source']} exited {code},"
                 f" not {example['exit']}")
"""


@dataclass(frozen=True)
class Example:
    """A block of Python, or one command; ``line`` is its first in the document."""

    kind: str
    line: int
    source: str
    exit: int = 0


def blocks(text: str) -> Iterator[tuple[str, int, list[str]]]:
    """The fenced blocks: language, number of the first line, lines."""
    fence, language, first = "", "", 0
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        found = FENCE.match(line)
        if not fence:
            if found:
                fence, language, first, lines = found[1], found[2], number + 1, []
        elif line.strip() == fence:
            yield language, first, lines
            fence = ""
        else:
            lines.append(line)
    if fence:
        raise ValueError(f"the block that begins at line {first - 1} is not closed")


def examples(text: str) -> list[Example]:
    """What is to be run, in the order of the document."""
    found: list[Example] = []
    for language, first, lines in blocks(text):
        if language == "python":
            found.append(Example("python", first, "\n".join(lines)))
        elif language == "console":
            found += commands(first, lines)
    return found


def commands(first: int, lines: list[str]) -> Iterator[Example]:
    """Our commands among the lines of a console block, continued lines joined."""
    numbered = iter(enumerate(lines, first))
    for number, line in numbered:
        whole = line.strip()
        while whole.endswith("\\"):
            _, more = next(numbered)
            whole = whole[:-1].rstrip() + " " + more.strip().removeprefix("> ")
        match = COMMAND.match(whole)
        if match:
            yield Example("console", number, match[1].rstrip(), int(match[2] or 0))


def broken_links(path: Path) -> list[str]:
    """Relative links that lead to no file, or to no heading of it."""
    text = without_code(path.read_text(encoding="utf-8"))
    broken = []
    for match in LINK.finditer(text):
        link = match[1] or match[2]
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name) if name else path
        if not target.exists() or (
            anchor and target.suffix == ".md" and anchor not in anchors(target)
        ):
            broken.append(link)
    return broken


def without_code(text: str) -> str:
    fenced = re.sub(r"^\s*(```+|~~~+).*?^\s*\1\s*$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", fenced)


def anchors(path: Path) -> set[str]:
    """The anchors that a forge makes of the headings."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+\s+(.*?)\s*$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@contextmanager
def daemon(folder: Path) -> Iterator[dict[str, str]]:
    """A daemon with its state in ``folder``; gives the variables that lead to it."""
    log = folder / "log"
    socket = folder / "run" / "tallymark.sock"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tallymarkd", "--state-dir", folder],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + START_SECONDS_MAX
        while not socket.exists():
            assert process.poll() is None, f"the daemon ended: {log.read_text()}"
            assert time.monotonic() < deadline, f"the daemon did not come up: {log.read_text()}"
            time.sleep(0.01)
        # Nothing else: as README.md says, that is all a shell needs.
        yield {"TALLYMARK_STATE_DIR": str(folder)}
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run_examples(path: Path, found: list[Example], variables: dict[str, str]) -> str:
    """Everything said by the examples of one document; fails with it when one fails."""
    binaries = str(Path(sys.executable).parent)
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, path, json.dumps([asdict(e) for e in found])],
        cwd=ROOT,
        env={
            **os.environ,
            **variables,
            "PATH": binaries + os.pathsep + os.environ["PATH"],
            "PYTHONUNBUFFERED": "1",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_examples_run(path: Path) -> None:
    found = examples(path.read_text(encoding="utf-8"))
    if not found:
        return
    # Not tmp_path: a socket's path has room for little more than 100 bytes.
    with (
        tempfile.TemporaryDirectory(prefix="tm-docs-") as folder,
        daemon(Path(folder)) as variables,
    ):
        run_examples(path, found, variables)


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_links_lead_somewhere(path: Path) -> None:
    assert broken_links(path) == []


# docs/OPERATIONS.md, held against the code.

OPERATIONS = ROOT / "docs" / "OPERATIONS.md"
STATUS = {
    Weight.NOTICE: "degraded",
    Weight.HOLDING: "degraded, holding",
    Weight.FAILING: "failing",
}


def unit(setting: Setting) -> str:
    """What its value counts."""
    if setting.in_bytes:
        return "bytes"
    if setting.kind not in ("int", "float"):
        return {"path": "path", "bool": "true, false", "str": ", ".join(setting.about.choices)}[
            setting.kind
        ]
    last = setting.name.removesuffix("_max").rpartition("_")[2]
    return {"seconds": "s", "days": "days"}.get(last, "number")


def settings_row(setting: Setting) -> list[str]:
    """What OPERATIONS.md has to say of a setting."""
    about = setting.about
    bounds = f"{setting.show(about.least)}, {setting.show(about.most)}"
    return [
        f"`{setting.name}`",
        unit(setting),
        "below" if setting.default is None else setting.show(setting.default),
        "" if about.least is None else bounds,
        "reload" if about.reload else "restart",
        about.text,
    ]


def test_every_setting_is_told_with_unit_default_and_bounds() -> None:
    rows = [settings_row(setting) for setting in SETTINGS]
    right = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    assert table(OPERATIONS, "setting") == rows, f"docs/OPERATIONS.md should have:\n{right}"


def test_every_reason_of_health_is_told_with_its_status() -> None:
    told = {code.strip("`"): status for code, status, *_ in table(OPERATIONS, "code")}
    known = {code: STATUS[trouble.weight] for code, trouble in TROUBLES.items()}
    (unreachable_reason,) = unreachable(DeliveryError()).reasons
    assert told == {**known, unreachable_reason.code: "failing"}
    assert list(told) == [*TROUBLES, unreachable_reason.code]


def test_every_exit_code_of_the_daemon_is_told() -> None:
    told = [row[0] for row in exit_codes()]
    known = {0, __main__.EXIT_FAILED, __main__.EXIT_USAGE, EXIT_SOFTWARE, EXIT_IO_ERROR}
    assert [int(code) for code in told if code.isdigit()] == sorted(known)


def exit_codes() -> list[list[str]]:
    text = OPERATIONS.read_text(encoding="utf-8")
    section = text.partition("## Exit codes")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


DOCUMENT = """\
Text with `$ tallymark nothing`.

```python
x = 1
```

```text
$ tallymark nothing
```

```console
$ tallymark
output
$ tallymark health   # exit 2
$ tallymarkd --state-dir x
$ tallymark emit run \\
      --agent coding
$ tallymark dump --project "a # b"
```

    ```python
    x = 2
    ```
"""


def test_examples_are_found_in_their_order() -> None:
    assert examples(DOCUMENT) == [
        Example("python", 4, "x = 1"),
        Example("console", 12, "tallymark"),
        Example("console", 14, "tallymark health", 2),
        Example("console", 16, "tallymark emit run --agent coding"),
        Example("console", 18, 'tallymark dump --project "a # b"'),
        Example("python", 22, "    x = 2"),
    ]


def test_a_block_that_is_not_closed_is_told() -> None:
    with pytest.raises(ValueError, match="line 1 is not closed"):
        examples("```python\nx = 1\n")


def test_one_namespace_and_one_order() -> None:
    found = [
        Example("python", 3, "x = 1"),
        Example("console", 5, 'test "$TALLYMARK_SOCKET" = there; exit $?'),
        Example("console", 6, "exit 3", 3),
        Example("python", 9, "assert x == 1; print('all of it ran')"),
    ]
    said = run_examples(Path("doc.md"), found, {"TALLYMARK_SOCKET": "there"})
    assert said == "all of it ran\n"


@pytest.mark.parametrize(
    ("example", "said"),
    [
        (Example("python", 7, "x = 1\nx = 1 / 0"), 'File "doc.md", line 8'),
        (Example("console", 7, "exit 1"), "doc.md:7: exit 1 exited 1, not 0"),
        (Example("console", 7, "exit 0", 2), "doc.md:7: exit 0 exited 0, not 2"),
    ],
)
def test_an_example_that_fails_is_told(example: Example, said: str) -> None:
    with pytest.raises(AssertionError) as caught:
        run_examples(Path("doc.md"), [example], {})
    assert said in str(caught.value)


def test_broken_links_are_told(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# Group commit: how?\n")
    document = tmp_path / "doc.md"
    document.write_text(
        "# Here\n[a](other.md) [b](gone.md) [c](other.md#group-commit-how) [d](other.md#gone)\n"
        "[e](#here) [f](#gone) [g](https://example.org/x) ![h](gone.png 'title') `[i](code.md)`\n"
        "```text\n[j](code.md)\n```\n[k]: gone-too.md\n"
    )
    assert broken_links(document) == [
        "gone.md",
        "other.md#gone",
        "#gone",
        "gone.png",
        "gone-too.md",
    ]
