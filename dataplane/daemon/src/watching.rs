//! Packets that somebody wants to see: from the workers' rings to control, until they are enough, late, or unwanted.

use std::sync::Arc;

use sluice_core::packet::PortId;
use sluice_core::tables::Tables;
use sluice_core::time::Now;
use sluice_core::verdict::Fate;
use sluice_core::watch::Filter;
use sluice_feed::message::{SeenPacket, ToControl};
use sluice_run::watch::{MOST, Seen, Watcher, watch};

use crate::control::Connection;
use crate::workers::Running;

/// Packets told in one message.
const PIECE: usize = 256;

/// What is to be seen, and for how long.
#[derive(Debug)]
pub struct Asked {
    pub filter: Filter,
    pub packets: u64,
    pub until: Now,
    pub frames: bool,
}

/// One watch, on all workers.
#[derive(Debug)]
struct Active {
    id: u32,
    left: u64,
    until: Now,
    watchers: Vec<Watcher>,
}

#[derive(Debug, Default)]
pub struct Watching {
    active: Vec<Active>,
}

impl Watching {
    pub fn start(&mut self, id: u32, asked: &Asked, workers: &[Running]) -> Result<(), String> {
        if self.active.len() >= MOST {
            return Err(format!("{MOST} traces or captures run already; wait until one ends"));
        }
        let mut watchers = Vec::new();
        for worker in workers {
            let (mine, theirs) = watch(asked.filter.clone(), asked.packets, asked.until, asked.frames);
            if !worker.handle.watch(mine) {
                return Err("a worker is too busy to be watched; try again".to_owned());
            }
            watchers.push(theirs);
        }
        self.active.push(Active { id, left: asked.packets, until: asked.until, watchers });
        Ok(())
    }

    /// Dropping the listener's ends is what ends it for the workers.
    pub fn stop(&mut self, id: u32) {
        self.active.retain(|active| active.id != id);
    }

    pub fn is_idle(&self) -> bool {
        self.active.is_empty()
    }

    /// Tell what was seen since. Without control nobody listens.
    pub fn drain(
        &mut self,
        control: Option<&mut Connection>,
        tables: impl FnOnce() -> Arc<Tables>,
        now: Now,
    ) {
        let Some(control) = control.filter(|_| !self.active.is_empty()) else {
            self.active.clear();
            return;
        };
        let tables = tables();
        self.active.retain_mut(|active| active.drain(control, &tables, now));
    }
}

impl Active {
    /// False: that was all.
    fn drain(&mut self, control: &mut Connection, tables: &Tables, now: Now) -> bool {
        if control.is_slow() {
            // The rings fill and count what they lose.
            return true;
        }
        let over = now >= self.until || self.watchers.iter().all(Watcher::is_over);
        let mut packets = Vec::new();
        for watcher in &mut self.watchers {
            while packets.len() < PIECE
                && self.left > 0
                && let Some(seen) = watcher.take()
            {
                self.left -= 1;
                packets.push(told(seen, tables));
            }
        }
        let done = self.left == 0 || (over && packets.len() < PIECE);
        if packets.is_empty() && !done {
            return true;
        }
        packets.sort_by_key(|packet| packet.sighting.at);
        let lost = self.watchers.iter().map(Watcher::lost).sum();
        control.send(&ToControl::Seen { watch: self.id, now, packets, lost, done });
        !done
    }
}

/// With the devices behind the ports; control knows their names.
fn told(seen: Seen, tables: &Tables) -> SeenPacket {
    let device = |id: PortId| tables.routing.port(id).map_or((id.0, 0), |port| (port.device, port.vlan));
    let leaves_by = match seen.sighting.fate {
        Fate::Forward(port) | Fate::Answer(port) | Fate::Learn(port) | Fate::Hold { port, .. } => {
            Some(device(port))
        }
        Fate::Drop(_) | Fate::Pass | Fate::HandOver(_) | Fate::AwaitRow(_) | Fate::Cut(_) => None,
    };
    let [came, went] = seen.frames;
    SeenPacket { came_by: device(seen.sighting.port), leaves_by, sighting: seen.sighting, came, went }
}
