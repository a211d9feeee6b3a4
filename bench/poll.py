"""Polling 20 PostgreSQL servers with every default family each second."""

import http.client
import os
import subprocess
import threading
import time
import urllib.request

from benchmarks import (
    PASSWORD,
    Poller,
    Servers,
    Unmeasured,
    median,
    process_cpu_ns,
    resident_mib,
    rounded,
    shop_tables,
    spread,
)
from conftest import free_port, wait_until

TITLE = "20 PostgreSQL servers polled and scraped each second, against prometheus-postgres-exporter (one per server)"
GOAL = ">= 20 x less client CPU per instance and poll, server CPU <= 1/2"
SERVERS = 20


class Scraper:
    """GETs each port's /metrics each second, spread over the second, while it runs."""

    def __init__(self, ports):
        self.ports = ports
        self.ok = self.failed = 0
        self.lock = threading.Lock()
        self.ending = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(i,), daemon=True) for i in range(len(ports))]
        self.start = time.monotonic()
        for thread in self.threads:
            thread.start()

    def run(self, index):
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[index], timeout=10)
        due = self.start + index / len(self.ports)
        while not self.ending.wait(max(0, due - time.monotonic())):
            due += 1
            try:
                connection.request("GET", "/metrics")
                answer = connection.getresponse()
                answer.read()
                good = answer.status == 200
            except (OSError, http.client.HTTPException):
                connection.close()
                good = False
            with self.lock:
                self.ok += good
                self.failed += not good
        connection.close()

    def stop(self):
        self.ending.set()
        for thread in self.threads:
            thread.join()


class Exporters:
    def __init__(self, bench, servers):
        self.ports = []
        self.processes = []
        program = bench.tool("prometheus-postgres-exporter")
        for server in servers:
            port = free_port()
            name = f"postgresql://postgres:{PASSWORD}@{server.host}:{server.port}/postgres?sslmode=disable"
            argv = [program, f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
            env = {**os.environ, "DATA_SOURCE_NAME": name}
            process = subprocess.Popen(argv, env=env, stderr=subprocess.DEVNULL)
            bench.stack.callback(process.wait)
            bench.stack.callback(process.kill)
            self.ports.append(port)
            self.processes.append(process)
        for port in self.ports:
            wait_until(lambda port=port: series(port), timeout=20, what="an exporter to answer", interval=0.1)

    def cpu_ns(self):
        return sum(process_cpu_ns(process.pid) for process in self.processes)


def series(port):
    """Series by family, {} when there is no answer."""
    found = {}
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                if line and line[0] != "#":
                    name = line.split("{")[0].split(" ")[0]
                    found[name] = found.get(name, 0) + 1
    except OSError:
        pass
    return found


def measured(cpu_ns, servers, scraper_ports, settle, seconds, per_scrape):
    """Client and server CPU in microseconds per instance and poll."""
    scraper = Scraper(scraper_ports)
    time.sleep(settle)
    ok, failed = scraper.ok, scraper.failed
    start, client, server = time.monotonic(), cpu_ns(), servers.cpu_ns()
    time.sleep(seconds)
    client, server, passed = cpu_ns() - client, servers.cpu_ns() - server, time.monotonic() - start
    scrapes, failures = scraper.ok - ok, scraper.failed - failed
    scraper.stop()
    if failures or scrapes == 0:
        raise Unmeasured(f"{failures} of {scrapes + failures} scrapes failed")
    polls = scrapes * per_scrape
    return client / polls / 1000, server / polls / 1000, passed


def measure_ours(bench, servers, groups, settle, seconds):
    poller = Poller(bench, groups, [(f"s{i}", s, "postgres") for i, s in enumerate(servers)])
    poller.wait_up()
    result = measured(lambda: process_cpu_ns(poller.pid), servers, [poller.port], settle, seconds, SERVERS)
    stats = poller.ask("stats")
    if stats["polls_failed"]:
        raise Unmeasured(f"{stats['polls_failed']} polls failed")
    result = (*result, resident_mib(poller.pid), series(poller.port), stats["p999_us"] / 1000)
    poller.stop()
    return result


def missing_families(ours, theirs):
    return sorted(name for name in theirs if name.startswith("pg_") and name not in ours)


def measure(bench):
    rounds, seconds, settle = (10, 15, 4) if bench.full else (5, 6, 3)
    servers = Servers(bench, SERVERS, shop_tables)
    exporters = Exporters(bench, servers)
    start, before = time.monotonic(), servers.cpu_ns()
    time.sleep(seconds)
    idle = (servers.cpu_ns() - before) / 1000 / SERVERS / (time.monotonic() - start)
    every, usual, theirs = [], [], []
    for i in range(rounds):
        bench.note(f"round {i + 1} of {rounds}")
        every.append(measure_ours(bench, servers, "all", settle, seconds))
        theirs.append(measured(exporters.cpu_ns, servers, exporters.ports, settle, seconds, 1))
        usual.append(measure_ours(bench, servers, "default", settle, seconds))
        bench.sample_load()
    families = series(exporters.ports[0])
    missing = missing_families(every[-1][4], families)
    result = report(bench, every, usual, theirs, idle)
    count = {"ours": sum(every[-1][4].values()) // SERVERS, "peer": sum(families.values())}
    memory = median([resident_mib(process.pid) for process in exporters.processes])
    print(f"memory: ours {every[-1][3]:.1f} MiB for all, exporter {memory:.1f} MiB for each server")
    print(f"series per server: ours {count['ours']}, exporter {count['peer']}")
    print(f"its pg_ families whose names ours lacks: {', '.join(missing) or 'none'}")
    return {**result, "rss_mib": rounded(every[-1][3]), "peer_rss_mib": rounded(memory * SERVERS)}


def report(bench, every, usual, theirs, idle):
    rows, ratios = [], {}
    for what, column in (("client", 0), ("servers", 1)):
        other = [t[column] for t in theirs]
        rows.append((f"{what}: exporter", f"{median(other):.0f}", f"{min(other):.0f}..{max(other):.0f}", "", ""))
        for mode, ours in (("every family each second", every), ("our periods", usual)):
            mine = [o[column] for o in ours]
            times = [t / m for m, t in zip(mine, other, strict=True)]
            ratios[what, mode] = times
            rows.append((f"{what}: ours, {mode}", f"{median(mine):.0f}", f"{min(mine):.0f}..{max(mine):.0f}",
                         f"{median(times):.1f}", f"{min(times):.1f}..{max(times):.1f}"))  # fmt: skip
    bench.table(("CPU, us per instance and poll", "median", "spread", "exporter / ours", "spread"), rows)
    print(
        "our periods: load and replication 1 s, activity 5 s, sizes 60 s, settings 300 s; each scrape has all families"
    )
    print(f"servers without any poll: {idle:.0f} us/s each (contained in the figures above)")
    p999 = max(o[5] for o in every + usual)
    print(f"longest turn of the loop, p99.9: {p999:.1f} ms")
    client, server = ratios["client", "every family each second"], ratios["servers", "every family each second"]
    return {
        "ours": rounded(median([o[0] for o in every])),
        "peer": rounded(median([t[0] for t in theirs])),
        "unit": "us of client CPU per instance and poll",
        "ratio": rounded(median(client)),
        "spread": spread(client),
        "server_ratio": rounded(median(server)),
        "ours_at_our_periods": rounded(median([o[0] for o in usual])),
        "ratio_at_our_periods": rounded(median(ratios["client", "our periods"])),
        "server_ratio_at_our_periods": rounded(median(ratios["servers", "our periods"])),
        "longest_turn_p999_ms": rounded(p999),
    }
