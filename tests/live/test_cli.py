"""The command line: against an API over a canned fleet (api_tool), and against a real manager with real servers."""

import fcntl
import json
import os
import pty
import re
import select
import shutil
import socket
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest
import yaml
from rig import Rig

pytestmark = pytest.mark.beside

KINDS = ["databases", "shards", "instances", "operations", "decisions", "routing"]
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("SHARDHERD_") and k not in ("NO_COLOR", "TERM")}


class Cli:
    """Runs the program against the manager whose ports are in this state directory."""

    def __init__(self, program, state):
        self.program = str(program)
        self.state = str(state)

    def run(self, *words, code=0, stdin=None, env=None, timeout=60):
        done = subprocess.run(
            [self.program, words[0], "--state", self.state, *words[1:]],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**ENVIRONMENT, **(env or {})},
        )
        assert code is None or done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def out(self, *words, **more):
        return self.run(*words, **more).stdout

    def json(self, *words, **more):
        return json.loads(self.out(*words, "-o", "json", **more))

    def terminal(self, *words, until, timeout=60, interrupt=False, env=None):
        """Runs it on a terminal of its own until its output matches; returns what was seen and its exit code."""
        pid, fd = pty.fork()
        if pid == 0:
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 160, 0, 0))
            os.environ.clear()
            os.environ.update({**ENVIRONMENT, "TERM": "xterm", "LANG": "C.UTF-8", **(env or {})})
            os.execv(self.program, [self.program, *words, "--state", self.state])
        seen, deadline = b"", time.monotonic() + timeout
        sent = False
        while time.monotonic() < deadline:
            if select.select([fd], [], [], 0.1)[0]:
                try:
                    piece = os.read(fd, 65536)
                except OSError:
                    break
                if not piece:
                    break
                seen += piece
            if interrupt and not sent and re.search(until, seen.decode(errors="replace")):
                os.write(fd, b"\x03")
                sent = True
        os.close(fd)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        text = seen.decode(errors="replace")
        assert re.search(until, text), text
        return text, status


@pytest.fixture
def canned(shardherd, tool, work_dir):
    process = subprocess.Popen([tool("api_tool"), work_dir], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    (work_dir / "manager.json").write_text(process.stdout.readline())
    cli = Cli(shardherd, work_dir)

    def command(line):
        process.stdin.write(line + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ok\n"

    cli.command = command
    yield cli
    process.kill()
    process.wait()


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


@pytest.fixture(scope="module")
def fleet(shardherd):
    rig = Rig(shardherd, f"/tmp/shardherd-cli-{os.getpid()}")
    rig.settings += [
        f"listen.{name}_port={port}" for name, port in zip(("public", "admin"), free_ports(2), strict=True)
    ]
    try:
        rig.start()
        cli = Cli(shardherd, rig.state)
        cli.rig = rig
        yield cli
        rig.stop()
    finally:
        rig.clean_up()


# ---- a canned fleet ----


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_in_every_format(canned, kind):
    items = canned.json("get", kind)["items"]
    assert items
    table = canned.out("get", kind).splitlines()
    assert len(table) >= len(items) + 1
    assert table[0] == table[0].upper()
    assert all(line == line.rstrip() for line in table)
    assert len(canned.out("get", kind, "-o", "wide").splitlines()[0]) >= len(table[0])
    names = canned.out("get", kind, "-o", "name").splitlines()
    assert len(names) == len(items)
    one = names[0].split("/", 1)
    if kind not in ("decisions", "routing"):
        assert canned.out("describe", one[0], one[1])
        assert sorted(canned.json("describe", names[0])) == sorted(canned.json("get", names[0]))
    assert set(canned.json("get", names[0])) >= set(items[0]) - {"findings"}


def test_columns_stand_below_their_titles(canned):
    lines = canned.out("get", "instances").splitlines()
    at = lines[0].index("ADDRESS")
    assert all(line[at - 3 : at] == "   " and line[at] != " " for line in lines[1:])


def test_yaml_is_the_same_document(canned):
    for kind in KINDS:
        wanted, got = canned.json("get", kind), yaml.safe_load(canned.out("get", kind, "-o", "yaml"))
        text = json.dumps([wanted, got], default=str)
        if kind not in ("shards", "instances"):  # "seen" moves between the two
            assert got == wanted, text
        assert [sorted(item) for item in got["items"]] == [sorted(item) for item in wanted["items"]]


def test_status_top_and_route(canned):
    text = canned.out("status")
    for section in ("Fleet", "Databases", "Shards", "Running operations", "Last decisions", "Warnings"):
        assert f"\n{section}\n" in f"\n{text}"
    assert "one key carries 61 % of its writes" in text
    assert canned.json("status")["ready"] is True
    canned.command("unready")
    assert canned.json("status")["ready"] is False
    assert "another manager leads" in canned.out("status")
    assert "103%" in canned.out("top")
    assert canned.json("route", "shop", "42")["hash"] == "8010225493015854792"
    assert canned.out("route", "shop", "-7", "-o", "name") == "shard/shop/s1\n"


def test_errors_and_exit_codes(canned, work_dir):
    def fails(code, *words, **more):
        done = canned.run(*words, code=code, **more)
        assert done.stdout == ""
        assert done.stderr.startswith("shardherd: ")
        return done.stderr

    assert 'no database is named "nope" (not_found)' in fails(3, "get", "db", "nope")
    assert "did you mean" in fails(2, "get", "shrds")
    assert "did you mean --output?" in fails(2, "get", "db", "--outptu", "json")
    assert 'did you mean "get"?' in fails(2, "gte", "db")
    assert "json" in fails(2, "get", "db", "-o", "jsno")
    assert "say which with -d" in fails(2, "get", "shards", "s1")
    assert "(conflict)" in fails(4, "cancel", "splt0000004")
    assert "--confirm=shop" in fails(2, "delete", "database", "shop")
    assert "--confirm=shop" in fails(2, "delete", "database", "shop", "--confirm=shap")
    assert "(conflict)" in fails(4, "delete", "database", "shop", "--confirm=shop")
    assert "cannot reach the manager" in fails(5, "get", "db", "--server", "http://127.0.0.1:9")
    assert "manager.json" in canned.run("get", "db", "--state", str(work_dir / "none"), code=5).stderr
    assert "is not a URL" in fails(2, "get", "db", "--server", "127.0.0.1:8080")
    assert "duration" in fails(2, "get", "db", "--timeout", "soon")
    assert "(not_found)" in fails(3, "split", "shop/s9")
    assert "(invalid)" in fails(2, "split", "shop/s1", "--at", "x")


def test_wait_for_what_ended(canned):
    assert canned.run("wait", "operation", "splt0000004").stdout == "operation/splt0000004 done\n"
    refused = canned.run("wait", "op/splt0000003", code=4)
    assert "public.orders   no key    add one" in refused.stdout
    late = canned.run("wait", "database", "fresh", "--for=ready", "--timeout", "1s", code=6)
    assert "it is pending" in late.stderr
    assert canned.run("wait", "database", "gone", "--for=deleted").stdout == "database/gone deleted\n"


def test_a_wait_times_out_and_the_operation_goes_on(canned):
    done = canned.run("split", "shop/s1", "--dry-run", "--timeout", "1s", code=6)
    assert done.stdout == ""
    op = re.search(r"operation (\S+) has not ended yet", done.stderr).group(1)
    assert canned.json("get", "op", op)["status"] == "running"


def test_watching(canned):
    process = subprocess.Popen(
        [canned.program, "get", "routing", "shop", "-w", "--state", canned.state], stdout=subprocess.PIPE, text=True
    )
    try:
        first = [process.stdout.readline() for _ in range(3)]
        assert first[0].startswith("DATABASE")
        assert first[1].split()[1] == "1"
        canned.command("move")
        changed = process.stdout.readline()
        assert changed.split()[:2] == ["shop", "2"]
        assert changed.index("2") == first[1].index("1"), "columns stay where they were"
    finally:
        process.kill()
        process.wait()


def test_events(canned):
    assert json.loads(canned.out("events", "-o", "json"))["event"] == "snapshot"
    process = subprocess.Popen(
        [canned.program, "events", "-w", "-o", "json", "--state", canned.state], stdout=subprocess.PIPE, text=True
    )
    try:
        assert json.loads(process.stdout.readline())["event"] == "snapshot"
        canned.command("decide")
        event = json.loads(process.stdout.readline())
        assert event["event"] == "decision"
        assert event["data"]["sentence"] == "shard is hot"
    finally:
        process.kill()
        process.wait()


def test_top_on_a_terminal_ends_at_once(canned):
    began = time.monotonic()
    text, code = canned.terminal("top", until=r"103%", interrupt=True, timeout=10)
    assert code == 0
    assert time.monotonic() - began < 5
    assert text.startswith("\x1b[?1049h")
    assert text.rstrip().endswith("\x1b[?1049l")


def test_colors_only_on_a_terminal(canned):
    text, _ = canned.terminal("get", "db", until="provisioned")
    assert "\x1b[32mprovisioned\x1b[0m" in text
    text, _ = canned.terminal("get", "db", "--no-color", until="provisioned")
    assert "\x1b" not in text
    assert "\x1b" not in canned.out("get", "db", env={"TERM": "xterm"})


@pytest.mark.parametrize(("value", "colored"), [("1", False), ("anything", False), ("", True)])
def test_NO_COLOR(canned, value, colored):
    """no-color.org: set to anything but the empty text, nothing is colored, not even on a terminal."""
    text, _ = canned.terminal("get", "db", until="provisioned", env={"NO_COLOR": value})
    assert ("\x1b[32m" in text) == colored, text
    text, _ = canned.terminal("top", "--once", until="103%", env={"NO_COLOR": value})
    assert (re.search("\x1b\\[[0-9;]*m", text) is not None) == colored, text


def test_environment_names_the_manager(canned):
    ports = json.loads(Path(canned.state, "manager.json").read_text())
    env = {**ENVIRONMENT, "SHARDHERD_SERVER": f"http://127.0.0.1:{ports['public']}/", "SHARDHERD_DATABASE": "docs"}
    done = subprocess.run([canned.program, "get", "shards", "-o", "name"], env=env, capture_output=True, text=True)
    assert done.stdout == "shard/docs/s1\n"


def test_help_has_an_example_for_each(shardherd):
    listed = subprocess.run([shardherd, "help"], capture_output=True, text=True, check=True).stdout
    commands = re.findall(r"^  ([a-z-]+)  ", listed.split("Flags of")[0], re.M)
    assert {"get", "split", "load", "manager", "completion"} <= set(commands)
    for command in commands:
        text = subprocess.run([shardherd, command, "--help"], capture_output=True, text=True, check=True).stdout
        assert "sage:" in text, command
        assert f"shardherd {command}" in text.lower().split("example", 1)[1], command


def test_describe_says_why(canned):
    """The refusal that stands with its number and sentence, the last decision, quantiles, guards."""
    text = canned.out("describe", "shard", "shop/s1")
    assert re.search(r"Not split: +one key carries 61 % of its writes \(R7 popular-key\)", text), text
    assert re.search(r"Last decision: +split: shard is hot \(R1 split\)", text), text
    assert re.search(r"Probe: +p50 \S+ \S+, p95 \S+ \S+, p99 \S+ \S+", text), text
    assert "guard shardherd_guard_insert is missing or disabled" in text, text
    text = canned.out("describe", "instance", "shop-s1-0")
    assert "Found by:" in text and "Role:" in text, text


def test_version(shardherd):
    line = subprocess.run([shardherd, "--version"], capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"shardherd \d+\.\d+\.\d+ \(\S+\)\n", line)
    document = json.loads(subprocess.run([shardherd, "version", "-o", "json"], capture_output=True, check=True).stdout)
    assert f"shardherd {document['version']} ({document['commit']})\n" == line


# ---- completion ----


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_parse(shardherd, shell):
    script = subprocess.run([shardherd, "completion", shell], capture_output=True, text=True, check=True).stdout
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n"], input=script, text=True, check=True)


BASH = """
source <("$PROGRAM" completion bash)
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_shardherd
printf '%s\\n' "${COMPREPLY[@]}"
"""


def complete(canned, *words):
    state = ["--state", canned.state]
    script = subprocess.run(
        ["bash", "-c", BASH, "bash", canned.program, *state, *words],
        capture_output=True, text=True, check=True, env={**ENVIRONMENT, "PROGRAM": canned.program},
    )  # fmt: skip
    return script.stdout.split()


def test_completion(canned):
    assert complete(canned, "spl") == ["split"]
    assert complete(canned, "get", "sh") == ["shards"]
    assert complete(canned, "get", "shards", "shop/") == ["shop/s1", "shop/s2"]
    assert complete(canned, "describe", "database", "") == ["docs", "fresh", "shop"]
    assert complete(canned, "cancel", "splt000000")[:1] == ["splt0000006"]
    assert complete(canned, "get", "shards", "-d", "s") == ["shop"]
    assert complete(canned, "get", "shards", "--database", "=", "s") == ["shop"]
    assert complete(canned, "get", "db", "-o", "") == ["table", "wide", "json", "yaml", "name"]
    assert complete(canned, "split", "shop/s1", "--dr") == ["--dry-run"]
    assert complete(canned, "completion", "") == ["bash", "zsh", "fish"]


def test_completion_of_fish(canned):
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    program = Path(canned.program)
    environment = {**ENVIRONMENT, "PATH": f"{program.parent}:{os.environ['PATH']}", "HOME": str(canned.state)}

    def offered(line):
        script = f"{program.name} completion fish | source; complete -C '{program.name} --state {canned.state} {line}'"
        done = subprocess.run(["fish", "-c", script], capture_output=True, text=True, check=True, env=environment)
        return [candidate.split("\t")[0] for candidate in done.stdout.splitlines()]

    assert offered("spl") == ["split"]
    assert offered("get shards shop/") == ["shop/s1", "shop/s2"]


def test_completion_of_zsh(canned):
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    script = 'autoload -U compinit; compinit -D -u; source <("$PROGRAM" completion zsh); print "$_comps[shardherd]"'
    done = subprocess.run(
        ["zsh", "-f", "-c", script], capture_output=True, text=True, check=True,
        env={**ENVIRONMENT, "PROGRAM": canned.program},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("_shardherd\n", "")


def test_completion_without_a_manager_is_quick(shardherd):
    began = time.monotonic()
    done = subprocess.run(
        [shardherd, "__complete", "--server", "http://127.0.0.1:9", "get", "shards", ""], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert time.monotonic() - began < 2


# ---- a real fleet, in the order of this file ----


@pytest.fixture(scope="module")
def specification(shardherd, fleet):
    schema = subprocess.run(
        [shardherd, "load", "--print-schema", "--database", "shop"], capture_output=True, text=True, check=True
    ).stdout
    tables = [{"name": f"public.{name}", "key": "customer_id"} for name in ("customers", "orders")]
    balance = {"split": "off", "merge": "off", "rebalance": "off", "bake": "0s"}
    path = fleet.rig.directory / "shop.json"
    path.write_text(
        json.dumps(
            {
                "apiVersion": "shardherd.io/v1alpha1",
                "kind": "ShardedDatabase",
                "metadata": {"name": "shop"},
                "spec": {"shards": 2, "tables": tables, "schema": schema, "balance": balance},
            }
        )
    )
    return str(path)


def test_apply(fleet, specification):
    assert fleet.out("apply", "-f", specification, "--dry-run") == "database/shop created (dry run)\n"
    assert fleet.json("get", "databases")["items"] == []
    assert "No databases found." in fleet.run("get", "databases").stderr
    done = fleet.run("apply", "-f", specification, "--wait")
    assert re.fullmatch(r"operation/\S+ done: provision shop in .*\n", done.stdout)
    assert "provision shop: schema" in done.stderr
    assert fleet.out("apply", "-f", specification) == "database/shop unchanged\n"
    changed = open(specification).read().replace('"bake": "0s"', '"bake": "1s"')
    assert fleet.out("apply", "-f", "-", stdin=changed) == "database/shop configured\n"
    assert fleet.run("wait", "database", "shop", "--for=ready").stdout == "database/shop ready\n"


def test_split(fleet, specification):
    dry = fleet.run("split", "s1", "--dry-run")
    assert "nothing is in the way" in dry.stdout
    assert len(fleet.json("get", "shards")["items"]) == 2
    started = fleet.out("split", "s1", "--bake", "0s", "-o", "name").strip()
    done = fleet.json("wait", started)
    assert (done["status"], done["kind"]) == ("done", "split")
    assert [item["name"] for item in fleet.json("get", "shards")["items"]] == ["s1", "s2", "s3"]
    text = fleet.out("describe", started)
    assert "Writes blocked:" in text
    assert fleet.out("get", started).splitlines()[1].split()[5] == "done"
    assert "nothing" not in fleet.run("cancel", started, code=4).stdout


def test_bar_and_document(fleet, specification):
    """A bar on the terminal, and a document on stdout that parses."""
    text, code = fleet.terminal("merge", "s3", "--bake", "0s", "--wait", "--no-color", until=r"merge shop/s3 -> s\d")
    assert code == 0
    assert re.search(r"merge shop/s3 -> s\d  done\s+▕█+▏ 100%  in ", text)
    with open(fleet.rig.directory / "out.json", "w") as out:
        done = subprocess.run(
            [fleet.program, "split", "s2", "--bake", "0s", "--wait", "-o", "json", "--state", fleet.state],
            stdout=out, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, timeout=60,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "split shop/s2" in done.stderr
    assert json.loads(open(fleet.rig.directory / "out.json").read())["status"] == "done"


def test_wait_outlives_a_restart(fleet, specification):
    """The manager is killed while an operation is waited for, and comes back on the same ports."""
    started = fleet.out("split", "s1", "--bake", "5s", "-o", "name").strip()
    waiting = subprocess.Popen(
        [fleet.program, "wait", started, "--state", fleet.state],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    while "watch" not in (line := waiting.stderr.readline()):
        assert line, "it ended too early"
    fleet.rig.process.kill()
    fleet.rig.process.wait()
    fleet.rig.start()
    out, err = waiting.communicate(timeout=60)
    assert (waiting.returncode, out) == (0, f"{started} done\n"), err


def test_delete(fleet, specification):
    fleet.run("delete", "database", "shop", code=2)
    done = fleet.run("delete", "database", "shop", "--confirm=shop", "--wait")
    assert "retire shop" in done.stdout
    assert fleet.run("wait", "database", "shop", "--for=deleted").stdout == "database/shop deleted\n"
    assert fleet.json("get", "databases")["items"] == []
    assert list((fleet.rig.state / "instances").glob("shop-*")) == []


# ---- check-config ----


def test_check_config(shardherd, work_dir):
    def check(*words, code):
        done = subprocess.run([shardherd, "check-config", *words], capture_output=True, text=True, env=ENVIRONMENT)
        assert done.returncode == code, done.stderr
        return done

    good, bad, spec = work_dir / "good.yaml", work_dir / "bad.yaml", work_dir / "spec.yaml"
    good.write_text("log:\n  level: warn\n")
    bad.write_text("log:\n  levle: warn\n")
    spec.write_text(
        "apiVersion: shardherd.io/v1alpha1\nkind: ShardedDatabase\nmetadata:\n  name: shop\n"
        "spec:\n  shards: two\n  tables:\n  - {name: public.t, key: id}\n"
    )
    assert "ok (configuration of a manager)" in check("-c", str(good), code=0).stderr
    assert "warn" in check("-c", str(good), "--print", code=0).stdout
    assert re.search(r"bad\.yaml:2:\d+: .*level", check("-c", str(bad), code=2).stderr)
    assert re.search(r"spec\.yaml:6:\d+: ", check(str(spec), code=2).stderr)
    spec.write_text(spec.read_text().replace("two", "2"))
    assert "ok (database specification)" in check(str(spec), str(good), code=0).stderr
    assert "none.yaml" in check("-c", str(work_dir / "none.yaml"), code=2).stderr
