//! The workers: one thread a core, one queue of every device each.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use rtrb::{Consumer, RingBuffer};
use rustix::process::setpriority_process;
use rustix::thread::{CpuSet, sched_setaffinity};
use sluice_core::state::snapshot::FlowRecord;
use sluice_core::state::{Config as StateConfig, State};
use sluice_core::verdict::WorkerId;
use sluice_feed::settings::{DataplaneSettings, Polling};
use sluice_run::answers::{Learner, answers};
use sluice_run::hold::Wanted;
use sluice_run::ring::{EventReceiver, Outside, events, exchanges};
use sluice_run::worker::{Ends, Handle, Idle, IoHandle, Worker};
use sluice_xsk::io::{Attached, Config, Device, Report, XskIo};

use crate::clock::Clock;
use crate::names::desk::Desk;

/// Events between a worker and the housekeeping thread.
pub const EVENT_RING: usize = 16_384;
/// Packets between two workers.
const HANDOVER_RING: usize = 256;
const WANTED_RING: usize = 256;
/// A worker that does not answer within this is stuck.
const PATIENCE: Duration = Duration::from_millis(500);
/// Queues that are taken are asked for again for so long, so often.
const BUSY_FOR: Duration = Duration::from_secs(1);
const BUSY_STEP: Duration = Duration::from_millis(20);
/// Packets of and for the gateway itself.
const LOCAL_RING: usize = 128;
/// Who comes to a worker's core is given a tenth of it, and not half: a worker that waits finds its rings full. Real-time priority
/// would be worse: by default the kernel stops such a thread for 50 ms of every second that it is busy.
const NICE: i32 = -10;
/// Flows given out between two turns: packets wait for it.
const EXPORT_PIECE: usize = 128;

/// One worker, from outside.
#[derive(Debug)]
pub struct Running {
    pub handle: Handle,
    io: IoHandle<XskIo>,
    pub events: EventReceiver,
    pub wanted: Consumer<Wanted>,
    pub outside: Outside,
    pub attached: Vec<Attached>,
    pub huge_pages: bool,
    pub fragments_max: u32,
    thread: Option<JoinHandle<()>>,
}

/// Open the I/O of all workers and start them. `flows` are those of the last process.
pub fn start(
    settings: &DataplaneSettings,
    desk: &Arc<Desk>,
    clock: Clock,
    flows: &[FlowRecord],
) -> Result<Vec<Running>> {
    let count = settings.workers.max(1);
    let seed = seed()?;
    let cores = cores(settings);
    let mut running = Vec::new();
    for (index, exchange) in (0..count).zip(exchanges(count.into(), HANDOVER_RING)?) {
        let io = open(settings, index).map_err(hint).with_context(|| cannot_open(index))?;
        let (attached, huge_pages) = (io.attached(), io.huge_pages());
        let mut config = StateConfig::new(settings.max_flows / u32::from(count), seed);
        config.worker = WorkerId(index);
        config.pickup = true;
        let mut state = State::new(config);
        // Owners are known only when tables are: every worker keeps what may be its own, the first packet tells.
        for flow in flows {
            let _ = state.import(flow, clock.now());
        }
        let (sender, receiver) = events(EVENT_RING);
        let (ask, wanted) = RingBuffer::new(WANTED_RING);
        let (answers, classroom) = answers(config.worker, Arc::clone(desk) as Arc<dyn Learner>);
        let mut work = desk.sit();
        work.classrooms.push(classroom);
        let tables = work.publisher.subscribe();
        drop(work);
        let ends = Ends { tables, events: sender, exchange, wanted: ask, answers };
        let mut worker = Worker::new(io, state, ends, idle(settings.polling));
        let outside = worker.connect(LOCAL_RING);
        let (handle, io) = (worker.handle(), worker.io_handle());
        let core = cores.get(usize::from(index)).copied();
        let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            if let Some(core) = core {
                core_affinity::set_for_current(core);
            }
            // Where it is not allowed, the worker shares its core with others as their equal. (Nobody: this thread.)
            let _ = setpriority_process(None, NICE);
            worker.run(|| clock.now());
        })?;
        running.push(Running {
            handle,
            io,
            events: receiver,
            wanted,
            outside,
            attached,
            huge_pages,
            fragments_max: config.max_fragments,
            thread: Some(thread),
        });
    }
    leave_to_workers(cores.get(..usize::from(count)).unwrap_or(&cores));
    Ok(running)
}

/// This thread, and those that it starts from now on, keep off the workers' cores as long as there are others: a worker that waits
/// for its core to come back finds its rings full.
fn leave_to_workers(cores: &[core_affinity::CoreId]) {
    let mut rest = CpuSet::new();
    let all = core_affinity::get_core_ids().unwrap_or_default();
    all.iter().filter(|core| !cores.contains(core)).for_each(|core| rest.set(core.id));
    if rest.count() > 0 {
        // Where it is not allowed, things are as they were.
        let _ = sched_setaffinity(None, &rest);
    }
}

fn open(settings: &DataplaneSettings, queue: u8) -> Result<XskIo> {
    let device = |interface: &sluice_feed::settings::Interface| Device {
        name: interface.name.clone(),
        queue: u32::from(queue),
        zero_copy: interface.zero_copy,
    };
    let config = || Config {
        devices: settings.interfaces.iter().map(device).collect(),
        ring: settings.ring,
        huge_pages: settings.huge_pages,
        busy_poll: settings.busy_poll,
    };
    // The kernel takes the sockets of a process that was killed away a moment after its end.
    for _ in 0..BUSY_FOR.as_millis() / BUSY_STEP.as_millis() {
        match XskIo::open(config()) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => std::thread::sleep(BUSY_STEP),
            opened => return Ok(opened?),
        }
    }
    Ok(XskIo::open(config())?)
}

fn cannot_open(worker: u8) -> String {
    format!("worker {worker} cannot open its devices")
}

/// What the kernel's word for it does not say.
fn hint(error: anyhow::Error) -> anyhow::Error {
    let number = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
    match number {
        Some(libc::ENOBUFS) => error.context("locked memory is limited; raise it: LimitMEMLOCK=infinity"),
        Some(libc::EBUSY) => error.context("another program has AF_XDP sockets on these queues; stop it"),
        _ => error,
    }
}

const fn idle(polling: Polling) -> Idle {
    match polling {
        Polling::Busy => Idle::Poll,
        Polling::Adaptive => Idle::Adaptive,
        Polling::Sleep => Idle::Sleep,
    }
}

fn cores(settings: &DataplaneSettings) -> Vec<core_affinity::CoreId> {
    let all = core_affinity::get_core_ids().unwrap_or_default();
    if settings.cores.is_empty() {
        return all;
    }
    settings.cores.iter().map(|id| core_affinity::CoreId { id: *id }).collect()
}

/// A key that nobody outside knows.
pub fn seed() -> Result<[u64; 4]> {
    use std::io::Read;
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("no randomness")?;
    let mut seed = [0; 4];
    for (word, bytes) in seed.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    }
    Ok(seed)
}

impl Running {
    /// The sockets for the XDP programs' maps: device, queue, socket.
    pub fn sockets(&self) -> impl Iterator<Item = (&str, u32, RawFd)> {
        self.attached.iter().map(|attached| (attached.name.as_str(), attached.queue, attached.fd))
    }

    /// The device with this number is gone.
    pub fn close(&mut self, device: usize) {
        let left = self.io.ask(PATIENCE, move |io| {
            io.close(device);
            io.attached()
        });
        self.attached = left.unwrap_or_default();
    }

    /// The device with this number is there, and new.
    pub fn reopen(&mut self, device: usize) -> Result<()> {
        let opened = self.io.ask(PATIENCE, move |io| io.reopen(device));
        self.attached = opened.context("a worker does not answer")?.context("cannot open AF_XDP sockets")?;
        Ok(())
    }

    /// How its sockets fare; empty if it does not answer in time.
    pub fn reports(&self) -> Vec<Report> {
        self.io.ask(PATIENCE, |io| io.reports()).unwrap_or_default()
    }

    pub fn stop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a worker ended by a panic; this is a mistake in Sluice");
        }
    }

    /// All flows of this worker, in pieces between its turns; the channel closes after the last.
    pub fn export(&self, most: usize) -> Receiver<Vec<FlowRecord>> {
        let (sender, receiver) = channel();
        export_piece(&self.handle, 0, most, sender);
        receiver
    }
}

fn export_piece(handle: &Handle, start: u32, most: usize, sender: Sender<Vec<FlowRecord>>) {
    let again = handle.clone();
    handle.command(Box::new(move |state, _, now| {
        let mut next = start;
        let mut piece = Vec::with_capacity(EXPORT_PIECE);
        let found: Vec<_> = state.flows.iter_from(start).take(EXPORT_PIECE.min(most)).collect();
        for (after, flow) in &found {
            piece.push(state.export(*flow, now));
            next = *after;
        }
        let (full, left) = (piece.len() == EXPORT_PIECE, most.saturating_sub(piece.len()));
        // A listener that went away needs no more.
        if sender.send(piece).is_ok() && full && left > 0 {
            export_piece(&again, next, left, sender);
        }
    }));
}
