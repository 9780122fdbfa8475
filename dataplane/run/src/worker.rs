//! The loop: receive → see tables → forward → send. Everything slow comes in by commands, between turns.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrayvec::ArrayVec;
use rtrb::Producer;
use sluice_core::packet::{BURST, PortId};
use sluice_core::path::{self, Fates, forward, tick};
use sluice_core::state::State;
use sluice_core::state::counters::Counters;
use sluice_core::tables::Tables;
use sluice_core::tables::service::Balanced;
use sluice_core::time::Now;
use sluice_core::verdict::{DropReason, Fate, WorkerId};

use crate::answers::{Answers, Ready, Taught, Waited};
use crate::bell::Bell;
use crate::epoch::Subscriber;
use crate::hold::{Hold, Wanted};
use crate::io::{Burst, Frame, PacketIo, Packets};
use crate::pieces::Pieces;
use crate::ring::{EventSender, Exchange, Handed, Local, Outside, local};
use crate::watch::{self, Watch, Watches};

/// What a worker does when nothing comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Idle {
    /// Ask again at once: the least latency, a core each.
    Poll,
    /// Ask again for a while, then sleep.
    #[default]
    Adaptive,
    /// Sleep at once.
    Sleep,
}

/// Empty turns before a worker looks out for packets with nothing else in its hands.
const BUSY_TURNS: u32 = 8;
/// Looks before the next whole turn: a few microseconds.
const LOOKS: u32 = 64;
/// Empty turns before an adaptive worker sleeps: some tens of microseconds.
const EMPTY_TURNS: u32 = BUSY_TURNS + 24;
/// Empty turns with a DNS answer waiting before the worker sleeps between looks: some tens of microseconds, in which the
/// other workers are done with their bursts.
const SHORT_WAIT: u32 = 256;
/// Then it looks this often.
const LOOK_EVERY: Duration = Duration::from_micros(100);
/// A sleeping worker still looks at the time this often; while packets wait for neighbours, at what became of those.
const NAP: Duration = Duration::from_millis(20);
const NAP_HOLDING: Duration = Duration::from_millis(1);
/// Packets of the gateway itself that are sent in one turn.
const DOWN_A_TURN: usize = 16;
/// Counters are shown to others this often.
const SHOW_EVERY: u64 = Now::SECOND / 20;

/// What others may read of a worker.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    pub counters: Counters,
    pub flows: (u32, u32),
    pub fragments: usize,
    /// Packets that wait for neighbours, and for rows.
    pub held: [usize; 2],
    pub hold_overflow: u64,
    pub hold_expired: u64,
    pub handover_overflow: u64,
    pub turns: u64,
    pub naps: u64,
    /// DNS answers that wait now, and how long others did.
    pub dns_waiting: usize,
    pub dns_waited: Waited,
}

/// Something slow to be done with a worker's own, between two turns.
pub type Command = Box<dyn FnOnce(&mut State, &Tables, Now) + Send>;

/// Something slow to be done with a worker's I/O, between two turns.
pub type IoCommand<Io> = Box<dyn FnOnce(&mut Io) + Send>;

/// Others' handle on a worker's I/O.
#[derive(Debug)]
pub struct IoHandle<Io> {
    commands: SyncSender<IoCommand<Io>>,
    bell: Bell,
}

impl<Io> IoHandle<Io> {
    /// Have something done and wait for what comes of it. `None`: not within the time, or the worker is gone.
    pub fn ask<T: Send + 'static>(
        &self,
        most: Duration,
        question: impl FnOnce(&mut Io) -> T + Send + 'static,
    ) -> Option<T> {
        let (tell, answer) = sync_channel(1);
        let command = move |io: &mut Io| drop(tell.send(question(io)));
        self.commands.try_send(Box::new(command)).ok()?;
        self.bell.call();
        answer.recv_timeout(most).ok()
    }
}

/// Others' handle on a worker.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: SyncSender<Command>,
    watches: SyncSender<Watch>,
    bell: Bell,
    stop: Arc<AtomicBool>,
    shown: Arc<Mutex<Shown>>,
    beat: Arc<AtomicU64>,
}

impl Handle {
    /// Have something done. False: the worker has too much to do already.
    pub fn command(&self, command: Command) -> bool {
        let sent = !matches!(
            self.commands.try_send(command),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_))
        );
        self.bell.call();
        sent
    }

    /// Show packets, from the next burst on. False: too many watch already.
    pub fn watch(&self, watch: Watch) -> bool {
        let sent = self.watches.try_send(watch).is_ok();
        self.bell.call();
        sent
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.bell.call();
    }

    pub fn shown(&self) -> Shown {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Moves as long as the worker does.
    pub fn beat(&self) -> u64 {
        self.beat.load(Ordering::Relaxed)
    }
}

/// A worker's ends of all that connects it with others.
#[derive(Debug)]
pub struct Ends {
    pub tables: Subscriber,
    pub events: EventSender,
    pub exchange: Exchange,
    pub wanted: Producer<Wanted>,
    pub answers: Answers,
}

/// Everything a worker is made of.
#[derive(Debug)]
pub struct Worker<Io> {
    pub io: Io,
    pub state: State,
    /// Who has packets for the gateway itself, if anybody wants them.
    local: Option<Local>,
    tables: Subscriber,
    events: EventSender,
    exchange: Exchange,
    wanted: Producer<Wanted>,
    hold: Hold,
    pieces: Pieces,
    answers: Answers,
    /// How many of those that wait have not been tried since tables changed.
    to_retry: usize,
    idle: Idle,
    ports: Vec<PortId>,
    burst: Burst,
    fates: Fates,
    inbox: Receiver<Command>,
    coming_watches: Receiver<Watch>,
    watches: Watches,
    io_inbox: Receiver<IoCommand<Io>>,
    io_commands: SyncSender<IoCommand<Io>>,
    handle: Handle,
    mine: Shown,
    shown_at: Now,
    empty_turns: u32,
}

impl<Io: PacketIo> Worker<Io> {
    pub fn new(io: Io, state: State, ends: Ends, idle: Idle) -> Self {
        let Ends { tables, events, exchange, wanted, answers } = ends;
        let (commands, inbox) = sync_channel(64);
        let (watches, coming_watches) = sync_channel(watch::MOST);
        let (io_commands, io_inbox) = sync_channel(16);
        let handle = Handle {
            commands,
            watches,
            bell: exchange.bell.clone(),
            stop: Arc::default(),
            shown: Arc::default(),
            beat: Arc::default(),
        };
        Self {
            io,
            state,
            local: None,
            tables,
            events,
            exchange,
            wanted,
            hold: Hold::default(),
            pieces: Pieces::default(),
            answers,
            to_retry: 0,
            idle,
            ports: Vec::new(),
            burst: Burst::new(),
            fates: Fates::new(),
            inbox,
            coming_watches,
            watches: Watches::default(),
            io_inbox,
            io_commands,
            handle,
            mine: Shown::default(),
            shown_at: Now(0),
            empty_turns: 0,
        }
    }

    /// Have packets of and for the gateway itself go to and come from here, with room for so many each way.
    pub fn connect(&mut self, capacity: usize) -> Outside {
        let (inside, outside) = local(capacity, self.handle.bell.clone());
        self.local = Some(inside);
        outside
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    pub fn io_handle(&self) -> IoHandle<Io> {
        IoHandle { commands: self.io_commands.clone(), bell: self.handle.bell.clone() }
    }

    /// Turn until told to stop. `clock` is read once a turn.
    pub fn run(&mut self, clock: impl Fn() -> Now) {
        while !self.handle.stop.load(Ordering::Acquire) {
            let received = self.turn(clock());
            if received == 0 {
                self.rest();
            } else {
                self.empty_turns = 0;
            }
        }
        self.show();
    }

    /// One burst. Returns how many packets it was.
    pub fn turn(&mut self, now: Now) -> usize {
        let (tables, changed) = self.tables.refresh();
        if changed {
            self.ports.clear();
            // Ports of whole devices; tagged frames find theirs on the path.
            self.ports.extend((0..64).map_while(|device| tables.routing.find_port(device, 0)));
            self.to_retry = self.hold.len();
        }
        if self.to_retry > 0 {
            self.to_retry -= self.to_retry.min(BURST);
            let services = &tables.services;
            let has = |id| services.service(id).is_none_or(Balanced::is_ready);
            for frame in self.hold.retry(BURST, has) {
                self.burst.push(frame);
            }
        }
        while self.burst.len() < BURST / 2
            && let Some(piece) = self.pieces.take()
        {
            self.burst.push(piece);
        }
        let lost = receive_handed(&mut self.io, &mut self.exchange, &mut self.burst);
        if lost > 0 {
            self.mine.handover_overflow += lost;
            self.state.counters.received += lost;
            self.state.counters.drop(DropReason::RateLimited);
        }
        self.release_answers(now);
        self.io.receive(&mut self.burst);
        let received = self.burst.len();
        if received > 0 {
            self.forward(now);
        }
        send_down(&mut self.io, self.local.as_mut());
        self.io.flush();
        if received > 0 {
            // After all else has left.
            self.answers.attend(now);
        }
        let tables = self.tables.view();
        tick(tables, &mut self.state, now, &mut self.events);
        self.between_turns(now);
        received
    }

    fn forward(&mut self, now: Now) {
        let tables = self.tables.view();
        let ports = &self.ports;
        let port = |device: u16| ports.get(usize::from(device)).copied().unwrap_or(PortId(device));
        let mut ends = [(0, 0); BURST];
        let mut packets = Packets::new();
        self.io.packets(&self.burst, port, &mut packets);
        let (state, fates, events) = (&mut self.state, &mut self.fates, &mut self.events);
        if self.watches.none(now) {
            forward(tables, state, now, &mut packets, fates, events);
        } else {
            self.watches.forward(tables, state, now, &mut packets, fates, events);
        }
        let mut taught: ArrayVec<Taught, BURST> = ArrayVec::new();
        for ((end, packet), fate) in ends.iter_mut().zip(&packets).zip(&self.fates) {
            *end = (packet.start(), packet.len());
            if matches!(fate, Fate::Learn(_)) {
                taught.push(self.answers.teach(packet, |name| tables.names.are_wanted(name)));
            }
        }
        let mut taught = taught.into_iter();
        let mut waiting: ArrayVec<(Frame, Wanted), BURST> = ArrayVec::new();
        drop(packets);
        for ((frame, fate), (start, len)) in self.burst.drain(..).zip(self.fates.drain(..)).zip(ends) {
            match fate {
                Fate::Forward(port) | Fate::Answer(port) => {
                    let device = tables.routing.port(port).map_or(0, |port| port.device);
                    self.io.send(frame, device, start, len);
                }
                Fate::Drop(_) => self.io.release(frame),
                Fate::Pass => pass_up(&mut self.io, self.local.as_mut(), frame),
                Fate::Learn(port) => {
                    let device = tables.routing.port(port).map_or(0, |port| port.device);
                    let ready = Ready { frame, device, start, len };
                    match taught.next().unwrap_or(Taught::NoRoom) {
                        Taught::Free => send_answer(&mut self.io, &mut self.state, ready),
                        Taught::Wait(ticket) => self.answers.keep(ticket, ready, now),
                        Taught::NoRoom => {
                            self.answers.waited.lost += 1;
                            lose_answer(&mut self.io, &mut self.state, ready.frame);
                        }
                    }
                }
                Fate::Hold { port, ip } => waiting.push((frame, Wanted::Neighbour { port, ip })),
                Fate::AwaitRow(service) => waiting.push((frame, Wanted::Row(service))),
                Fate::Cut(room) => match self.pieces.cut(&mut self.io, frame, room) {
                    Ok(pieces) => self.state.counters.pieces += pieces,
                    Err(frame) => {
                        let (state, reason) = (&mut self.state, DropReason::FragmentationNeeded);
                        give_up(tables, state, now, &mut self.io, frame, reason, &mut self.events);
                    }
                },
                Fate::HandOver(to) => {
                    if hand_over(&mut self.io, &mut self.exchange, &frame, to) {
                        self.io.release(frame);
                    } else {
                        self.mine.handover_overflow += 1;
                        let (state, reason) = (&mut self.state, DropReason::RateLimited);
                        give_up(tables, state, now, &mut self.io, frame, reason, &mut self.events);
                    }
                }
            }
        }
        waiting.into_iter().for_each(|(frame, wanted)| self.keep(frame, wanted, now));
        self.exchange.tell();
    }

    /// Keep a frame for a moment, and have what it waits for seen to.
    #[cold]
    fn keep(&mut self, frame: Frame, wanted: Wanted, now: Now) {
        let (kept, ask) = self.hold.keep(frame, wanted, now);
        if ask {
            // A full ring is asked again by the next packet.
            let _ = self.wanted.push(wanted);
            self.answers.call();
        }
        if let Err(frame) = kept {
            self.mine.hold_overflow += 1;
            let (tables, reason) = (self.tables.view(), wanted.reason());
            give_up(tables, &mut self.state, now, &mut self.io, frame, reason, &mut self.events);
        }
    }

    /// Send the DNS answers whose addresses every worker knows by now.
    fn release_answers(&mut self, now: Now) {
        if self.answers.is_empty() {
            return;
        }
        let tables = self.tables.view();
        let most = u64::from(tables.settings.dns.max_delay) * (Now::SECOND / 1000);
        self.answers.attend(now);
        while let Some(done) = self.answers.next(now, most) {
            match done {
                Ok(ready) => send_answer(&mut self.io, &mut self.state, ready),
                Err(frame) => lose_answer(&mut self.io, &mut self.state, frame),
            }
        }
    }

    fn between_turns(&mut self, now: Now) {
        self.mine.turns += 1;
        while let Some((frame, wanted)) = self.hold.expired(now) {
            self.mine.hold_expired += 1;
            let (tables, reason) = (self.tables.view(), wanted.reason());
            give_up(tables, &mut self.state, now, &mut self.io, frame, reason, &mut self.events);
        }
        if self.handle.bell.take_call() {
            // One a turn: some go on with another one of their own.
            if let Ok(command) = self.inbox.try_recv() {
                let tables = self.tables.view();
                command(&mut self.state, tables, now);
                self.handle.bell.call();
            }
            self.coming_watches.try_iter().for_each(|watch| self.watches.add(watch));
            while let Ok(command) = self.io_inbox.try_recv() {
                command(&mut self.io);
            }
        }
        self.watches.none(now);
        if now.0.saturating_sub(self.shown_at.0) > SHOW_EVERY {
            self.shown_at = now;
            self.show();
        }
    }

    /// Let others read the counters. Skipped while somebody reads.
    fn show(&mut self) {
        self.handle.beat.fetch_add(1, Ordering::Relaxed);
        if let Ok(mut shown) = self.handle.shown.try_lock() {
            shown.clone_from(&self.mine);
            shown.counters.clone_from(&self.state.counters);
            shown.flows = self.state.flows.occupancy();
            shown.fragments = self.state.fragments.len();
            shown.held = [false, true].map(|rows| self.hold.waiting(rows));
            shown.dns_waiting = self.answers.len();
            shown.dns_waited = self.answers.waited;
        }
    }

    /// What an answer waits for happens within microseconds if all is well: it is worth to stay awake. Otherwise somebody
    /// else is to see to it.
    fn wait_for_release(&mut self) {
        if self.empty_turns < SHORT_WAIT {
            std::hint::spin_loop();
        } else {
            self.answers.ring();
            self.tables.park();
            self.io.wait(LOOK_EVERY, &self.handle.bell);
        }
    }

    fn rest(&mut self) {
        self.empty_turns += 1;
        if !self.answers.is_empty() || self.hold.waits_for_rows() {
            return self.wait_for_release();
        }
        let nap = match self.idle {
            Idle::Poll => false,
            Idle::Adaptive => self.empty_turns > EMPTY_TURNS,
            Idle::Sleep => true,
        };
        // What is to be done comes in steps, one a turn: the next may wait already.
        if nap && !self.is_wanted() && !self.state.flows.is_behind() {
            self.nap();
        } else if self.empty_turns > BUSY_TURNS {
            self.look_out();
        } else {
            std::hint::spin_loop();
        }
    }

    fn nap(&mut self) {
        self.mine.naps += 1;
        self.tables.park();
        self.handle.bell.lie_down();
        if !self.is_wanted() {
            let most = if self.hold.is_empty() { NAP } else { NAP_HOLDING };
            self.io.wait(most, &self.handle.bell);
        }
        self.handle.bell.get_up();
    }

    /// Is there something to do that does not come by a device?
    fn is_wanted(&self) -> bool {
        self.handle.bell.was_called()
            || self.exchange.has_come()
            || self.local.as_ref().is_some_and(Local::has_come)
            || self.handle.stop.load(Ordering::Relaxed)
    }

    /// Look out for something to do, without a generation: should this thread lose its core, nobody who publishes one has
    /// to wait for it.
    fn look_out(&mut self) {
        self.tables.park();
        for _ in 0..LOOKS {
            if self.io.has_come() || self.is_wanted() {
                return;
            }
            std::hint::spin_loop();
        }
    }
}

/// Nobody took the frame on in time: it is dropped, with its reason.
#[cold]
fn give_up<Io: PacketIo>(
    tables: &Tables,
    state: &mut State,
    now: Now,
    io: &mut Io,
    frame: Frame,
    reason: DropReason,
    events: &mut EventSender,
) {
    if let Some(packet) = io.packet(&frame) {
        path::give_up(tables, state, now, &packet, reason, events);
    }
    io.release(frame);
}

/// An answer that was counted as kept goes its way after all.
fn send_answer<Io: PacketIo>(io: &mut Io, state: &mut State, ready: Ready) {
    state.counters.dns_held -= 1;
    state.counters.forwarded += 1;
    state.counters.forwarded_bytes += ready.len as u64;
    io.send(ready.frame, ready.device, ready.start, ready.len);
}

fn lose_answer<Io: PacketIo>(io: &mut Io, state: &mut State, frame: Frame) {
    state.counters.dns_held -= 1;
    state.counters.drop(DropReason::NotReady);
    io.release(frame);
}

/// A packet for the gateway itself. What finds no room is lost, as it may be on any link.
#[cold]
fn pass_up<Io: PacketIo>(io: &mut Io, local: Option<&mut Local>, frame: Frame) {
    if let Some(local) = local
        && let Some(packet) = io.packet(&frame)
    {
        local.up.push(Handed { bytes: packet.bytes(), device: frame.device, handed: 0 });
    }
    io.release(frame);
}

/// Packets of the gateway itself, a few a turn.
fn send_down<Io: PacketIo>(io: &mut Io, local: Option<&mut Local>) {
    let Some(local) = local else { return };
    for _ in 0..DOWN_A_TURN {
        let Some(packet) = local.down.pop() else { return };
        if let Some(frame) = io.inject(packet.bytes, packet.device, 0) {
            let (device, start, len) = (frame.device, frame.start.into(), frame.len.into());
            io.send(frame, device, start, len);
        }
    }
}

/// Copy a packet to the worker that is to have it. False: its ring is full.
fn hand_over<Io: PacketIo>(io: &mut Io, exchange: &mut Exchange, frame: &Frame, to: WorkerId) -> bool {
    let Some(ring) = exchange.to.get_mut(usize::from(to.0)).and_then(Option::as_mut) else { return false };
    let (device, handed) = (frame.device, frame.handed + 1);
    io.packet(frame).is_some_and(|packet| ring.push(Handed { bytes: packet.bytes(), device, handed }))
}

/// Packets that other workers received for us. Returns how many found no buffer: at most one, for then there are none.
fn receive_handed<Io: PacketIo>(io: &mut Io, exchange: &mut Exchange, burst: &mut Burst) -> u64 {
    for ring in &mut exchange.from {
        while burst.len() < BURST / 2
            && let Some(packet) = ring.pop()
        {
            match io.inject(packet.bytes, packet.device, packet.handed) {
                Some(frame) => burst.push(frame),
                None => return 1,
            }
        }
    }
    0
}
