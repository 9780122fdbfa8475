//! Which addresses do flows live on? All workers' flows are looked at, a piece between two turns, for many addresses at
//! once.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use sluice_core::state::tcp::TcpState;
use sluice_run::worker::Handle;

/// Flows looked at between two turns of a worker: some ten microseconds.
const PIECE: usize = 512;

/// What one worker found so far; `true`: that was all.
type Found = (Vec<IpAddr>, bool);

#[derive(Debug)]
pub struct Sweep {
    among: Arc<HashSet<IpAddr>>,
    workers: Vec<Receiver<Found>>,
    alive: HashSet<IpAddr>,
}

impl Sweep {
    pub fn start<'a>(workers: impl Iterator<Item = &'a Handle>, among: Vec<IpAddr>) -> Self {
        let among: Arc<HashSet<IpAddr>> = Arc::new(among.into_iter().collect());
        let ask = |handle: &Handle| {
            let (sender, receiver) = channel();
            look(handle, 0, Arc::clone(&among), sender);
            receiver
        };
        Self { workers: workers.map(ask).collect(), among, alive: HashSet::new() }
    }

    /// `Some`: done; the addresses with flows and those without. A worker that had no time to answer leaves all in doubt:
    /// then they count as alive.
    pub fn result(&mut self) -> Option<(Vec<IpAddr>, Vec<IpAddr>)> {
        let (alive, mut in_doubt) = (&mut self.alive, false);
        self.workers.retain(|receiver| {
            loop {
                match receiver.try_recv() {
                    Ok((found, last)) => {
                        alive.extend(found);
                        if last {
                            return false;
                        }
                    }
                    Err(TryRecvError::Empty) => return true,
                    Err(TryRecvError::Disconnected) => {
                        in_doubt = true;
                        return false;
                    }
                }
            }
        });
        if in_doubt {
            self.alive.extend(self.among.iter());
        }
        self.workers.is_empty().then(|| self.among.iter().partition(|ip| self.alive.contains(ip)))
    }
}

fn look(handle: &Handle, start: u32, among: Arc<HashSet<IpAddr>>, sender: Sender<Found>) {
    let again = handle.clone();
    handle.command(Box::new(move |state, _, _| {
        let (mut next, mut seen, mut found) = (start, 0, Vec::new());
        for (after, flow) in state.flows.iter_from(start).take(PIECE) {
            (next, seen) = (after, seen + 1);
            let server = state.flows.keys(flow).translated.destination();
            let over = TcpState::from_number(state.flows.hot(flow).tcp).over();
            if !over && among.contains(&server) {
                found.push(server);
            }
        }
        let last = seen < PIECE;
        // A listener that went away needs no more.
        if sender.send((found, last)).is_ok() && !last {
            look(&again, next, among, sender);
        }
    }));
}
