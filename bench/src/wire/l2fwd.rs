//! Bare AF_XDP forwarding: frames from one interface go out of the other as they are. The same I/O as the gateway's
//! workers and the same steering program in front of it, and nothing in between: what is slower than this is processing.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use sluice_core::packet::{BURST, PortId};
use sluice_run::bell::Bell;
use sluice_run::io::{Burst, PacketIo, Packets};
use sluice_steer::rules::{FROM, TO};
use sluice_steer::{OnFailure, Rule, Steer};
use sluice_xsk::io::{Config, Device, XskIo};

use crate::args::L2fwdArgs;
use crate::stop::{self, Stop};

/// Empty turns before the loop sleeps, as a worker of the gateway does.
const EMPTY_TURNS: u32 = 256;
const NAP: Duration = Duration::from_millis(5);

pub(crate) fn run(args: &L2fwdArgs) -> anyhow::Result<()> {
    if let Some(id) = args.core {
        core_affinity::set_for_current(core_affinity::CoreId { id });
    }
    let stop = stop::on_signals()?;
    if args.end_with_input {
        let told = stop.clone();
        std::thread::spawn(move || {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            told.ask();
        });
    }
    forward(args, &stop)
}

/// The steering program on both interfaces, sending everything to our sockets.
fn steer(args: &L2fwdArgs) -> anyhow::Result<Vec<Steer>> {
    let pins = PathBuf::from(format!("/sys/fs/bpf/sluice-bench-{}", std::process::id()));
    let everything = [Rule::new(Ipv4Addr::UNSPECIFIED.into(), 0), Rule::new(Ipv6Addr::UNSPECIFIED.into(), 0)];
    let rules: BTreeMap<Rule, u32> = everything.into_iter().map(|rule| (rule, TO | FROM)).collect();
    [&args.from, &args.to]
        .map(|interface| {
            let mut steer = Steer::open(interface, &pins, OnFailure::Drop)?;
            steer.set_rules(&rules)?;
            Ok(steer)
        })
        .into_iter()
        .collect()
}

fn forward(args: &L2fwdArgs, stop: &Stop) -> anyhow::Result<()> {
    let device = |name: &String| Device { name: name.clone(), queue: 0, zero_copy: true };
    let devices = vec![device(&args.from), device(&args.to)];
    let L2fwdArgs { ring, busy_poll, .. } = *args;
    let mut io = XskIo::open(Config { devices, ring, huge_pages: true, busy_poll })
        .context("cannot open AF_XDP sockets")?;
    let mut steers = steer(args)?;
    for (steer, attached) in steers.iter_mut().zip(io.attached()) {
        steer.register(0, attached.fd)?;
        steer.attach(false)?;
    }
    // Nobody rings it.
    let bell = Bell::new()?;
    let mut burst = Burst::new();
    let mut empty = 0;
    while !stop.asked() {
        io.receive(&mut burst);
        empty = if burst.is_empty() { empty + 1 } else { 0 };
        // The frames are looked at, as whoever forwards them must: where they begin is in their buffers.
        let mut ends = [(0, 0); BURST];
        let mut packets = Packets::new();
        io.packets(&burst, PortId, &mut packets);
        packets.iter().zip(&mut ends).for_each(|(packet, end)| *end = (packet.start(), packet.len()));
        drop(packets);
        for (frame, (start, len)) in burst.drain(..).zip(ends) {
            let to = 1 - frame.device();
            io.send(frame, to, start, len);
        }
        io.flush();
        if empty > if args.sleep { 0 } else { EMPTY_TURNS } {
            io.wait(NAP, &bell);
        }
    }
    steers.into_iter().try_for_each(|steer| Ok(steer.detach()?))
}
