"""What keeping shards of three instances costs while nothing happens: each agent, and the manager of them all."""

import time
from pathlib import Path

from benchmarks import Unmeasured, median, process_cpu_ns, rounded, spread
from failover_clusters import FIRST_PORT, stat_of, wait

TITLE = "agents and their manager while 10 shards (100 with --full) of three instances stream and nobody writes"
GOAL = "each agent RSS <= 16 MiB, CPU <= 0.5 % of a core; a manager with 300 agents CPU <= 5 % of a core"
LIMITS = {"agent_rss_mib": 16.0, "agent_cpu_percent": 0.5, "manager_cpu_percent": 5.0}
INSTANCES, AGENTS = 3, 300
WINDOW_S, WINDOWS, SETTLE_S = 10, 7, 30
READY_S = 15  # for a shard


def memory_mib(pid):
    """RSS and PSS: what it maps; and the same with what it shares with others divided among them."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        found[name.rstrip(":")] = int(value) / 1024
    return found["Rss"], found["Pss"]


def agent_of(herd, name):
    """The agent, whose child the server is; its watchdog is another process."""
    return int(stat_of(herd.postmaster_pid(name))[1])


def watchdog_of(herd, name):
    return next(pid for pid in herd.agent_pids(name) if pid != agent_of(herd, name))


def percent_of_core(pids, windows, bench):
    """For each process its share of a core, window by window: {pid: [...]}."""
    used = {pid: [] for pid in pids}
    for _ in range(windows):
        before = {pid: (process_cpu_ns(pid), time.monotonic()) for pid in pids}
        time.sleep(WINDOW_S)
        for pid, (cpu, since) in before.items():
            used[pid].append((process_cpu_ns(pid) - cpu) / 1e7 / (time.monotonic() - since))
        bench.sample_load()
    return used


def make_herd(bench):
    from test_ha_manager import Herd

    herd = Herd(bench.program("shardherd"), bench.directory / "ours")
    herd.settings += [f"runtime.first_port={FIRST_PORT}", "discovery.interval=5s"]  # the default; the tests' is 1 s
    bench.stack.callback(herd.clean_up)
    try:
        herd.start()
    except AssertionError as error:
        raise Unmeasured(f"the manager: {error}") from error
    return herd


def all_stream(herd, shards):
    members = [i["member"] for i in herd.fetch("/v1/instances")["items"]]
    streaming = sum(bool(m and m["streams"]) for m in members)
    return len(members) == shards * INSTANCES and streaming == shards * (INSTANCES - 1)


def make_shards(bench, herd, shards):
    bench.note(f"making {shards} shards of {INSTANCES} instances")
    start = time.monotonic()
    herd.make(shards=shards, instances=INSTANCES, wait=False)
    wait(lambda: all_stream(herd, shards), 60 + shards * READY_S, f"{shards} shards whose standbys stream")
    bench.note(f"all stream after {time.monotonic() - start:.0f} s")
    time.sleep(SETTLE_S)


def measure(bench):
    shards = 100 if bench.full else 10
    herd = make_herd(bench)
    manager = herd.process.pid
    time.sleep(SETTLE_S / 3)
    alone = percent_of_core([manager], 2, bench)[manager]
    make_shards(bench, herd, shards)
    names = sorted(i["name"] for i in herd.instances("s1"))
    agents = {name: agent_of(herd, name) for name in names}
    dogs = {name: watchdog_of(herd, name) for name in names}
    used = percent_of_core([manager, *agents.values(), *dogs.values()], WINDOWS, bench)
    if not all_stream(herd, shards):
        raise Unmeasured("something happened meanwhile: not all standbys stream")
    figures = {name: (*memory_mib(pid), sum(used[pid]) / WINDOWS) for name, pid in agents.items()}
    rows = [(name, f"{rss:.1f}", f"{pss:.1f}", f"{cpu:.2f}") for name, (rss, pss, cpu) in figures.items()]
    rows += [
        (f"watchdog of {name}", *(f"{m:.1f}" for m in memory_mib(pid)), f"{sum(used[pid]) / WINDOWS:.2f}")
        for name, pid in dogs.items()
    ]
    each = (sum(used[manager]) / WINDOWS - sum(alone) / len(alone)) / (shards * INSTANCES)
    at_300 = sum(alone) / len(alone) + each * AGENTS
    bench.table((f"{WINDOWS * WINDOW_S} s", "RSS, MiB", "PSS, MiB", "CPU, % of a core"), [
        *rows, ("manager, no shards", "", "", f"{sum(alone) / len(alone):.2f}"),
        (f"manager, {shards * INSTANCES} agents", *(f"{m:.1f}" for m in memory_mib(manager)),
         f"{sum(used[manager]) / WINDOWS:.2f}"),
    ])  # fmt: skip
    if shards * INSTANCES < AGENTS:
        print(f"{AGENTS} agents, by that: {at_300:.2f} % of a core (--full has so many)")
    return result_of(figures, used[manager], at_300, shards)


def result_of(figures, manager, at_300, shards):
    """ratio: the limit by the figure that comes nearest to it, so that 1 and more is within all of them."""
    found = {
        "agent_rss_mib": max(rss for rss, _, _ in figures.values()),
        "agent_cpu_percent": max(cpu for _, _, cpu in figures.values()),
        "manager_cpu_percent": at_300,
    }
    ratios = {name: rounded(LIMITS[name] / value) for name, value in found.items()}
    return {
        "ours": rounded(found["agent_rss_mib"]),
        "unit": "MiB RSS of the largest agent",
        "ratio": min(ratios.values()),
        "ratios": ratios,
        "limits": LIMITS,
        "found": {name: rounded(value) for name, value in found.items()},
        "agents": {n: {"rss_mib": rounded(r), "pss_mib": rounded(p), "cpu_percent": rounded(c)}
                   for n, (r, p, c) in figures.items()},
        "manager_measured": {"agents": shards * INSTANCES, "cpu_percent": rounded(median(manager)),
                             "spread": spread(manager)},
    }  # fmt: skip
