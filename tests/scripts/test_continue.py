"""What `scripts/test --continue` need not run again: only what passed on this very commit."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
CTEST = """#!/bin/sh
echo run >>"$COUNT"
[ ! -e "$BROKEN" ] || exit 1
for a; do [ "$last" != --output-junit ] || echo '<testsuite tests="3"/>' >"$a"; last=$a; done
"""


@pytest.fixture
def project(tmp_path):
    """A project with our scripts/test, whose only stage with tests is one ctest that counts its runs."""
    root, programs = tmp_path / "project", tmp_path / "bin"
    (root / "scripts").mkdir(parents=True)
    programs.mkdir()
    shutil.copy(SCRIPTS / "test", root / "scripts/test")
    shutil.copytree(SCRIPTS / "lib", root / "scripts/lib", ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in {
        root / "scripts/install-deps": "#!/bin/sh\n",
        root / "scripts/build": "#!/bin/sh\n",
        programs / "ctest": CTEST,
    }.items():
        path.write_text(text)
        path.chmod(0o755)
    (root / ".gitignore").write_text("build/\n__pycache__/\n")
    env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "COUNT": str(tmp_path / "count"),
           "BROKEN": str(tmp_path / "broken"), "GIT_CONFIG_GLOBAL": "/dev/null"}  # fmt: skip

    def run(*argv):
        return subprocess.run(argv, cwd=root, env=env, capture_output=True, text=True)

    def commit():
        run("git", "add", "-A")
        done = run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--allow-empty", "-qm", "x")
        assert done.returncode == 0, done.stderr

    def test(*options):
        """Runs of ctest, and what was said."""
        (tmp_path / "count").write_text("")
        done = run("scripts/test", "--quick", *options)
        return len((tmp_path / "count").read_text().splitlines()), done

    assert run("git", "init", "-q").returncode == 0
    commit()
    test.commit, test.root, test.broken = commit, root, tmp_path / "broken"
    return test


def test_what_passed_is_counted_and_not_run_again(project):
    assert project("--continue")[0] == 1
    runs, again = project("--continue")
    assert runs == 0 and again.returncode == 0
    assert "unit-release   ok     earlier     3 passed" in again.stdout
    assert again.stdout.splitlines()[-1] == "4 passed, 0 failed, 0 skipped"  # and the build


def test_without_it_all_runs(project):
    assert [project()[0], project()[0]] == [1, 1]


def test_another_commit_or_another_kind_of_run_begins_anew(project):
    project()
    project.commit()
    assert project("--continue")[0] == 1
    assert project("--continue", "some")[0] == 1  # a filter


def test_a_change_without_a_commit_begins_anew(project):
    project()
    (project.root / "new").write_text("")
    runs, said = project("--continue")
    assert runs == 1 and "changes without a commit" in said.stderr
    (project.root / "new").unlink()
    assert project("--continue")[0] == 1  # what passed with the change says nothing


def test_what_failed_runs_again(project):
    project.broken.write_text("")
    assert project()[1].returncode == 1
    project.broken.unlink()
    assert project("--continue")[0] == 1
