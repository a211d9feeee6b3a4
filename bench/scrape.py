"""A scrape of 120,000 series."""

import socket
import subprocess
import time

from benchmarks import Poller, Servers, Unmeasured, median, quantile, resident_mib, rounded, shop_tables, spread

TITLE = "/metrics with 120,000 series, against writev() of the same bytes"
GOAL = "<= 3 x the time of writev(), longest turn < 10 ms"
SERIES, SERVERS = 120_000, 4


class Reader:
    """A keep-alive HTTP client that does nothing but receive."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.buffer = bytearray(1 << 20)

    def get(self, keep=None):
        """Seconds from the request to the last byte, and the length of the body."""
        start = time.perf_counter()
        self.socket.sendall(b"GET /metrics HTTP/1.1\r\nHost: bench\r\n\r\n")
        head = b""
        while b"\r\n\r\n" not in head:
            got = self.socket.recv(4096)
            if not got:
                raise Unmeasured("the connection ended early")
            head += got
        head, body = head.split(b"\r\n\r\n", 1)
        length = next(
            int(v)
            for k, v in (line.split(b":", 1) for line in head.split(b"\r\n")[1:])
            if k.lower() == b"content-length"
        )
        if not head.startswith(b"HTTP/1.1 200"):
            raise Unmeasured(head.decode(errors="replace"))
        if keep is not None:
            keep += body
        left = length - len(body)
        while left > 0:
            n = self.socket.recv_into(self.buffer, min(left, len(self.buffer)))
            if n == 0:
                raise Unmeasured("the connection ended early")
            if keep is not None:
                keep += self.buffer[:n]
            left -= n
        return time.perf_counter() - start, length


def count_series(body):
    return sum(1 for line in body.splitlines() if line and not line.startswith(b"#"))


def poller_of(bench, servers, count):
    targets = [(f"s{i}", servers.servers[i % SERVERS], "postgres") for i in range(count)]
    poller = Poller(bench, "default", targets)
    poller.wait_up()
    return poller


def series_of(poller):
    body = bytearray()
    Reader(poller.port).get(keep=body)
    return count_series(body), body


def fleet_of_series(bench, servers):
    """A poller with so many targets that it has SERIES series."""
    poller = poller_of(bench, servers, SERVERS)
    time.sleep(2)
    each = series_of(poller)[0] // SERVERS
    poller.stop()
    count = SERIES * 103 // 100 // each  # some of `each` belong to the process
    bench.note(f"{count} targets with {each} series each")
    poller = poller_of(bench, servers, count)
    deadline = time.monotonic() + 90
    while True:
        found, body = series_of(poller)
        if found >= SERIES:
            return poller, found, body
        if time.monotonic() > deadline:
            raise Unmeasured(f"{found} series after 90 s")
        time.sleep(1)


def floor_server(bench, body):
    path = bench.directory / "body"
    path.write_bytes(body)
    process = subprocess.Popen([bench.program("bench_writev"), path], stdout=subprocess.PIPE, text=True)
    bench.stack.callback(process.wait)
    bench.stack.callback(process.kill)
    return int(process.stdout.readline())


def measure(bench):
    rounds = 100 if bench.full else 30
    servers = Servers(bench, SERVERS, shop_tables, max_connections="120")
    poller, found, body = fleet_of_series(bench, servers)
    ours, floor = Reader(poller.port), Reader(floor_server(bench, body))
    for _ in range(2):  # warm
        ours.get()
        floor.get()
    poller.ask("reset")
    mine, other, lengths = [], [], []
    for _ in range(rounds):
        time.sleep(0.6)  # a scrape is shared for half a second: each of these is put together anew
        seconds, length = ours.get()
        mine.append(seconds * 1000)
        lengths.append(length)
        other.append(floor.get()[0] * 1000)
        bench.sample_load()
    stats = {"as scheduled": poller.ask("stats")}
    if poller.first_in_line(True):
        poller.ask("reset")
        for _ in range(rounds // 2):
            time.sleep(0.6)
            ours.get()
        stats["loop first in line"] = poller.ask("stats")
    return report(bench, mine, other, poller, found, lengths, len(body), stats)


def report(bench, mine, other, poller, found, lengths, floor_length, stats):
    rss = resident_mib(poller.pid)
    # how many times longer than the floor; "ratio" below is its inverse, more than 1 is better
    times = [m / o for m, o in zip(mine, other, strict=True)]
    rows = [
        (name, f"{median(v):.1f}", f"{min(v):.1f}", f"{quantile(v, 0.9):.1f}", f"{max(v):.1f}")
        for name, v in (("ours", mine), ("writev", other))
    ]
    rows.append(("ours / writev", *(f"{v:.2f}" for v in (median(times), min(times), quantile(times, 0.9), max(times)))))
    bench.table(("ms to the last byte", "median", "min", "p90", "max"), rows)
    turns = [(k, *(f"{t[x] / 1000:.2f}" for x in ("p50_us", "p99_us", "p999_us", "max_us"))) for k, t in stats.items()]
    bench.table(("turns of the loop, ms", "p50", "p99", "p99.9", "max"), turns)
    print(f"{found} series of {poller.count} targets, {len(mine)} scrapes each; memory {rss:.0f} MiB")
    print(f"{median(lengths) / 1e6:.1f} MB, by writev {floor_length / 1e6:.1f} MB")
    usual, alone = stats["as scheduled"], stats.get("loop first in line")
    return {
        "ours": rounded(median(mine)),
        "peer": rounded(median(other)),
        "unit": "ms",
        "ratio": rounded(1 / median(times)),
        "spread": spread([1 / t for t in times]),
        "times_writev": rounded(median(times)),
        "series": found,
        "rss_mib": rounded(rss),
        "longest_turn_p999_ms": rounded(usual["p999_us"] / 1000),
        "longest_turn_max_ms": rounded(usual["max_us"] / 1000),
        "longest_turn_max_own_ms": rounded(alone["max_us"] / 1000) if alone else None,
    }
