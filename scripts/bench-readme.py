#!/usr/bin/env python3
"""Write README's performance section from the latest run in bench/runs; with --check, fail if it differs."""

import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
BEGIN = "<!-- Figures: written by scripts/bench-readme.py from {run}; do not edit. -->"
END = "<!-- End of figures. -->"


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def path_table(results):
    rows = ["| packets | flows | ns a packet: least, median | Mpps a core | harness moved |", "|---|---|---|---|---|"]
    for r in results:
        what = r["scenario"] + (", IPv6" if r["ipv6"] else "") + (", tagged" if r["vlan"] else "")
        what += f", {r['services']} services" if r["services"] > 1 else ""
        what += ", zipf" if r["skew"] == "zipf" else ""
        if r["attack"]:
            what += f", under attack: {r['attack']}"
        moved = (r["null_moved"] - 1) * 100
        rows.append(
            f"| {what} | {r['flows']:,} | {r['ns_per_packet_min']:.1f}, {r['ns_per_packet_median']:.1f} "
            f"| {r['mpps_per_core']:.1f} | {moved:.0f} % |"
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
    for r in report["rows"]:
        if r["soak"]:
            seconds, sent, lost = r["soak"]
            rows.append("")
            rows.append(
                f"At half of its rate with {r['services']:,} services, {r['traffic']} flows: {lost:,} of {sent:,} packets "
                f"lost in {seconds:.0f} s."
            )
    return rows


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
    text += ["", "<details><summary>Tables (<code>sluice-bench tables</code>)</summary>", ""]
    text += [*tables_table(lines(run / "tables.jsonl")), "", "</details>", ""]
    counts = [line for line in (run / "instructions.txt").read_text().splitlines() if not line.startswith("#")]
    listed = ", ".join(f"{name} {float(count):.0f}" for name, count in (line.split() for line in counts))
    text += [f"Instructions a packet (`scripts/count.sh`): {listed}.", "", END]
    return "\n".join(text)


def main():
    runs = sorted(path for path in (ROOT / "bench/runs").iterdir() if (path / "path.jsonl").exists())
    readme = README.read_text()
    begin, end = readme.index("<!-- Figures:"), readme.index(END) + len(END)
    fresh = readme[:begin] + section(runs[-1]) + readme[end:]
    if "--check" in sys.argv and fresh != readme:
        sys.exit("README.md's figures are not those of the latest run: python3 scripts/bench-readme.py")
    README.write_text(fresh)


if __name__ == "__main__":
    main()
