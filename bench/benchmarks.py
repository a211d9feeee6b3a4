"""The command line of bench/run, and what the benchmarks share.

A benchmark is a module of this folder with TITLE, GOAL and measure(bench) -> dict: the members of the JSON
line beside "bench". It prints its table itself, with bench.table().
"""

import contextlib
import importlib
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAMES = (
    "poll", "fleet", "scrape", "split", "decide", "copy", "verify", "block", "guard", "impact",
    "catchup", "watch-sync", "watch-events", "idle", "reconcile", "failover",
    "ha-cost", "kube-failover",
)  # fmt: skip
MODULES = {"copy": "copying"}  # "copy" is Python's own; the others are named as they are
PASSWORD = "bench-of-loopback"
sys.path.insert(0, str(ROOT / "tests" / "live"))


class Unmeasured(Exception):
    """The benchmark could not be run; the text says why."""


class Bench:
    def __init__(self, full):
        self.full = full
        self.directory = Path(tempfile.mkdtemp(prefix="shardherd-bench-", dir="/tmp"))
        self.directory.chmod(0o711)
        self.build = ROOT / "build" / "release"
        self.stack = contextlib.ExitStack()
        self.loads = []

    def program(self, target):
        """Builds a target of the release preset, returns its path. SHARDHERD_BUILD names another build, as it is."""
        folder = {"shardherd": ".", "sim_balance": "tests/sim"}.get(target, "bench")
        named = os.environ.get("SHARDHERD_BUILD")
        if named and (Path(named) / folder / target).exists():
            return Path(named) / folder / target
        done = subprocess.run([ROOT / "scripts" / "build", "release", target], capture_output=True, text=True)
        path = self.build / folder / target
        if done.returncode != 0 or not path.exists():
            raise Unmeasured(f"{target} cannot be built:\n{(done.stdout + done.stderr)[-2000:]}")
        return path

    def tool(self, name):
        """A peer: in the system, or where scripts/install-deps unpacks it."""
        found = shutil.which(name) or str(ROOT / "build" / "tools" / "usr" / "bin" / name)
        if not Path(found).exists():
            raise Unmeasured(f"{name} is missing: scripts/install-deps --with bench")
        return found

    def note(self, text):
        print(f"  {text}", file=sys.stderr, flush=True)

    def sample_load(self):
        self.loads.append(os.getloadavg()[0])

    def table(self, head, rows):
        widths = [max(len(str(row[i])) for row in [head, *rows]) for i in range(len(head))]
        for row in [head, *rows]:
            cells = [
                str(c).ljust(w) if i == 0 else str(c).rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
            ]
            print("  ".join(cells).rstrip())

    def close(self):
        self.stack.close()
        shutil.rmtree(self.directory, ignore_errors=True)


# ---- figures ----


def median(values):
    return statistics.median(values)


def quantile(values, q):
    """The smallest value that at least the share q of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-q * len(ordered) // 1) - 1))]


def spread(values):
    return [rounded(min(values)), rounded(max(values))]


def rounded(value):
    return float(f"{value:.4g}")


def beside_ours(times, name):
    """How many times as long as ours a peer took, round by round."""
    return [peer / ours for peer, ours in zip(times[name], times["ours"], strict=True)]


def table_of_times(bench, times, unit, amount):
    """Seconds of ours and of each peer; `amount` is what each of them did, in `unit` times seconds."""
    bench.table(
        ("", "s (median)", "min", "max", unit, "it / ours", "spread"),
        [
            (name, f"{median(v):.2f}", f"{min(v):.2f}", f"{max(v):.2f}", f"{amount / median(v):.3g}",
             *(("", "") if name == "ours" else share_and_spread(beside_ours(times, name))))
            for name, v in times.items()
        ],
    )  # fmt: skip


def share_and_spread(ratios):
    return f"{median(ratios):.2f}", f"{min(ratios):.2f}..{max(ratios):.2f}"


def process_cpu_ns(pid):
    """CPU of a process with all its threads, also those that have ended, to the nanosecond."""
    return int(time.clock_gettime((~pid << 3) | 2) * 1e9)


def ended_children_ns(pid):
    """CPU of a process's children that have ended and were waited for, with theirs, in ticks."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[13]) + int(fields[14])) * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))


def server_cpu_ns(postmaster):
    """CPU of a server: postmaster, its children, and its children that have ended (those in ticks)."""
    total = process_cpu_ns(postmaster) + ended_children_ns(postmaster)
    with open(f"/proc/{postmaster}/task/{postmaster}/children") as children:
        for pid in children.read().split():
            with contextlib.suppress(OSError):
                total += process_cpu_ns(int(pid))
    return total


def resident_mib(pid):
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
    return 0.0


def machine():
    model = next(
        (line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} x {model}, {memory:.0f} GiB, Linux {platform.release()}"


# ---- PostgreSQL ----


class Servers:
    """PostgreSQL 15 servers made from one template: initdb runs once, its files are copied."""

    def __init__(self, bench, count, prepare=None, **settings):
        from conftest import PgServer

        class Copied(PgServer):
            def initdb(server, *args):
                if not self.servers:
                    super().initdb(*args)
                    return
                # archive mode keeps owner and modes; the copy is of a server that was shut down
                subprocess.run(["cp", "-a", self.servers[0].data, server.data], check=True)

        self.servers = []
        bench.note(f"starting {count} PostgreSQL servers")
        for i in range(count):
            server = Copied(15, password=PASSWORD, **{"autovacuum": "off", **settings})
            bench.stack.callback(server.destroy)
            if i == 0:
                server.start()
                if prepare:
                    prepare(server)
                server.stop()
            else:
                server.initdb()
            self.servers.append(server)
        for server in self.servers:
            server.start(wait=False)
        for server in self.servers:
            server.wait_ready()

    def __iter__(self):
        return iter(self.servers)

    def cpu_ns(self):
        return sum(server_cpu_ns(server.pid) for server in self.servers)

    def restart(self):
        """All at once."""
        for server in self.servers:
            server.process.send_signal(2)  # SIGINT: fast
        for server in self.servers:
            server.process.wait(60)
            server.start(wait=False)


def shop_tables(server, dbname="postgres"):
    """Ten user tables with rows and statistics, so that the families about tables have something to say."""
    rows = "SELECT g, g FROM generate_series(1, 1000) g"
    for i in range(10):
        make = f"CREATE TABLE t{i} (id bigint PRIMARY KEY, v text)"
        server.psql(f"{make}; INSERT INTO t{i} {rows}; ANALYZE t{i}", dbname=dbname)


class Poller:
    """bench_poller on targets (name, server, dbname)."""

    def __init__(self, bench, groups, targets, connects_per_second=200):
        path = bench.directory / f"targets-{len(targets)}-{groups}"
        path.write_text(
            "".join(f"{name},{s.host},{s.port},postgres,{PASSWORD},{dbname}\n" for name, s, dbname in targets)
        )
        self.process = subprocess.Popen(
            [bench.program("bench_poller"), groups, str(connects_per_second), path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        bench.stack.callback(self.stop)
        self.port = int(self.process.stdout.readline())
        self.pid = self.process.pid
        self.count = len(targets)

    def ask(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def first_in_line(self, on):
        """The loop's thread before everything else that wants a processor, or as usual. False: not allowed.

        The servers of a benchmark are on the same machine and take its processors from the loop; in a real
        fleet they are elsewhere. With this, turns are as long as the loop's own work makes them."""
        policy, priority = (os.SCHED_FIFO, 1) if on else (os.SCHED_OTHER, 0)
        try:
            os.sched_setscheduler(self.pid, policy, os.sched_param(priority))
        except PermissionError:
            return False
        return True

    def waited_ms(self):
        """How long the loop's thread was ready to run and had no processor."""
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/schedstat").read_text().split()[1]) / 1e6

    def wait_up(self, timeout=120):
        start = time.monotonic()
        while time.monotonic() - start < timeout:
            if self.ask("stats")["up"] == self.count:
                return time.monotonic() - start
            time.sleep(0.1)
        raise Unmeasured(f"not all of {self.count} targets answered in {timeout} s: {self.ask('stats')}")

    def wait_down(self, timeout=30):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.ask("stats")["up"] < self.count:
                return
            time.sleep(0.02)
        raise Unmeasured(f"the restart was not noticed in {timeout} s")

    def stop(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


# ---- command line ----


def module_of(name):
    return importlib.import_module(MODULES.get(name, name.replace("-", "_")))


def usage(out):
    print("usage: bench/run NAME [--json] [--full]   (--help says more)\n", file=out)
    for name in NAMES:
        module = module_of(name)
        print(f"  {name:14}{module.TITLE}\n{'':16}goal: {module.GOAL}", file=out)


def ended(number, _):
    """What was started is ended also when this is told to end."""
    sys.exit(128 + number)


def main(argv):
    options = {a for a in argv if a.startswith("-")}
    names = [a for a in argv if not a.startswith("-")]
    if not argv:
        usage(sys.stdout)
        return 0
    if options - {"--json", "--full"} or len(names) != 1 or names[0] not in NAMES:
        usage(sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ended)
    module = module_of(names[0])
    bench = Bench("--full" in options)
    start = time.monotonic()
    try:
        print(f"{names[0]}: {module.TITLE}\ngoal: {module.GOAL}\nmachine: {machine()}", flush=True)
        bench.sample_load()
        result = module.measure(bench)
        bench.sample_load()
    except Unmeasured as error:
        print(f"bench/run: {names[0]}: {error}", file=sys.stderr)
        return 1
    finally:
        bench.close()
    busy = f"1-minute load of the machine {bench.loads[0]:.1f} before, {max(bench.loads):.1f} at most"
    print(f"took {time.monotonic() - start:.0f} s; {busy}")
    if "--json" in options:
        print(json.dumps({"bench": names[0], **result}))
    return 0


if __name__ == "__main__":
    # the benchmarks import this file by its name: one module, not two
    sys.modules["benchmarks"] = sys.modules["__main__"]
    sys.exit(main(sys.argv[1:]))
