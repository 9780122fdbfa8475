//! `count`: a known number of packets through the path, for an instrument that counts instructions. Everything else
//! happens outside of [`measured`], which is what the instrument is told to look at; see `scripts/count.sh`.

use sluice_core::event::EventSink;
use sluice_core::packet::Packet;
use sluice_core::path::{Fates, forward};
use sluice_core::state::State;
use sluice_core::tables::Tables;
use sluice_core::time::Now;

use crate::args::PathArgs;
use crate::path::Rig;
use crate::world;

/// The path and nothing else.
#[inline(never)]
pub(crate) fn measured<S: EventSink>(
    tables: &Tables,
    state: &mut State,
    now: Now,
    packets: &mut [Packet<'_>],
    fates: &mut Fates,
    events: &mut S,
) {
    forward(tables, state, now, packets, fates, events);
}

#[expect(clippy::print_stdout, reason = "a command line tool")]
pub(crate) fn run(args: &PathArgs) -> anyhow::Result<()> {
    let tables = world::tables(args)?;
    let packets = Rig::new(args, &tables, 0)?.count(args.packets / u64::from(args.batch))?;
    println!("{packets}");
    Ok(())
}
