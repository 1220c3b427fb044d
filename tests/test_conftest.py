"""What conftest.py promises: own surroundings, and no silent skip in CI."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).resolve().parent / "conftest.py"


def run(folder: Path, *tests: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run test files under a copy of the conftest, as a repository of its own."""
    home = folder / "repository" / "tests"
    home.mkdir(parents=True)
    shutil.copy(CONFTEST, home)
    for number, text in enumerate(tests):
        (home / f"test_{number}.py").write_text("import pytest\n" + text)
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider"),
            *("--continue-on-collection-errors", "--rootdir", home, home),
        ],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=200,
    )


WAYS_TO_SKIP = (
    "def test_it(): pytest.skip('no strace')",
    "@pytest.mark.skip(reason='no strace')\ndef test_it(): pass",
    "@pytest.mark.skipif(True, reason='no strace')\ndef test_it(): pass",
    "@pytest.fixture\ndef f(): pytest.skip('no strace')\ndef test_it(f): pass",
    "pytest.skip('no strace', allow_module_level=True)",
    "pytest.importorskip('strace', reason='no strace')",
)


def test_a_skip_fails_in_ci(tmp_path: Path) -> None:
    done = run(tmp_path, *WAYS_TO_SKIP, TALLYMARK_CI="1")
    assert done.returncode == 1, done.stdout
    assert "= 1 failed, 5 errors in" in done.stdout
    assert done.stdout.count("skipped in CI: no strace") >= len(WAYS_TO_SKIP)


def test_a_skip_is_a_skip_elsewhere(tmp_path: Path) -> None:
    done = run(tmp_path, *WAYS_TO_SKIP)
    assert "= 6 skipped in" in done.stdout
    assert done.returncode in (0, 5)


def test_what_the_platform_cannot_have_may_be_skipped_in_ci(tmp_path: Path) -> None:
    test = "def test_it(): pytest.skip('not on this platform: launchd')"
    done = run(tmp_path, test, TALLYMARK_CI="1")
    assert done.returncode == 0, done.stdout
    assert "1 skipped" in done.stdout


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    test = "@pytest.mark.xfail(reason='known')\ndef test_it(): assert False"
    done = run(tmp_path, test, TALLYMARK_CI="1")
    assert done.returncode == 0, done.stdout
    assert "1 xfailed" in done.stdout


def test_absent_shared_data_may_be_skipped_in_ci(tmp_path: Path) -> None:
    test = "def test_it(shared_data): assert (shared_data / 'README.md').exists()"
    folder = tmp_path / "absent"
    absent = run(folder, test, TALLYMARK_CI="1")
    assert absent.returncode == 0, absent.stdout
    assert f"no recorded transcripts at {folder}/shared/data/claude-code" in absent.stdout


def test_present_shared_data_may_not_be_skipped_in_ci(tmp_path: Path) -> None:
    data = tmp_path / "shared" / "data" / "claude-code"
    data.mkdir(parents=True)
    (data / "README.md").write_text("here")
    found = "def test_it(shared_data): assert (shared_data / 'README.md').exists()"
    skips = f"def test_it(): pytest.skip('no recorded transcripts at {data}')"
    done = run(tmp_path, found, skips, TALLYMARK_CI="1")
    assert "= 1 failed, 1 passed in" in done.stdout, done.stdout


def test_the_users_surroundings_do_not_reach_a_test(tmp_path: Path) -> None:
    test = """
import os
from pathlib import Path

def test_it(tmp_path):
    assert Path.home() == Path(os.environ["XDG_STATE_HOME"]) == tmp_path
    left = [n for n in os.environ if n.startswith(("TALLYMARK_", "XDG_", "GIT_", "CLAUDE_"))]
    assert left == ["XDG_STATE_HOME"]
"""
    done = run(
        tmp_path,
        test,
        TALLYMARK_SOCKET="/run/real.sock",
        XDG_RUNTIME_DIR="/run/user/0",
        GIT_DIR="/somewhere/.git",
        CLAUDE_CONFIG_DIR="/somewhere/.claude",
    )
    assert done.returncode == 0, done.stdout
