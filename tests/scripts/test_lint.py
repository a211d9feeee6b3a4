"""The checks of scripts/lint, each shown a small project with and without the fault it looks for."""

import os
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
GOOD = {
    "ARCHITECTURE.md": "| `src/base` | a | nothing |\n| `src/loop` | b | base |\n| `src/k8s` (coming) | c | base |\n",
    "CMakeLists.txt": "sh_module(base)\nsh_module(loop base LIBS UV::uv)\n",
    "src/base/err.h": "#ifndef ERR_H\n#define ERR_H\nint err_code(void);\n#endif\n",
    "src/base/err.c": '#include "base/err.h"\n\nint err_code(void)\n{\n    return 1;\n}\n',
    "src/base/env.c": "#include <time.h>\nvoid f(void)\n{\n    time(0);\n}\n",
    "src/loop/loop.c": '#include "base/err.h"\nvoid g(void)\n{\n    env->random(env); /* not rand() */\n}\n',
}


@pytest.fixture
def tree(tmp_path):
    """A function: writes GOOD with changes (None removes a file), runs one check, returns (exit, output)."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)

    def run(check, changes=None):
        for name, text in {**GOOD, **(changes or {})}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            if text is not None:
                path.write_text(text)
        program = next((REPO / "scripts/lint.d").glob(f"{check}.*"))
        command = ["bash", str(program)] if program.suffix == ".sh" else ["python3", str(program)]
        env = {**os.environ, "SHARDHERD_LINT_ROOT": str(tmp_path)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    return run


def body(lines):
    return "void f(void)\n{\n" + "    g();\n" * lines + "}\n"


WORK = "/wo" + "rk"


@pytest.mark.parametrize("check", ["layering", "banned", "size", "words", "headers", "shell", "ruff"])
def test_a_clean_tree_passes(tree, check):
    extra = {"scripts/x": "#!/bin/sh\necho ok\n", "x.py": "print(1)\n"}
    code, output = tree(check, extra)
    assert code == 0, output


@pytest.mark.parametrize(
    ("check", "changes", "message"),
    [
        (
            "layering",
            {"src/base/err.c": '#include "loop/loop.h"\n', "src/loop/loop.h": ""},
            "src/base may not use src/loop",
        ),
        ("layering", {"src/loop/loop.c": '#include "err.h"\n'}, "no file of src/"),
        ("layering", {"src/new/a.c": "int a;\n"}, "src/new has no row"),
        ("layering", {"CMakeLists.txt": "sh_module(base)\nsh_module(loop)\n"}, "CMakeLists.txt links []"),
        ("layering", {"CMakeLists.txt": "sh_module(base)\n"}, "no sh_module(loop)"),
        ("layering", {"CMakeLists.txt": GOOD["CMakeLists.txt"] + "sh_module(k8s base)\n"}, "calls src/k8s coming"),
        (
            "layering",
            {"src/base/a.h": '#include "base/b.h"\n', "src/base/b.h": '# include "base/a.h"\n'},
            "circle: src/base/a.h -> src/base/b.h -> src/base/a.h",
        ),
        (
            "layering",
            {
                "ARCHITECTURE.md": "| `src/base` | all | loop |\n| `src/loop` | uv | base |\n",
                "CMakeLists.txt": "sh_module(base loop)\nsh_module(loop base)\n",
            },
            "table has a circle",
        ),
        ("layering", {"src/loop/loop.c": "int a;\n" * 15001}, "split it"),
        ("banned", {"src/loop/loop.c": "int x = rand();\n"}, "loop.c:1: rand()"),
        ("banned", {"src/loop/loop.c": "\n\nPQexec (c, s);\n"}, "loop.c:3: PQexec()"),
        ("banned", {"src/base/env.c": "strcpy(a, b);\n"}, "strcpy()"),
        ("banned", {"scripts/lint.d/banned.allow": "src/loop/loop.c system reason\n"}, "no longer calls"),
        ("size", {"src/loop/loop.c": body(61)}, "f() has 61 lines"),
        ("size", {"src/loop/loop.c": "int a;\n" * 801}, "801 lines"),
        ("words", {"docs/a.md": "TO" + "DO: write\n"}, "finish it"),
        ("words", {"docs/a.md": f"see {WORK}/main\n"}, "does not belong"),
        ("words", {"docs/a.md": "in ../sha" + "red/x\n"}, "does not belong"),
        ("headers", {"src/base/err.h": "size_t n(void);\n"}, "base/err.h does not compile alone"),
        ("shell", {"scripts/x": "#!/bin/sh\necho $1\n"}, "SC2086"),
        ("ruff", {"x.py": "import os\n"}, "os"),
    ],
)
def test_a_fault_is_found(tree, check, changes, message):
    code, output = tree(check, changes)
    assert code == 1 or (check in ("headers", "shell") and code != 0), output
    assert message in output


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("banned", {"src/loop/loop.c": '/* rand() */ const char *t = "time()"; // system()\nrun_time();\n'}),
        (
            "banned",
            {
                "scripts/lint.d/banned.allow": "# why\nsrc/loop/loop.c waitpid only after SIGCHLD\n",
                "src/loop/loop.c": "waitpid(p, 0, 0);\n",
            },
        ),
        ("size", {"src/loop/loop.c": body(60)}),
        ("words", {"src/base/err.c": '#include "loop/wo' + 'rk.h"\nmkdtemp("aXXXXXX");\n'}),
        ("layering", {"src/loop/loop.c": '#include "version.h"\n/* #include "manager/m.h" */\n'}),
    ],
)
def test_what_only_looks_like_a_fault_passes(tree, check, changes):
    code, output = tree(check, changes)
    assert code == 0, output
