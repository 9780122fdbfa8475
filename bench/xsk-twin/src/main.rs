//! Bare AF_XDP forwarding over xsk-rs: what `sluice-bench l2fwd` does over our own rings, with the same steering program in
//! front, the same ring sizes, bursts and naps. `sluice-xsk-twin FROM TO --core N [--sleep]`, until the end of input.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use sluice_steer::rules::{FROM, TO};
use sluice_steer::{OnFailure, Rule, Steer};
use std::os::fd::AsRawFd;
use xsk_rs::config::{BindFlags, FrameSize, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

const RING: u32 = 16_384;
const BURST: usize = 64;
/// Empty turns before the loop sleeps, as a worker of the gateway does.
const EMPTY_TURNS: u32 = 256;
const NAP_MS: i32 = 5;

/// One device: a socket and its four rings.
struct Leg {
    tx: TxQueue,
    rx: RxQueue,
    fill: FillQueue,
    completion: CompQueue,
}

fn main() -> anyhow::Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let sleep = arguments.iter().position(|a| a == "--sleep").map(|at| arguments.remove(at)).is_some();
    if let Some(at) = arguments.iter().position(|a| a == "--core") {
        let id = arguments.drain(at..).nth(1).context("--core N")?.parse()?;
        core_affinity::set_for_current(core_affinity::CoreId { id });
    }
    let [from, to] = &arguments[..] else { anyhow::bail!("FROM TO [--sleep] [--core N]") };
    let empty_turns = if sleep { 0 } else { EMPTY_TURNS };
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        told.store(true, Ordering::Relaxed);
    });

    let umem_config = UmemConfig::builder()
        .frame_size(FrameSize::new(2048)?)
        .fill_queue_size(QueueSize::new(RING * 2)?)
        .comp_queue_size(QueueSize::new(RING)?)
        .build()?;
    let count = (RING * 8 + 1024).try_into()?;
    let (umem, mut free) = Umem::new(umem_config, count, false)?;
    let mut legs = [leg(&umem, from)?, leg(&umem, to)?];
    for leg in &mut legs {
        give(leg, &mut free, RING as usize * 2);
    }
    let steers = steer([from, to], &legs)?;
    forward(&umem, &mut legs, &mut free, &stop, empty_turns);
    steers.into_iter().try_for_each(|steer| Ok(steer.detach()?))
}

fn leg(umem: &Umem, interface: &str) -> anyhow::Result<Leg> {
    let config = SocketConfig::builder()
        .rx_queue_size(QueueSize::new(RING)?)
        .tx_queue_size(QueueSize::new(RING)?)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP)
        .build();
    // SAFETY: each device is bound once, and no program is loaded by the library.
    let (tx, rx, rings) = unsafe { Socket::new(config, umem, &interface.parse()?, 0) }
        .with_context(|| format!("cannot open an AF_XDP socket on {interface}"))?;
    let (fill, completion) = rings.context("no fill and completion rings")?;
    Ok(Leg { tx, rx, fill, completion })
}

/// The steering program on both interfaces, sending everything to our sockets.
fn steer(interfaces: [&String; 2], legs: &[Leg; 2]) -> anyhow::Result<Vec<Steer>> {
    let pins = PathBuf::from(format!("/sys/fs/bpf/sluice-xsk-twin-{}", std::process::id()));
    let everything = [Rule::new(Ipv4Addr::UNSPECIFIED.into(), 0), Rule::new(Ipv6Addr::UNSPECIFIED.into(), 0)];
    let rules: BTreeMap<Rule, u32> = everything.into_iter().map(|rule| (rule, TO | FROM)).collect();
    interfaces
        .into_iter()
        .zip(legs)
        .map(|(interface, leg)| {
            let mut steer = Steer::open(interface, &pins, OnFailure::Drop)?;
            steer.set_rules(&rules)?;
            steer.register(0, leg.rx.fd().as_raw_fd())?;
            steer.attach(false)?;
            Ok(steer)
        })
        .collect()
}

/// Give the kernel free buffers to receive into.
fn give(leg: &mut Leg, free: &mut Vec<FrameDesc>, most: usize) {
    let count = most.min(free.len());
    // SAFETY: what is free is in no ring.
    let taken = unsafe { leg.fill.produce(&free[free.len() - count..]) };
    free.truncate(free.len() - taken);
}

fn forward(umem: &Umem, legs: &mut [Leg; 2], free: &mut Vec<FrameDesc>, stop: &AtomicBool, empty_turns: u32) {
    let mut descriptors = [free[0]; BURST];
    let mut empty = 0;
    let mut first = 0;
    while !stop.load(Ordering::Relaxed) {
        first = 1 - first;
        let mut any = false;
        for from in [first, 1 - first] {
            // SAFETY: the descriptors are only a place to write to.
            let count = unsafe { legs[from].rx.consume(&mut descriptors) };
            if count > 0 {
                any = true;
                give(&mut legs[from], free, count);
                send(umem, &mut legs[1 - from], free, &descriptors[..count]);
            }
        }
        for leg in legs.iter_mut() {
            // SAFETY: as above; what was sent is free again.
            let count = unsafe { leg.completion.consume(&mut descriptors) };
            free.extend_from_slice(&descriptors[..count]);
        }
        empty = if any { 0 } else { empty + 1 };
        if empty > empty_turns {
            let wait = |leg: &Leg| libc::pollfd { fd: leg.rx.fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
            let mut fds = [wait(&legs[0]), wait(&legs[1])];
            // SAFETY: two valid entries.
            unsafe { libc::poll(fds.as_mut_ptr(), 2, NAP_MS) };
        }
    }
}

fn send(umem: &Umem, leg: &mut Leg, free: &mut Vec<FrameDesc>, frames: &[FrameDesc]) {
    for frame in frames {
        // SAFETY: received and not given back yet. Looked at, as whoever forwards it must.
        std::hint::black_box(unsafe { umem.data(frame) }.contents().first());
    }
    // SAFETY: received, and in no ring.
    if unsafe { leg.tx.produce(frames) } == 0 {
        free.extend_from_slice(frames);
        return;
    }
    // In copy mode a call sends a few dozen frames at most: go on until the ring is empty, but not for ever.
    for _ in 0..8 {
        if leg.tx.nb_free_exact() == RING || leg.tx.wakeup().is_err() {
            return;
        }
    }
}
