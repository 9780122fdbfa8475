#!/usr/bin/env python3
"""Write README's performance section and the goals in bench/README.md from the latest run in bench/runs; with --check, fail if
they differ."""

import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
BEGIN = "<!-- Figures: written by scripts/bench-readme.py from {run}; do not edit. -->"
END = "<!-- End of figures. -->"
RIG = ROOT / "bench/README.md"


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def path_table(results):
    rows = [
        "| packets | flows | ns a packet: least, median | Mpps a core | in 2 MiB pages | harness moved |",
        "|---|---|---|---|---|---|",
    ]
    for r in results:
        what = r["scenario"] + (", IPv6" if r["ipv6"] else "") + (", tagged" if r["vlan"] else "")
        what += f", {r['services']} services" if r["services"] > 1 else ""
        what += ", zipf" if r["skew"] == "zipf" else ""
        if r["attack"]:
            what += f", under attack: {r['attack']}"
        moved = (r["null_moved"] - 1) * 100
        rows.append(
            f"| {what} | {r['flows']:,} | {r['ns_per_packet_min']:.1f}, {r['ns_per_packet_median']:.1f} "
            f"| {r['mpps_per_core']:.1f} | {r['huge_page_bytes'] >> 20:,} MiB | {moved:.0f} % |"
        )
    return rows


def tables_table(results):
    rows = ["| operation | ns: least, median |", "|---|---|"]
    return rows + [f"| {r['operation']} | {r['ns_min']:,.1f}, {r['ns_median']:,.1f} |" for r in results]


def spread(ratios):
    return f"{ratios[1]:.2f} ({ratios[0]:.2f} to {ratios[2]:.2f})" if ratios else ""


def veth_table(report):
    rows = [
        "| services | traffic | peer | Mpps | without loss | Sluice over it: median (least to most) | its rate over that with few services |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in report["rows"]:
        free = f"{r['loss_free'] / 1e6:.3f}" if r["loss_free"] is not None else ""
        over, flat = spread(r["sluice_over_this"]), spread(r.get("over_first_services"))
        rows.append(
            f"| {r['services']:,} | {r['traffic']} | {r['peer']} | {r['saturated_median'] / 1e6:.3f} | {free} | {over} | {flat} |"
        )
    return rows


def soaks(run):
    """Services, traffic, seconds, packets, lost, milliseconds without a core: Sluice at half of its rate over virtual cables."""
    rows = [row for report in lines(run / "soak.jsonl") for row in report["rows"] if row["soak"]]
    away = lambda row: row.get("soak_counts", {}).get("cpu1 taken by the hypervisor, ms", 0)
    found = [(row["services"], row["traffic"], *row["soak"], away(row)) for row in rows]
    return sorted(found, key=lambda soak: (soak[1], soak[0]))


def memory(run):
    """Sentences on what processes had of memory at most."""
    text = []
    if (run / "memory.json").exists():
        m = json.loads((run / "memory.json").read_text())
        peaks = ", ".join(f"`{name}` {size / 2**20:,.0f} MiB" for name, size in m["peaks"])
        text += [f"with {m['flows']:,} live flows and {m['services']:,} services (`sluice-bench memory`) {peaks}"]
    said = (run / "scenarios.txt").read_text() if (run / "scenarios.txt").exists() else ""
    if found := re.search(r"memory at most: dataplane (\d+) MiB, control (\d+) MiB", said):
        text += [
            "when 10,000 services of 10 backends are replaced by as many others (`scripts/e2e/run.sh scale`) "
            f"`sluice-control` {found[2]} MiB, `sluiced` {found[1]} MiB"
        ]
    return text


def section(run):
    path = lines(run / "path.jsonl")
    machine = path[0]["machine"]
    text = [
        BEGIN.format(run=run.relative_to(ROOT)),
        "",
        f"On {machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, commit {machine['commit']}, a shared virtual "
        f"machine with a load of {machine['load']} when this began.",
        "",
        *((run / "note.md").read_text().strip().splitlines() if (run / "note.md").exists() else []),
        "",
        "In process, bursts of 64, without the harness (`sluice-bench path`):",
        "",
        *path_table(path),
    ]
    veth = run / "veth.json"
    if veth.exists() and veth.stat().st_size:
        report = json.loads(veth.read_text())
        text += ["", f"Over virtual cables (`sluice-bench veth`), {report['split']}:", "", *veth_table(report)]
    apart = run / "apart.json"
    if apart.exists() and apart.stat().st_size:
        report = json.loads(apart.read_text())
        text += ["", f"The same with services whose addresses lie {report['apart']} apart, as 10,000 that a cluster draws from a /12:", ""]
        text += veth_table(report)
    if soaks(run):
        text += ["", "At half of its rate, and for how long the hypervisor had the worker's core meanwhile:", ""]
        text += ["| services | traffic | seconds | packets | lost | core away, ms |", "|---|---|---|---|---|---|"]
        text += [f"| {n:,} | {traffic} | {s:.0f} | {sent:,} | {lost:,} | {away} |" for n, traffic, s, sent, lost, away in soaks(run)]
    if memory(run):
        text += ["", f"Memory of the processes at most: {'; '.join(memory(run))}."]
    text += ["", "<details><summary>Tables (<code>sluice-bench tables</code>)</summary>", ""]
    text += [*tables_table(lines(run / "tables.jsonl")), "", "</details>", ""]
    counts = [line for line in (run / "instructions.txt").read_text().splitlines() if not line.startswith("#")]
    listed = ", ".join(f"{name} {float(count):.0f}" for name, count in (line.split() for line in counts))
    text += [f"Instructions a packet (`scripts/count.sh`): {listed}.", "", END]
    return "\n".join(text)


class Run:
    """What a run has measured, by the names under which it says so."""

    def __init__(self, run):
        self.paths = lines(run / "path.jsonl")
        self.tables = {r["operation"]: r["ns_median"] for r in lines(run / "tables.jsonl")}
        said = run / "scenarios.txt"
        self.said = said.read_text() if said.exists() else ""

    def path(self, scenario, flows, key="ns_per_packet_median", **what):
        plain = dict(scenario=scenario, flows=flows, ipv6=False, vlan=False, services=1, skew="uniform", attack=None) | what
        return next((r[key] for r in self.paths if all(r[k] == v for k, v in plain.items())), None)

    def table(self, *operations):
        figures = [self.tables.get(operation) for operation in operations]
        return None if None in figures else sum(figures)

    def scenario(self, pattern):
        found = re.search(pattern, self.said)
        return float(found[1]) if found else None


def goals(run):
    """Operation, goal, best known (None: nobody says), whose that is, ours, command."""
    ns, tables, path = Run(run), "`tables`", "`path`"
    peers = [(10_000, 16, 58, "VPP cnat"), (1_000_000, 26, 192, "VPP cnat"), (10_000_000, 32, 350, "Katran")]
    yield "parse and validate, IPv4 TCP (ours with the hash of its key)", 5, 4.8, "VPP", ns.table("classify (read, check, hash), IPv4 TCP"), tables
    yield "keyed hash of a key, v4", 1.5, 2.2, "crc32", ns.table("hash of a key, v4, with its places"), tables
    yield "keyed hash of a key, v6", 2.5, None, "", ns.table("hash of a key, v6, with its places"), tables
    for flows, goal in [(65_536, 5), (1_000_000, 12), (10_000_000, 16)]:
        best = 34 if flows == 65_536 else None
        yield f"flow lookup, {flows:,} flows", goal, best, "rte_hash bulk, 393 k", ns.table(f"flow hit, {flows} flows"), tables
    yield "flow miss, 65,536 flows", 10, 16.7, "Cuckoo++", ns.table("flow miss, 65536 flows"), tables
    for flows in [65_536, 1_000_000, 10_000_000]:
        both = ns.table(f"flow insert, {flows} flows, prefetched", f"flow expire, {flows} flows")
        yield f"insert and expire, {flows:,} flows, in bursts", 50, 96, "rte_hash, insert only", both, tables
    v4, v6 = "lpm v4 lookup, 1000000 prefixes, prefetched", "lpm v6 lookup, 200000 prefixes, as in the global table, one by one"
    yield "IPv4 identity, 1M prefixes, fetched ahead", 6, 4.2, "Poptrie", ns.table(v4), tables
    yield "IPv6 identity, 200 k prefixes", 12, 5.2, "rte_fib6, small", ns.table(v6), tables
    policy = "policy decision, 64 k entries, 512 classes, one class, identities fetched"
    yield "policy decision, one class, 64 k entries, identities known", 10, None, "", ns.table(policy), tables
    for what, services, goal in [("hot", 1, 4), ("512 rings", 512, 12)]:
        picked = ns.table(f"maglev pick, {services} services, prefetched")
        yield f"Maglev pick, {what}, service known, slot fetched ahead", goal, None, "", picked, tables
    built = ns.table("maglev build, 65521 slots, 1000 backends of one weight")
    yield "Maglev ring, 65521 slots, 1000 backends", 1.8e6, 1.8e6, "Maglev", built, tables
    yield "rewrite to a backend, with checksums", 2, 3.5, "VPP", ns.table("rewrite to a backend, checksums with it"), tables
    for flows, goal, best, whose in peers:
        yield f"**gateway, established, {flows:,} flows**", goal, best, whose, ns.path("gateway", flows), path
    new = "`path --scenario new`"
    yield "**gateway, new connection**, 10,000 flows", 100, 555, "VPP cnat", ns.path("new", 10_000), new
    # A quarter more.
    for option, what in [("ipv6", "IPv6"), ("vlan", "tagged")]:
        for flows, goal, _, _ in peers:
            ours = ns.path("gateway", flows, **{option: True})
            yield f"gateway, established, {what}, {flows:,} flows", goal * 1.25, None, "", ours, f"`path --{option}`"
        ours = ns.path("new", 10_000, **{option: True})
        yield f"gateway, new connection, {what}, 10,000 flows", 125, None, "", ours, f"`path --scenario new --{option}`"
    longest = ns.table("turn of expiry, 1000000 flows, the longest")
    yield "longest turn of expiry, 1M flows run out at once", 50_000, None, "", longest, tables
    yield "bytes a connection, both directions, 10M flows", 128, 121, "Katran, one way", ns.path("gateway", 10_000_000, "bytes_per_flow"), path
    yield "allocations a packet", 0, None, "", ns.path("gateway", 10_000, "allocations_per_packet"), path
    scale, publish, names = ("`scripts/e2e/run.sh " + name + "`" for name in ("scale", "publish", "names"))
    replaced = ns.scenario(r"replaced whole .* ([0-9.]+) ms in the dataplane")
    yield "10,000 services replaced, ms", 50, 510, "iptables", replaced, scale
    cold = ns.scenario(r"cold start: .* came back ([0-9.]+) ms")
    yield "first packet after a cold start with 10,000 services, ms", 1000, None, "", cold, scale
    idle = ns.scenario(r"idle in sleep mode: the dataplane takes ([0-9.]+) %")
    yield "an idle gateway in sleep mode, % of a core", 1, None, "", idle, scale
    added = ns.scenario(r"one pod added: .* ([0-9.]+) ms at p99")
    yield "one pod added, live on every worker at p99, ms", 5, None, "", added, publish
    held = ns.scenario(r"DNS answers held: .*p99 at most ([0-9.]+)")
    yield "DNS answer held at p99, µs", 200, 100_000, "Cilium", held, names
    rings = ns.table("ring access, all four rings, bursts of 64")
    yield "ring access, all four rings", 2, 5, "xsk-rs, estimated", rings, tables
    for services, traffic, seconds, sent, lost, _ in soaks(run):
        what = f"packets lost of {sent:,} in {seconds:.0f} s at half of the rate, {traffic} flows, services: {services:,}"
        yield what, 0, None, "", lost, "`veth --two-cores --ring 65536 --soak 60`"


def figure(value):
    return "not measured" if value is None else f"{value:,.1f}".removesuffix(".0")


def goals_table(run):
    rows = [
        BEGIN.format(run=run.relative_to(ROOT)),
        "",
        "| operation, in ns unless it says otherwise | goal | ours | held | best known | ours is | command |",
        "|---|---|---|---|---|---|---|",
    ]
    for what, goal, best, whose, ours, command in goals(run):
        held = "" if ours is None else "yes" if ours <= goal else "**no**"
        ratio = f"{ours / best:.2f} of it" if ours is not None and best else ""
        known = f"{figure(best)}, {whose}" if best else ""
        rows.append(f"| {what} | {figure(goal)} | {figure(ours)} | {held} | {known} | {ratio} | {command} |")
    return "\n".join([*rows, "", END])


def main():
    run = max(path for path in (ROOT / "bench/runs").iterdir() if (path / "path.jsonl").exists())
    for file, fresh in [(README, section(run)), (RIG, goals_table(run))]:
        text = file.read_text()
        begin, end = text.index("<!-- Figures:"), text.index(END) + len(END)
        fresh = text[:begin] + fresh + text[end:]
        if "--check" in sys.argv and fresh != text:
            sys.exit(f"{file}: its figures are not those of the latest run: python3 scripts/bench-readme.py")
        file.write_text(fresh)


if __name__ == "__main__":
    main()
