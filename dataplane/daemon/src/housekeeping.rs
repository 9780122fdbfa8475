//! The one thread beside the workers: it listens to control and to the kernel, publishes generations, keeps the XDP
//! programs' rules, drains events, and writes flows down.

mod learning;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use mio::net::UnixListener;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use sluice_core::intrinsics::Seed;
use sluice_core::packet::PortId;
use sluice_core::state::snapshot::FlowRecord;
use sluice_core::tables::record::{Change, Prefix, Records, diff, merge};
use sluice_core::time::Now;
use sluice_feed::message::{Answer, Question, ToControl};
use sluice_feed::settings::DataplaneSettings;
use sluice_run::epoch::Seen;
use sluice_run::hold::Wanted;

use crate::announce::Announcer;
use crate::clock::Clock;
use crate::control::{Connection, Delivery, Request};
use crate::devices::Devices;
use crate::health::{Health, Ways};
use crate::lent::Lent;
use crate::mirror::Mirror;
use crate::names::desk::Desk;
use crate::snapshot::{self, EVERY, PICKUP};
use crate::watching::{Asked, Watching};
use crate::workers::{self, Running};
use crate::{status, steering};

const LISTENER: Token = Token(0);
const NEWS: Token = Token(1);
const CONTROL: Token = Token(2);
const LESSONS: Token = Token(3);
/// Between two looks at rings and clocks: while events come, and while none do.
const TURN: Duration = Duration::from_millis(2);
const QUIET_TURN: Duration = Duration::from_millis(10);
const EVENTS_A_TURN: usize = 4096;
/// The kernel forgets neighbours that it does not use itself: it is reminded of ours.
const REMIND: u64 = 10 * Now::SECOND;
/// Devices that are not there are looked for.
const LOOK_AGAIN: u64 = Now::SECOND / 2;
/// A generation is on every worker within this, or something is badly wrong.
const SEEN_WITHIN: Duration = Duration::from_secs(2);

pub struct Housekeeping {
    settings: DataplaneSettings,
    always: Vec<Prefix>,
    clock: Clock,
    poll: Poll,
    listener: UnixListener,
    control: Option<Connection>,
    mirror: Mirror,
    mirrored: Records,
    told: Records,
    generation: u64,
    /// Control has spoken; until then packets find no tables and are dropped.
    live: bool,
    desk: Arc<Desk>,
    seen: Seen,
    workers: Vec<Running>,
    devices: Devices,
    rules: steering::Rules,
    asked: HashMap<Wanted, Now>,
    announcer: Announcer,
    lent: Lent,
    watching: Watching,
    health: Health,
    stop: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
    writing: Vec<Receiver<Vec<FlowRecord>>>,
    written: Vec<FlowRecord>,
    writer: Option<JoinHandle<()>>,
    wrote_at: Now,
    reminded_at: Now,
    looked_at: Now,
    picking_up: bool,
    /// No events came in the last turn.
    quiet: bool,
    /// Events that were thrown away because there was no control to hear them.
    unheard: u64,
    chores: learning::Chores,
}

impl Housekeeping {
    /// Take everything that the gateway needs, in the order in which nothing is open for a moment.
    pub fn start(settings: DataplaneSettings) -> Result<Self> {
        let clock = Clock::start();
        let (stop, reload) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::clone(&reload))?;
        let always = settings.guarded.iter().map(|text| prefix(text)).collect::<Result<Vec<_>>>()?;
        let mut mirror =
            Mirror::new(&settings.interfaces).context("cannot read the kernel's tables by netlink")?;
        let mirrored = mirror.read().context("cannot read the kernel's tables by netlink")?;
        let flows =
            settings.snapshot.as_deref().map(snapshot::read_flows).transpose().unwrap_or_else(|error| {
                tracing::warn!("flows of the last process are lost: {error}");
                None
            });
        let flows = flows.unwrap_or_default();
        let poll = Poll::new()?;
        let desk = Arc::new(Desk::new(poll.registry(), LESSONS, Seed(workers::seed()?))?);
        let workers = workers::start(&settings, &desk, clock, &flows)?;
        let seen = desk.sit().publisher.seen();
        let listener = listen(&settings.socket, &poll)?;
        let news: RawFd = mirror.news();
        poll.registry().register(&mut SourceFd(&news), NEWS, Interest::READABLE)?;
        let devices = Devices::new(&settings, &mirror.devices);
        let now = clock.now();
        let mut house = Self {
            always,
            clock,
            poll,
            listener,
            control: None,
            mirror,
            mirrored: Records::new(),
            told: Records::new(),
            generation: 0,
            live: false,
            seen,
            desk,
            workers,
            devices,
            rules: steering::Rules::default(),
            asked: HashMap::new(),
            announcer: Announcer::new(&settings.interfaces),
            lent: Lent::new(settings.addresses_on.clone()),
            watching: Watching::default(),
            health: Health::new(workers::seed()?[0]),
            stop,
            reload,
            writing: Vec::new(),
            written: Vec::new(),
            writer: None,
            wrote_at: now,
            reminded_at: now,
            looked_at: now,
            picking_up: true,
            quiet: false,
            unheard: 0,
            chores: learning::Chores::new(now),
            settings,
        };
        house.devices.attach_all(&house.mirror.devices, &house.workers, &house.rules)?;
        house.take_mirror(mirrored);
        house.remember_names();
        house.report(flows.len());
        drop(sd_notify::notify(&[sd_notify::NotifyState::Ready]));
        Ok(house)
    }

    pub fn run(mut self) -> Result<()> {
        let mut events = Events::with_capacity(64);
        while !self.stop.load(Ordering::Relaxed) {
            // Rows that services lack are built in all the time that nothing else wants.
            let most = match (self.desk.sit().publisher.has_rows_to_build(), self.is_quiet()) {
                (true, _) => Duration::ZERO,
                (false, true) => QUIET_TURN,
                (false, false) => TURN,
            };
            if let Err(error) = self.poll.poll(&mut events, Some(most))
                && error.kind() != std::io::ErrorKind::Interrupted
            {
                return Err(error.into());
            }
            let tokens: Vec<Token> = events.iter().map(mio::event::Event::token).collect();
            for token in tokens {
                match token {
                    LISTENER => self.accept(),
                    NEWS if self.mirror.drain() => self.read_kernel(),
                    NEWS => {}
                    LESSONS => {}
                    _ => self.hear_control(),
                }
            }
            self.turn();
        }
        self.shut_down()
    }

    /// Does nothing ask for more than to be looked at now and then? (Whatever waits rings.)
    fn is_quiet(&self) -> bool {
        self.quiet
            && self.writing.is_empty()
            && self.health.is_idle()
            && self.watching.is_idle()
            && self.announcer.is_idle()
    }

    fn turn(&mut self) {
        let now = self.clock.now();
        self.learn(now);
        self.see_to_waiting(now);
        if self.reload.swap(false, Ordering::Relaxed) {
            tracing::info!("reading the kernel's tables again, as asked");
            self.lent.mirror_is_old = true;
        }
        if std::mem::take(&mut self.lent.mirror_is_old) {
            self.read_kernel();
        }
        self.drain_events();
        self.watching.drain(self.control.as_mut(), || self.desk.tables(), now);
        self.announcer.turn(now);
        self.lent.turn(&self.mirror, now);
        self.ask_backends(now);
        self.write_flows(now);
        if now.0.saturating_sub(self.looked_at.0) > LOOK_AGAIN {
            self.looked_at = now;
            self.follow_devices();
            drop(sd_notify::notify(&[sd_notify::NotifyState::Watchdog]));
        }
        if now.0.saturating_sub(self.reminded_at.0) > REMIND {
            self.reminded_at = now;
            self.remind_kernel();
        }
        if self.picking_up && self.clock.age() > PICKUP {
            // Who has no room for a command now is told in the next turn, with the others.
            let tell =
                |worker: &Running| worker.handle.command(Box::new(|state, _, _| state.config.pickup = false));
            self.picking_up = !self.workers.iter().map(tell).fold(true, |all, told| all & told);
        }
        if let Some(control) = &mut self.control {
            control.flush();
        }
    }

    fn report(&self, flows: usize) {
        for attached in self.workers.iter().flat_map(|worker| &worker.attached) {
            tracing::info!(
                "{} queue {}: AF_XDP in {} mode{}",
                attached.name,
                attached.queue,
                if attached.copy == sluice_xsk::Copy::Zero { "zero-copy" } else { "copy" },
                attached.reason.as_ref().map_or(String::new(), |reason| format!(" ({reason})"))
            );
        }
        let huge = self.workers.iter().all(|worker| worker.huge_pages);
        tracing::info!(
            "{} worker(s), {} pages, {flows} flows taken over; listening on {}",
            self.workers.len(),
            if huge { "huge" } else { "ordinary" },
            self.settings.socket.display()
        );
    }

    fn accept(&mut self) {
        // What came before there was somebody to hear it is not the next one's to have missed.
        self.drain_events();
        while let Ok((mut stream, _)) = self.listener.accept() {
            if self.control.is_some() {
                tracing::info!("another control process takes over");
            }
            if let Some(mut old) = self.control.take() {
                drop(self.poll.registry().deregister(&mut old.stream));
            }
            self.watching = Watching::default();
            let interest = Interest::READABLE | Interest::WRITABLE;
            if let Err(error) = self.poll.registry().register(&mut stream, CONTROL, interest) {
                tracing::warn!("cannot listen to control: {error}");
                continue;
            }
            self.control = Some(Connection::new(stream));
        }
    }

    fn hear_control(&mut self) {
        let Some(control) = &mut self.control else { return };
        match control.requests() {
            Ok(requests) => requests.into_iter().for_each(|request| match request {
                Request::Delivery(delivery) => self.deliver(delivery),
                Request::Ask(id, question) => self.answer(id, question),
                Request::Hello => self.greet_control(),
            }),
            Err(why) => {
                tracing::warn!("{why}; going on with generation {}", self.generation);
                if let Some(mut old) = self.control.take() {
                    drop(self.poll.registry().deregister(&mut old.stream));
                }
            }
        }
    }

    /// Publish what control sent, or refuse it whole. Until the first time nothing is live: without policies every packet
    /// would be allowed, and without services every flow to one cut.
    fn deliver(&mut self, delivery: Delivery) {
        let began = self.clock.now();
        let changes = if delivery.whole {
            let wanted: Records = delivery.changes.into_iter().map(|change| (change.key(), change)).collect();
            diff(&self.told, &wanted)
        } else {
            delivery.changes
        };
        let generation = delivery.generation;
        let first = if self.live { Vec::new() } else { self.mirrored.values().cloned().collect() };
        let laid = self.health.overlay(&changes, &self.told);
        let answer = match self.publish_with_names(first, &laid) {
            Ok(()) => {
                self.live = true;
                merge(&mut self.told, &changes);
                self.health.refresh(&self.told, &changes, began);
                self.generation = generation;
                // Everything is looked at for it: only when it can say something new.
                if delivery.whole || changes.iter().any(steering::matters) {
                    self.steer();
                }
                let microseconds = (self.clock.now().0 - began.0) / 1000;
                ToControl::Ack { generation, microseconds }
            }
            Err(why) => {
                tracing::error!("generation {generation} refused: {why}");
                ToControl::Nack { generation, why }
            }
        };
        if let Some(control) = &mut self.control {
            control.send(&answer);
        }
    }

    /// Make it live on every worker.
    fn publish(&self, changes: Vec<Change>) -> Result<(), String> {
        if changes.is_empty() {
            return Ok(());
        }
        let version = self.desk.sit().publisher.publish(changes).map_err(|error| error.to_string())?;
        self.wait_seen(version);
        Ok(())
    }

    fn wait_seen(&self, version: u64) {
        if !self.seen.wait(version, SEEN_WITHIN) {
            tracing::error!("a worker has not looked at its tables for {SEEN_WITHIN:?}");
        }
    }

    fn read_kernel(&mut self) {
        match self.mirror.read() {
            Ok(records) => self.take_mirror(records),
            Err(error) => tracing::warn!("cannot read the kernel's tables: {error}"),
        }
        self.follow_devices();
    }

    fn follow_devices(&mut self) {
        self.devices.follow(&self.mirror.devices, &mut self.workers, &self.rules);
    }

    fn take_mirror(&mut self, records: Records) {
        let changes = diff(&self.mirrored, &records);
        if changes.is_empty() {
            return;
        }
        if self.live
            && let Err(why) = self.publish(changes)
        {
            tracing::error!("the kernel's tables do not fit: {why}");
            return;
        }
        self.mirrored = records;
        self.steer();
    }

    /// Tell the XDP programs and the links what is ours. Before control has spoken, an earlier process's rules stay.
    fn steer(&mut self) {
        let now = self.clock.now();
        self.lent.refresh(&self.told, &mut self.mirror, now);
        self.announcer.refresh(&self.told, &self.mirrored, &self.mirror.devices, now);
        if self.told.is_empty() && self.always.is_empty() {
            return;
        }
        let rules = steering::rules(&self.told, &self.mirrored, &self.always);
        if rules == self.rules {
            return;
        }
        self.devices.set_rules(&rules);
        self.rules = rules;
    }

    fn answer(&mut self, id: u32, question: Question) {
        let answer = match question {
            Question::Status => {
                let seconds = self.clock.age().as_secs();
                let tables = self.desk.tables();
                let mut status =
                    status::status(seconds, self.generation, &tables, &self.workers, &self.devices);
                status["announced"] = self.announcer.show().chain(self.lent.show()).collect();
                status["events_unheard"] = self.unheard.into();
                status["health"] = self.health.show();
                status["names"] = self.desk.sit().learning.status();
                Answer::Status(status.to_string())
            }
            Question::Names { limit } => {
                let most = usize::try_from(limit).unwrap_or(usize::MAX).min(100_000);
                Answer::Names(self.show_names(most))
            }
            Question::Flows { limit } => {
                let most = usize::try_from(limit).unwrap_or(usize::MAX).min(100_000);
                let receivers: Vec<_> = self.workers.iter().map(|worker| worker.export(most)).collect();
                let mut flows: Vec<FlowRecord> =
                    receivers.iter().flat_map(|receiver| receiver.iter().flatten()).collect();
                flows.truncate(most);
                Answer::Flows(flows)
            }
            Question::Watch { filter, packets, milliseconds, frames } => {
                let until = Now(self.clock.now().0.saturating_add(milliseconds.saturating_mul(1_000_000)));
                let asked = Asked { filter: *filter, packets, until, frames };
                self.watching.start(id, &asked, &self.workers).map_or_else(Answer::Failed, |()| Answer::Done)
            }
            Question::Unwatch { watch } => {
                self.watching.stop(watch);
                Answer::Done
            }
        };
        if let Some(control) = &mut self.control {
            control.send(&ToControl::Answer { id, answer });
        }
    }

    fn drain_events(&mut self) {
        let mut events = Vec::new();
        let mut lost = 0;
        for worker in &mut self.workers {
            lost += worker.events.lost();
            while events.len() < EVENTS_A_TURN
                && let Some(event) = worker.events.take()
            {
                events.push(event.into());
            }
        }
        self.quiet = events.is_empty();
        let Some(control) = &mut self.control else {
            self.unheard += events.len() as u64;
            return;
        };
        if events.is_empty() {
            return;
        }
        // Before its greeting is answered control expects nothing else.
        if control.is_slow() || !control.is_greeted() {
            control.lost_events += events.len() as u64;
            return;
        }
        let lost = lost + control.lost_events;
        control.send(&ToControl::Events { events, lost });
    }

    /// Ask backends whether they are alive, and publish what their answers change.
    fn ask_backends(&mut self, now: Now) {
        if self.health.is_idle() {
            return;
        }
        let mut wanted = Vec::new();
        let tables = self.desk.tables();
        let outsides = self.workers.iter_mut().map(|worker| &mut worker.outside).collect();
        let changes = self.health.turn(&mut Ways { tables: &tables, outsides }, &self.told, now, &mut wanted);
        drop(tables);
        wanted.into_iter().for_each(|wanted| self.ask_for(wanted, now));
        if let Err(why) = self.publish(changes) {
            tracing::error!("what probes found cannot be published: {why}");
        }
    }

    /// What packets wait for: neighbours, and rows of services.
    fn see_to_waiting(&mut self, now: Now) {
        self.asked.retain(|_, at| now.0.saturating_sub(at.0) < Now::SECOND / 2);
        let (mut neighbours, mut rows) = (Vec::new(), BTreeSet::new());
        for worker in &mut self.workers {
            while let Ok(wanted) = worker.wanted.pop() {
                match wanted {
                    Wanted::Neighbour { .. } => neighbours.push(wanted),
                    Wanted::Row(service) => drop(rows.insert(service)),
                }
            }
        }
        self.desk.build_rows(rows);
        neighbours.into_iter().for_each(|wanted| self.ask_for(wanted, now));
    }

    /// Twice a second at most.
    fn ask_for(&mut self, wanted: Wanted, now: Now) {
        if let Wanted::Neighbour { port, ip } = wanted
            && self.asked.insert(wanted, now).is_none()
            && let Err(error) = self.mirror.ask(port, ip)
        {
            tracing::debug!("the kernel cannot look for {ip}: {error}");
        }
    }

    /// Have the kernel keep the neighbours that we use.
    fn remind_kernel(&self) {
        let hops = self
            .mirrored
            .values()
            .filter_map(|change| if let Change::NextHop(_, hop) = change { hop.as_ref() } else { None });
        let known = hops.filter(|hop| hop.mac.is_some()).map(|hop| (hop.port, hop.ip));
        let known: Vec<(PortId, IpAddr)> = known.take(1024).collect();
        for (port, ip) in known {
            drop(self.mirror.ask(port, ip));
        }
    }

    /// Write flows down, a step a turn, and the file on a thread of its own: neighbours and names do not wait for a disk.
    fn write_flows(&mut self, now: Now) {
        let Some(path) = self.settings.snapshot.clone() else { return };
        let every = u64::try_from(EVERY.as_nanos()).unwrap_or(u64::MAX);
        let due = now.0.saturating_sub(self.wrote_at.0) > every;
        if self.writing.is_empty() && due && self.writer.as_ref().is_none_or(JoinHandle::is_finished) {
            self.wrote_at = now;
            self.writing = self.workers.iter().map(|worker| worker.export(usize::MAX)).collect();
        }
        if self.writing.is_empty() {
            return;
        }
        use std::sync::mpsc::TryRecvError;
        self.writing.retain(|receiver| {
            loop {
                match receiver.try_recv() {
                    Ok(piece) => self.written.extend(piece),
                    Err(TryRecvError::Empty) => return true,
                    Err(TryRecvError::Disconnected) => return false,
                }
            }
        });
        if self.writing.is_empty() {
            let flows = std::mem::take(&mut self.written);
            self.writer = Some(std::thread::spawn(move || write_down(&path, &flows)));
        }
    }

    /// Everything in order: flows down, program off, workers out.
    fn shut_down(mut self) -> Result<()> {
        tracing::info!("stopping");
        drop(sd_notify::notify(&[sd_notify::NotifyState::Stopping]));
        if let Some(path) = self.settings.snapshot.clone() {
            let receivers: Vec<_> = self.workers.iter().map(|worker| worker.export(usize::MAX)).collect();
            let flows: Vec<FlowRecord> =
                receivers.iter().flat_map(|receiver| receiver.iter().flatten()).collect();
            // The latest is the last to be written.
            self.writer.take().into_iter().for_each(|writer| drop(writer.join()));
            write_down(&path, &flows);
        }
        self.write_names_now();
        self.lent.withdraw(&self.mirror);
        self.devices.detach_all();
        self.workers.iter_mut().for_each(Running::stop);
        drop(std::fs::remove_file(&self.settings.socket));
        Ok(())
    }
}

fn write_down(path: &Path, flows: &[FlowRecord]) {
    if let Err(error) = snapshot::write(path, snapshot::FLOWS, flows) {
        tracing::warn!("cannot write flows to {}: {error}", path.display());
    }
}

fn listen(path: &PathBuf, poll: &Poll) -> Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    // A socket that nobody answers on is a leftover.
    if std::os::unix::net::UnixStream::connect(path).is_err() {
        drop(std::fs::remove_file(path));
    }
    let mut listener = UnixListener::bind(path)
        .with_context(|| format!("cannot listen on {} (is another sluiced running?)", path.display()))?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    Ok(listener)
}

fn prefix(text: &str) -> Result<Prefix> {
    let wrong = || format!("{text} is no prefix");
    let (addr, len) = text.split_once('/').with_context(wrong)?;
    Ok(Prefix { addr: addr.parse().with_context(wrong)?, len: len.parse().with_context(wrong)? })
}
