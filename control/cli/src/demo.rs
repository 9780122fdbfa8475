//! `sluice demo`: a lab, the gateway in it on AF_XDP, real traffic, and what came of it; gone again within a minute.

pub mod backend;
mod lab;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::args::Demo;
use crate::client::Client;
use crate::output::line;
use lab::{Host, Lab, Segment};

const PICTURE: &str = "
   c1 customer  192.0.2.11 ──┐                                      ┌── b1..b4  10.244.0.11-14  app=web
                             ├── eth0 ─ Sluice on AF_XDP ─ eth1 ──┤
   c2 stranger  192.0.2.12 ──┘     203.0.113.80:80 = shop/web       └── dns     10.244.0.53     app=dns

";

const SEGMENTS: &[Segment] = &[
    Segment {
        name: "outside",
        device: "eth0",
        gateway: ["192.0.2.1/24", "2001:db8:1::1/64"],
        hosts: &[
            Host { name: "c1", addresses: ["192.0.2.11/24", "2001:db8:1::11/64"] },
            Host { name: "c2", addresses: ["192.0.2.12/24", "2001:db8:1::12/64"] },
        ],
    },
    Segment {
        name: "inside",
        device: "eth1",
        gateway: ["10.244.0.1/24", "2001:db8:2::1/64"],
        hosts: &[
            Host { name: "b1", addresses: ["10.244.0.11/24", "2001:db8:2::11/64"] },
            Host { name: "b2", addresses: ["10.244.0.12/24", "2001:db8:2::12/64"] },
            Host { name: "b3", addresses: ["10.244.0.13/24", "2001:db8:2::13/64"] },
            Host { name: "b4", addresses: ["10.244.0.14/24", "2001:db8:2::14/64"] },
            Host { name: "dns", addresses: ["10.244.0.53/24", "2001:db8:2::53/64"] },
        ],
    },
];
const BACKENDS: [&str; 4] = ["b1", "b2", "b3", "b4"];
const SERVICE4: &str = "203.0.113.80";
const SERVICE6: &str = "2001:db8:cafe::80";
/// A service of one backend per client, for iperf3.
const SPEED: &str = "203.0.113.81";
const DNS: &str = "10.244.0.53";

pub fn demo(args: &Demo) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    line(PICTURE)?;
    let mut lab =
        Lab::build(SEGMENTS).context("cannot build the lab (it needs root, ip, ethtool and nsenter)")?;
    let told = tell(&mut lab, args, &stop);
    if told.is_err() && !stop.load(Ordering::Relaxed) {
        show_logs(&lab)?;
    }
    line("\nTearing down.\n")?;
    lab.stop_latest()?;
    drop(lab);
    if stop.load(Ordering::Relaxed) {
        bail!("stopped on request; nothing is left behind");
    }
    told
}

type Step = fn(&Lab, &Client, u8) -> Result<()>;

/// The story, step by step. Every step may be cut short by Ctrl-C.
fn tell(lab: &mut Lab, args: &Demo, stop: &AtomicBool) -> Result<()> {
    start_hosts(lab)?;
    let client = start_gateway(lab, stop)?;
    let steps: [Step; 6] = [capabilities, balance, strangers, names, rates, totals];
    for step in steps {
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        step(lab, &client, args.seconds)?;
    }
    if args.keep {
        line(&format!("\nThe lab stays until Enter. Its socket: --socket {}\n", socket(lab)))?;
        std::io::stdin().read_line(&mut String::new())?;
    }
    Ok(())
}

fn start_hosts(lab: &mut Lab) -> Result<()> {
    let own = std::env::current_exe().context("cannot find this program")?;
    for backend in BACKENDS {
        lab.start(backend, &format!("{backend}-web"), &own, &["demo-backend", backend, "8080"])?;
        lab.start(backend, &format!("{backend}-iperf3"), "iperf3", &["-s", "-p", "5201"])?;
    }
    let pid_file = format!("--pid-file={}", lab.dir.join("dnsmasq.pid").display());
    let arguments = [
        "-k",
        "-C",
        "/dev/null",
        "-h",
        "-R",
        "-u",
        "root",
        &pid_file,
        "--address=/web.shop.example/203.0.113.80",
    ];
    lab.start("dns", "dns", "dnsmasq", &arguments)?;
    Ok(())
}

fn socket(lab: &Lab) -> String {
    lab.dir.join("control.sock").display().to_string()
}

fn start_gateway(lab: &mut Lab, stop: &AtomicBool) -> Result<Client> {
    let objects = lab.dir.join("objects");
    fs::create_dir_all(&objects)?;
    fs::write(objects.join("shop.yaml"), include_str!("demo/objects.yaml"))?;
    let config = lab.dir.join("gateway.yaml");
    fs::write(&config, gateway_yaml(&lab.dir))?;
    let own = std::env::current_exe()?;
    let arguments = ["run", "--config", &config.display().to_string()].map(str::to_owned);
    lab.start("gateway", "gateway", own, &arguments.each_ref().map(String::as_str))?;
    let client = Client::new(Path::new(&socket(lab)));
    for _ in 0..200 {
        if stop.load(Ordering::Relaxed) || client.text("/readyz").is_ok() {
            return Ok(client);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("the gateway was not ready within 20 s")
}

fn gateway_yaml(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "apiVersion: sluice.dev/v1
kind: Gateway
metadata: {{name: demo}}
spec:
  node: demo
  objects: {{files: [{dir}/objects/]}}
  interfaces:
    - {{name: eth0}}
    - {{name: eth1}}
  workers: {{cores: 1}}
  guard: {{prefixes: [10.244.0.0/24, \"2001:db8:2::/64\", 192.0.2.0/24, \"2001:db8:1::/64\"], onFailure: drop}}
  services: {{algorithm: maglev}}
  flows: {{max: 100000, snapshot: {dir}/flows}}
  api: {{socket: {dir}/control.sock, metrics: \"127.0.0.1:9965\"}}
"
    )
}

fn capabilities(_lab: &Lab, client: &Client, _seconds: u8) -> Result<()> {
    let status = client.get("/v1/status")?;
    line("The gateway is up.\n")?;
    for device in status.pointer("/dataplane/devices").and_then(Value::as_array).into_iter().flatten() {
        let text = |at: &str| device.pointer(at).and_then(Value::as_str).unwrap_or("?").to_owned();
        line(&format!(
            "  {}: {} XDP, {}, {} queue(s)\n",
            text("/name"),
            text("/mode"),
            text("/copy"),
            device.pointer("/queues").and_then(Value::as_u64).unwrap_or(0)
        ))?;
    }
    Ok(())
}

/// Forty requests by IPv4 and forty by IPv6: who answered?
fn balance(lab: &Lab, _client: &Client, _seconds: u8) -> Result<()> {
    line("\nc1, a customer, asks the service 40 times over IPv4 and 40 times over IPv6:\n")?;
    for (family, url) in [("IPv4", format!("http://{SERVICE4}/")), ("IPv6", format!("http://[{SERVICE6}]/"))]
    {
        let mut answers: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..40 {
            let output = lab.run("c1", "curl", &["-s", "--max-time", "3", &url])?;
            *answers.entry(String::from_utf8_lossy(&output.stdout).trim().to_owned()).or_default() += 1;
        }
        if let Some(lost) = answers.get("") {
            bail!("{lost} of 40 requests over {family} got no answer");
        }
        let shares: Vec<String> = answers.iter().map(|(name, n)| format!("{name} {n}")).collect();
        line(&format!("  {family}: {}\n", shares.join(", ")))?;
    }
    Ok(())
}

fn strangers(lab: &Lab, client: &Client, _seconds: u8) -> Result<()> {
    line("\nc2, a stranger, tries the same, and then names over TCP, which a rule denies to all:\n")?;
    for url in [format!("http://{SERVICE4}/"), format!("http://{DNS}:53/")] {
        let output = lab.run("c2", "curl", &["-s", "--max-time", "1", &url])?;
        if output.status.success() {
            bail!("{url} answered a stranger");
        }
    }
    std::thread::sleep(Duration::from_millis(300));
    let mut seen = 0;
    client.lines("/v1/events?last=10&verdict=DROPPED", |event| {
        let event: Value = serde_json::from_str(event)?;
        let text = |at: &str| event.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
        let why = match text("/rule_text") {
            rule if rule.is_empty() => String::new(),
            rule => format!(" by {rule}"),
        };
        let (from, to, verdict) = (text("/from"), text("/to"), text("/verdict"));
        line(&format!("  {from} -> {to} {verdict} {}{why}\n", text("/drop_reason_desc")))?;
        seen += 1;
        Ok(seen < 4)
    })?;
    if seen == 0 {
        bail!("the gateway told of no dropped flow");
    }
    Ok(())
}

fn names(lab: &Lab, _client: &Client, _seconds: u8) -> Result<()> {
    let output =
        lab.run("c1", "dig", &["+short", "+time=2", "+tries=2", &format!("@{DNS}"), "web.shop.example"])?;
    let answer = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if answer != SERVICE4 {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("the name web.shop.example did not resolve through the gateway: {answer:?} {}", error.trim());
    }
    line(&format!("\nNames through the gateway: web.shop.example is {answer}\n"))
}

/// One TCP stream through the service, and one stream of small datagrams to a backend by plain routing, as iperf3 sees
/// them at both ends.
fn rates(lab: &Lab, _client: &Client, seconds: u8) -> Result<()> {
    line("\nRates from c1 (copy mode over veth; two hosts and the gateway share this machine):\n")?;
    let tcp = iperf3(lab, SPEED, seconds, &[])?;
    let rate = tcp.pointer("/end/sum_received/bits_per_second").and_then(Value::as_f64).unwrap_or(0.0);
    let again = tcp.pointer("/end/sum_sent/retransmits").and_then(Value::as_u64).unwrap_or(0);
    line(&format!("  TCP through the service: {:.2} Gbit/s, {again} retransmissions\n", rate / 1e9))?;
    let udp = iperf3(lab, "10.244.0.11", seconds, &["-u", "-b", "30M", "-l", "64"])?;
    let number = |at: &str| udp.pointer(at).and_then(Value::as_f64).unwrap_or(0.0);
    let (sent, lost) = (number("/end/sum/packets"), number("/end/sum/lost_packets"));
    line(&format!(
        "  UDP by plain routing: {:.0} packets/s of 64 bytes, {lost} of {sent} lost\n",
        (sent - lost) / number("/end/sum/seconds").max(0.001)
    ))
}

fn iperf3(lab: &Lab, to: &str, seconds: u8, arguments: &[&str]) -> Result<Value> {
    // iperf3 itself waits for ever if one of its two connections stops.
    let (patience, time) = ((u16::from(seconds) + 10).to_string(), seconds.to_string());
    let mut all = vec![&*patience, "iperf3", "-J", "-p", "5201", "--connect-timeout", "2000"];
    all.extend(["-t", &*time, "-c", to]);
    all.extend(arguments);
    let output = lab.run("c1", "timeout", &all)?;
    let report: Value =
        serde_json::from_slice(&output.stdout).with_context(|| format!("iperf3 to {to} gave no report"))?;
    if let Some(error) = report.get("error").and_then(Value::as_str) {
        bail!("iperf3: {error}");
    }
    Ok(report)
}

fn totals(_lab: &Lab, client: &Client, _seconds: u8) -> Result<()> {
    line("\nThe books, from the gateway's own counters:\n")?;
    for row in client.text("/metrics")?.lines() {
        let interesting = ["cilium_forward_count_total", "cilium_drop_count_total", "sluice_packets_total"];
        if interesting.iter().any(|name| row.starts_with(name)) && !row.ends_with(" 0") {
            line(&format!("  {row}\n"))?;
        }
    }
    Ok(())
}

fn show_logs(lab: &Lab) -> Result<()> {
    let text = fs::read_to_string(lab.log("gateway")).unwrap_or_default();
    let tail: Vec<&str> = text.lines().rev().take(30).collect();
    line("\nThe gateway's last words:\n")?;
    tail.iter().rev().try_for_each(|row| line(&format!("  {row}\n")))
}
