"""What a primary is lost of: a cluster with its nodes, faults and where its primary is said to be; and ours."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import psycopg
from benchmarks import Unmeasured
from rig import Problem

STREAMING_LIMIT_S = 90
# Below the ports of outgoing connections, and not where other managers on this machine begin: a node that is away for a
# while finds its port free when it comes back.
FIRST_PORT = 12000 + 40 * (os.getpid() % 500)


def is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


PORTS = filter(is_free, range(FIRST_PORT + 10, 32768))  # for peers; ours takes the first ones


def wait(condition, timeout, what):
    """Until condition() is true; errors of a server or an API that does not answer yet are a no."""
    deadline = time.monotonic() + timeout
    while True:
        with contextlib.suppress(psycopg.Error, OSError, Problem):
            if condition():
                return time.monotonic()
        if time.monotonic() > deadline:
            raise Unmeasured(f"{what}: not within {timeout} s")
        time.sleep(0.02)


def kill(pids, number=signal.SIGKILL):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def stat_of(pid):
    """Fields of /proc/PID/stat, from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def started_at(pid):
    """When a process was started, by time.monotonic()."""
    since_boot = int(stat_of(pid)[19]) / os.sysconf("SC_CLK_TCK")
    return since_boot + time.monotonic() - time.clock_gettime(time.CLOCK_BOOTTIME)


class Group:
    """A control group of version 2 for a node's processes; without one (whose files are not there) nothing happens."""

    def __init__(self, name):
        mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
        root = next((Path(words[1]) for words in mounts if words[2] == "cgroup2"), None)
        self.path, self.folder = f"shardherd-{os.getpid()}-{name}", None
        with contextlib.suppress(OSError):
            if root is not None:
                (root / self.path).mkdir()
                self.folder = root / self.path

    def add(self, pid):
        if self.folder is not None:
            (self.folder / "cgroup.procs").write_text(str(pid))

    def close(self):
        """When its processes have ended."""
        if self.folder is not None:
            wait(lambda: not (self.folder / "cgroup.procs").read_text(), 10, f"the end of all in {self.folder}")
            self.folder.rmdir()


def filter_rule(action, rule):
    try:
        done = subprocess.run(
            ["iptables", "-w", action, *rule, "-j", "DROP"], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise Unmeasured(f"a link is lost by iptables: {error}") from error
    if done.returncode != 0:
        raise Unmeasured(f"a link is lost by iptables: {done.stderr.strip()}")


def end_all_in(directory):
    """Nothing that was started below this directory is left, whatever starts it again meanwhile."""
    from test_ha_manager import processes_of

    deadline = time.monotonic() + 20
    while (pids := processes_of(directory)) and time.monotonic() < deadline:
        kill(pids)
        time.sleep(0.05)


class Cluster:
    """One primary and its standbys, whoever keeps them.

    A kind of it begins to come about when it is constructed, and says: name, nodes, user, home(node), data(node),
    daemons(node) (the processes of what keeps the node), place() (who is said to be the primary), conninfo(node) and
    admin(node) (for the application and for a superuser), ports_of(node) (where it is reached), switchover(node),
    restart(node)."""

    def ready(self):
        """Waits until it is made, with a table to write to."""
        self.settled()
        self.make_table()

    def postmaster(self, node):
        return int((self.data(node) / "postmaster.pid").read_text().split()[0])

    def processes(self, node):
        from test_ha_manager import processes_of

        return set(self.daemons(node)) | set(processes_of(self.home(node)))

    def streaming(self, primary):
        with psycopg.connect(self.admin(primary), autocommit=True, connect_timeout=2) as connection:
            row = connection.execute(
                "SELECT count(*), pg_is_in_recovery() FROM pg_stat_replication WHERE state = 'streaming' "
                "AND application_name NOT LIKE 'pg_basebackup%'"
            ).fetchone()
        return row == (len(self.nodes) - 1, False)

    def wait_streaming(self):
        """When all standbys stream from who is said to be the primary."""
        return wait(
            lambda: (primary := self.place()) and self.streaming(primary),
            STREAMING_LIMIT_S,
            f"{self.name}: {len(self.nodes) - 1} standbys that stream",
        )

    def settled(self):
        """Ready for the next fault: a subclass may wait for more."""
        self.wait_streaming()

    def make_table(self):
        with psycopg.connect(self.admin(self.place()), autocommit=True) as connection:
            connection.execute("CREATE TABLE public.w (id bigint PRIMARY KEY)")
            connection.execute(f"GRANT ALL ON public.w TO {self.user}")

    def rows(self, since):
        with psycopg.connect(self.admin(self.place()), autocommit=True, connect_timeout=5) as connection:
            return [row[0] for row in connection.execute("SELECT id FROM public.w WHERE id >= %s", (since,)).fetchall()]

    # ---- faults: each returns what undoes it, which returns since when the node could come back ----

    def node_death(self, node):
        kill([*self.daemons(node), self.postmaster(node)])
        return lambda: self.restart(node)

    def postmaster_killed(self, node):
        kill([self.postmaster(node)])
        return time.monotonic

    def daemon_killed(self, node):
        kill(self.daemons_alone(node))
        return lambda: self.restart(node)

    def daemon_frozen(self, node):
        return self.freeze(self.daemons_alone(node))

    def node_frozen(self, node):
        return self.freeze(self.processes(node))

    def link_lost(self, node):
        """What is sent to the node, and what it sends, is lost without a word to anybody."""
        rules = [["INPUT", "-i", "lo", "-p", "tcp", side, str(port)] for port in self.ports_of(node)
                 for side in ("--dport", "--sport")]  # fmt: skip
        rules += [["OUTPUT", "-m", "cgroup", "--path", group] for group in self.groups_of(node)]
        done = []

        def mend():
            while done:
                filter_rule("-D", done.pop())
            return time.monotonic()

        try:
            for rule in rules:
                filter_rule("-I", rule)
                done.append(rule)
        except Unmeasured:
            mend()
            raise
        return mend

    def groups_of(self, node):
        """Control groups that all of a node's processes were started in, where it connects to others."""
        return []

    def daemons_alone(self, node):
        """Who decides about the node's server; nothing that watches over it."""
        return self.daemons(node)

    def freeze(self, pids):
        kill(pids, signal.SIGSTOP)

        def thaw():
            kill(pids, signal.SIGCONT)
            return time.monotonic()

        return thaw

    def switched_over(self, node):
        self.switchover(node)
        return time.monotonic


class Ours(Cluster):
    """A manager with the local runtime, and a database of one shard with three instances."""

    name = "ours"

    def __init__(self, bench):
        from test_ha_manager import Herd

        self.herd = herd = Herd(bench.program("shardherd"), bench.directory / "ours")
        herd.settings.append(f"runtime.first_port={FIRST_PORT}")
        bench.stack.callback(herd.clean_up)
        try:
            herd.start()
            herd.make(customers=0)
        except AssertionError as error:
            raise Unmeasured(f"the manager: {error}") from error
        self.nodes = sorted(i["name"] for i in herd.instances())
        self.ports = {i["name"]: (i["host"], i["port"]) for i in herd.instances()}
        self.passfile = herd.state / "secrets" / "shop.pgpass"
        self.user = self.passfile.read_text().split(":")[3]

    def home(self, node):
        return self.herd.home(node)

    def data(self, node):
        return self.home(node) / "member" / "data"

    def daemons(self, node):
        return self.herd.agent_pids(node)

    def daemons_alone(self, node):
        """The agent, whose child the server is; its watchdog stays."""
        return [int(stat_of(self.postmaster(node))[1])]

    def ports_of(self, node):
        """Its server's and its agent's: as a primary it connects to nobody."""
        return [self.ports[node][1], json.loads((self.home(node) / "instance.json").read_text())["agent_port"]]

    def place(self):
        """As the routing table says."""
        try:
            primary = next(s["primary"] for s in self.herd.routing()["shards"])
        except (OSError, Problem):
            return None
        return next((n for n, at in self.ports.items() if at == (primary["host"], primary["port"])), None)

    def conninfo(self, node):
        host, port = self.ports[node]
        return f"host={host} port={port} dbname=shop user={self.user} passfile={self.passfile}"

    def admin(self, node):
        host, port = self.ports[node]
        password = (self.herd.state / "instances" / node / "password").read_text().strip()
        return f"host={host} port={port} dbname=shop user=shardherd password={password}"

    def settled(self):
        """Standbys that help acknowledge, and no operation on the shard."""
        self.wait_streaming()
        wait(lambda: self.herd.all_stream(), STREAMING_LIMIT_S, "ours: standbys in the manager's eyes")
        wait(
            lambda: all(o["status"] != "running" for o in self.herd.operations()), 60, "ours: the end of its operation"
        )

    def switchover(self, node):
        try:
            self.herd.cli.out("switchover", "s1", "--wait")
        except AssertionError as error:
            raise Unmeasured(f"the switchover: {error}") from error

    def restart(self, node):
        """The manager does it."""
        wait(lambda: self.herd.agent_pids(node), 60, f"ours: the agent of {node}")
        return min(started_at(pid) for pid in self.herd.agent_pids(node))
