//! What it costs a worker to take packets out of rings and put them into others, with somebody in the kernel's place.
//!
//! The kernel's half of the work is done before and after, and is not in the time; it is done on the same core, so what it costs
//! a line to come over from another one is not in it either.

use std::hint::black_box;

use sluice_core::packet::BURST;
use sluice_run::io::{Burst, PacketIo};
use sluice_xsk::io::XskIo;
use sluice_xsk::rehearsal::Rings;

use super::{ASKED, Bench, ROUNDS};
use crate::clock;

/// Descriptors in a ring, as workers have by default.
const RING: u32 = 2048;
/// Packets between two looks at the clock.
const AT_ONCE: u32 = 1024;
const FRAME: u32 = 60;

pub(crate) fn run(bench: &Bench<'_>) -> anyhow::Result<()> {
    let burst = u32::try_from(BURST)?;
    let name = "ring access, all four rings, bursts of 64";
    if bench.wants(name) {
        let (mut rings, mut player) = Rings::new(RING)?;
        let times = rounds(|| {
            let came = player.bring(AT_ONCE, FRAME);
            let (time, ()) =
                clock::time(|| (0..AT_ONCE / burst).for_each(|_| _ = black_box(rings.turn(burst))));
            player.send();
            (time, came)
        });
        bench.report(name.to_owned(), &times)?;
    }
    let name = "receive, send and flush: all four rings, and whose a buffer is";
    if bench.wants(name) {
        let (mut io, mut players) = XskIo::rehearse(2, RING)?;
        let times = rounds(|| {
            let came = players[0].bring(AT_ONCE, FRAME);
            let (time, ()) = clock::time(|| (0..AT_ONCE / burst).for_each(|_| forward(&mut io)));
            players[1].send();
            (time, came)
        });
        bench.report(name.to_owned(), &times)?;
    }
    Ok(())
}

/// A worker's turn with nothing in between: all of a burst goes to the other device.
fn forward(io: &mut XskIo) {
    let mut burst = Burst::new();
    io.receive(&mut burst);
    for frame in burst.drain(..) {
        let (to, start, len) = (1 - frame.device(), frame.start().into(), frame.len().into());
        io.send(frame, to, start, len);
    }
    io.flush();
}

/// Nanoseconds a packet, by round; what reading the clock takes is taken off.
fn rounds(mut step: impl FnMut() -> (f64, u32)) -> Vec<f64> {
    let clock = clock::min(&(0..1000).map(|_| clock::time(|| ()).0).collect::<Vec<_>>());
    let mut round = || {
        let (mut times, mut packets) = (0.0, 0);
        while packets < ASKED {
            let (time, came) = step();
            times += time - clock;
            packets += came as usize;
        }
        times / clock::to_float(packets as u64)
    };
    round();
    (0..ROUNDS).map(|_| round()).collect()
}
