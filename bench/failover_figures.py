"""What faults did to clusters, over the rounds: kept and laid out alike by both benchmarks of failovers.

Figures are found by (cluster's name, fault)."""

from dataclasses import dataclass, field

from benchmarks import Unmeasured, median, rounded, spread


@dataclass
class Figures:
    """One fault of one cluster. A benchmark's own has cells(gaps), and what it adds to as_json()."""

    seen: list = field(default_factory=list)
    failures: list = field(default_factory=list)

    def gaps(self):
        return [s.gap_s for s in self.seen]

    def row(self):
        return self.cells(self.gaps()) if self.seen else ("-",) * 7

    def lost_of_all(self):
        return f"{sum(s.lost for s in self.seen)} of {sum(s.acknowledged for s in self.seen)}"

    def as_json(self):
        return {
            "runs": len(self.seen),
            "p50_s": rounded(median(self.gaps())),
            "lost": sum(s.lost for s in self.seen),
            "acknowledged": sum(s.acknowledged for s in self.seen),
        }


def attempt(bench, found, what, one, *failures):
    """one() is what a fault did; it may fail in these ways."""
    try:
        found.seen.append(one())
        bench.note(f"{what}: {found.seen[-1]}")
    except failures as error:
        found.failures.append(f"{what}: {error}")
        bench.note(found.failures[-1])
    bench.sample_load()


def rows_of(figures, faults):
    names = dict.fromkeys(name for name, _ in figures)
    return [
        (fault, name, *figures[name, fault].row()) for fault in faults for name in names if (name, fault) in figures
    ]


def failures_of(figures):
    return [text for f in figures.values() for text in f.failures]


def result_of(figures, gaps, theirs, unit):
    """The members of the JSON line: our gaps by one fault against the peer's median, None without one."""
    if not gaps:
        raise Unmeasured("ours was not measured by the fault that counts")
    ratios = [theirs / gap for gap in gaps] if theirs else []
    return {
        "ours": rounded(median(gaps)),
        "peer": rounded(theirs) if theirs else None,
        "unit": unit,
        "ratio": rounded(median(ratios)) if ratios else None,
        "spread": spread(ratios) if ratios else None,
        "lost": sum(s.lost for (name, _), f in figures.items() if name == "ours" for s in f.seen),
        "faults": {
            name: {fault: f.as_json() for (of, fault), f in figures.items() if of == name and f.seen}
            for name in dict.fromkeys(name for name, _ in figures)
        },
        "failures": failures_of(figures),
    }
