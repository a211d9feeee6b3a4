"""A thousand targets with the load group each second, and the return of all of them at once."""

import time

from benchmarks import Poller, Servers, Unmeasured, median, process_cpu_ns, resident_mib, rounded, spread

TITLE = "1,000 targets (databases of 20 servers), load group each second, against 100 targets"
GOAL = (
    "cost per target within 20 % of that at 100; <= 10 % of a core; RSS <= 64 MiB; "
    "longest turn p99.9 < 10 ms, also while all reconnect with SCRAM"
)
SERVERS, DATABASES, SMALL = 20, 50, 100
CONNECTS_PER_SECOND = 50  # shardherd's default


def make_databases(server):
    for i in range(DATABASES):
        server.psql(f"CREATE DATABASE d{i} STRATEGY FILE_COPY")


def window(pollers, seconds):
    """Microseconds of CPU per target and poll of each poller, and share of a core."""
    before = [(process_cpu_ns(p.pid), p.ask("stats")) for p in pollers]
    start = time.monotonic()
    time.sleep(seconds)
    out = []
    for poller, (cpu, stats) in zip(pollers, before, strict=True):
        used, passed = process_cpu_ns(poller.pid) - cpu, time.monotonic() - start
        after = poller.ask("stats")
        polls = after["polls"] - stats["polls"]
        if polls == 0 or after["polls_failed"] > stats["polls_failed"]:
            raise Unmeasured(f"{polls} polls, {after['polls_failed'] - stats['polls_failed']} failed")
        out.append((used / 1000 / polls, used / 1e9 / passed, polls / passed / poller.count))
    return out


def reconnect(bench, servers, poller, rounds, alone):
    """All servers restart, `rounds` times: seconds until every target answers again, and the turns meanwhile."""
    seconds = []
    if not poller.first_in_line(alone):
        return [], None
    poller.ask("reset")
    for i in range(rounds):
        bench.note(f"restart {i + 1} of {rounds}{', the loop first in line' if alone else ''}")
        servers.restart()
        poller.wait_down()
        seconds.append(poller.wait_up())
        bench.sample_load()
    found = poller.ask("stats")
    poller.first_in_line(False)
    return seconds, found


def measure(bench):
    rounds, seconds, restarts = (12, 15, 5) if bench.full else (6, 5, 2)
    servers = Servers(bench, SERVERS, make_databases, max_connections="80", shared_buffers="8MB")
    targets = [(f"s{s}-{d}", server, f"d{d}") for d in range(DATABASES) for s, server in enumerate(servers)]
    bench.note("connecting 1,100 targets")
    small = Poller(bench, "load", targets[:SMALL])
    large = Poller(bench, "load", targets, CONNECTS_PER_SECOND)
    small.wait_up()
    large.wait_up()
    time.sleep(3)
    large.ask("reset")
    pairs = []
    for i in range(rounds):
        bench.note(f"window {i + 1} of {rounds}")
        pairs.append(window((small, large), seconds))
        bench.sample_load()
    turns = {"steady": large.ask("stats")}
    memory = {"rss_mib": resident_mib(large.pid)}
    small.stop()
    waited = large.waited_ms()
    back, turns["1,000 return with SCRAM"] = reconnect(bench, servers, large, restarts, False)
    waited = large.waited_ms() - waited
    try:
        _, turns["the same, loop first in line"] = reconnect(bench, servers, large, restarts, True)
    except Unmeasured as error:  # the servers starve on a small machine that is busy otherwise
        turns["the same, loop first in line"] = None
        bench.note(str(error))
    memory["rss_after_returns_mib"] = resident_mib(large.pid)
    large.ask("fill")
    memory["rss_day_mib"] = resident_mib(large.pid)
    return report(bench, pairs, turns, back, waited / restarts, memory)


def report(bench, pairs, turns, back, waited, memory):
    small, large = [p[0] for p in pairs], [p[1] for p in pairs]
    ratios = [s[0] / t[0] for s, t in zip(small, large, strict=True)]
    rows = []
    for name, values in (("100 targets", small), ("1,000 targets", large)):
        cost, core = [v[0] for v in values], 100 * median([v[1] for v in values])
        each = f"{median([v[2] for v in values]):.2f}"
        rows.append((name, f"{median(cost):.1f}", f"{min(cost):.1f}..{max(cost):.1f}", f"{core:.1f} %", each))
    bench.table(("load group each second", "us CPU per poll", "spread", "of a core", "polls/s each"), rows)
    found = {name: s for name, s in turns.items() if s}
    keys = ("p50_us", "p99_us", "p999_us", "max_us")
    rows = [(name, s["turns"], *(f"{s[k] / 1000:.2f}" for k in keys)) for name, s in found.items()]
    bench.table(("turns of the loop, ms", "turns", "p50", "p99", "p99.9", "max"), rows)
    print(f"during a restart the loop's thread waited {waited:.0f} ms for a processor that the servers had")
    print(
        f"memory at 1,000 targets: {memory['rss_mib']:.1f} MiB; "
        f"after they returned {memory['rss_after_returns_mib']:.1f} MiB; "
        f"with load histories of a day {memory['rss_day_mib']:.1f} MiB"
    )
    print(f"back after a restart of all servers: {median(back):.1f} s, {CONNECTS_PER_SECOND} connects/s")
    steady, returning, alone = (turns[name] for name in turns)
    return {
        "ours": rounded(median([v[0] for v in large])),
        "peer": rounded(median([v[0] for v in small])),
        "unit": "us of CPU per target and poll",
        "ratio": rounded(median(ratios)),
        "spread": spread(ratios),
        **{name: rounded(value) for name, value in memory.items()},
        "core_share": rounded(median([v[1] for v in large])),
        "longest_turn_p999_ms": rounded(max(steady["p999_us"], returning["p999_us"]) / 1000),
        "longest_turn_p999_steady_ms": rounded(steady["p999_us"] / 1000),
        "longest_turn_p999_own_ms": rounded(alone["p999_us"] / 1000) if alone else None,
    }
