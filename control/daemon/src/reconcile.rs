//! Newest objects → compiled → told to the dataplane, once. What is invalid changes nothing and is reported.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::histogram::Histogram;
use sluice_core::tables::record::Change;
use sluice_feed::event::SentEvent;
use sluice_feed::message::WantedSet;
use sluice_policy::compile::Compiled;
use sluice_policy::config::{Gateway, Options};
use sluice_policy::decode::Problems;
use sluice_policy::identity::Numbers;
use sluice_policy::objects::Objects;
use sluice_policy::shelf::Shelf;

use crate::addresses;
use crate::history::{self, History};
use crate::hubble::Namespaces;
use crate::kept;
use crate::link::Link;
use crate::reading;
use crate::source::files::News;
use crate::tally::Tally;
use crate::watches::Watches;

/// Bounds of the histogram of how long a change takes, in seconds.
const LATENCIES: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10.0];

/// Identities of an earlier process come back within this, or not at all.
const CLAIMED_WITHIN: Duration = Duration::from_secs(600);

fn numbers_path(gateway: &Gateway) -> PathBuf {
    gateway.api_socket.with_file_name("identities.json")
}

#[expect(clippy::disallowed_methods, reason = "how long things take is measured here")]
fn now() -> Instant {
    Instant::now()
}

/// Everything that the parts of this process share.
pub struct Control {
    pub gateway: Gateway,
    began: Instant,
    world: Mutex<World>,
    making: Mutex<()>,
    pub history: History,
    pub link: Link,
    pub watches: Watches,
    pub tally: Tally,
    pub namespaces: Namespaces,
    /// Seconds from reading a change to its being live on every worker.
    pub latency: Histogram,
}

/// The objects as they were last valid, and how the latest fared.
pub struct World {
    pub compiled: Compiled,
    /// Which file told of what, as long as all of them are good.
    shelf: Option<Shelf>,
    /// When what a generation that is under way was made of was read.
    under_way: BTreeMap<u64, Instant>,
    pub generation: u64,
    /// Live on every worker.
    pub acknowledged: u64,
    /// Microseconds from sending to live, of the last generation.
    pub took: u64,
    /// And of what went before that: reading, and finding out what differs.
    pub took_to_read: u64,
    pub took_to_compile: u64,
    pub refused: Option<String>,
    /// The dataplane lacks what it refused: the next generation must be told whole.
    lacking: bool,
    pub problems: Vec<String>,
    pub loaded: bool,
    /// When the objects were read that are compiled.
    pub read_at: Option<Instant>,
}

impl World {
    /// How long it took to read and, from then to now, to compile.
    fn note_spans(&mut self, began: Instant, read: Instant) {
        let microseconds = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.took_to_read = microseconds(read.duration_since(began));
        self.took_to_compile = microseconds(read.elapsed());
    }
}

impl Control {
    pub fn new(gateway: Gateway) -> Self {
        let options = Options { names_elsewhere: true, ..gateway.options.clone() };
        let saved = kept::read(&numbers_path(&gateway), "numbers of identities");
        let numbers = Numbers::with_saved(&saved);
        let mut compiled = Compiled::with_numbers(Objects::default(), options, Problems::default(), numbers);
        compiled.frontends.pools.held = addresses::read(&addresses::path(&gateway));
        let world = World {
            compiled,
            shelf: None,
            under_way: BTreeMap::new(),
            generation: 0,
            acknowledged: 0,
            took: 0,
            took_to_read: 0,
            took_to_compile: 0,
            refused: None,
            lacking: false,
            problems: Vec::new(),
            loaded: false,
            read_at: None,
        };
        Self {
            gateway,
            began: now(),
            world: Mutex::new(world),
            making: Mutex::default(),
            history: History::default(),
            link: Link::default(),
            watches: Watches::default(),
            tally: Tally::default(),
            namespaces: Namespaces::default(),
            latency: Histogram::new(LATENCIES),
        }
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Files changed: read what is needed.
    pub fn take(&self, news: News) {
        let _turn = self.turn();
        match news {
            News::Files(files) if self.reread(&files) => {}
            News::Files(_) | News::Everything => self.reload(),
        }
    }

    /// Read only these files. False: that is not enough to tell what they mean.
    fn reread(&self, files: &[PathBuf]) -> bool {
        let began = now();
        let mut guard = self.world();
        let world = &mut *guard;
        let Some(shelf) = world.shelf.as_mut().filter(|_| world.loaded) else { return false };
        let limits = &self.gateway.options.limits;
        let read = |path: &Path| reading::read_file(path, limits);
        let Some(edits) = shelf.reread(files, &world.compiled, read) else {
            world.shelf = None;
            return false;
        };
        let read = now();
        let changes = world.compiled.edit(edits);
        self.keep_addresses(&mut world.compiled);
        world.read_at = Some(began);
        world.compiled.warn(shelf.warnings());
        world.note_spans(began, read);
        self.publish(guard, changes, began);
        true
    }

    /// Read all objects again; if they are valid and mean something else, tell the dataplane the difference.
    fn reload(&self) {
        let began = now();
        let options = self.gateway.options.clone();
        let (objects, problems, seen) = reading::load(&self.gateway.objects, &options.limits);
        if !problems.is_ok() {
            let told: Vec<String> = problems.errors.iter().map(ToString::to_string).collect();
            for line in told.iter().take(20) {
                tracing::error!("{line}");
            }
            tracing::error!("{} mistake(s): nothing was changed", told.len());
            let mut world = self.world();
            (world.problems, world.shelf) = (told, None);
            return;
        }
        let read = now();
        let mut guard = self.world();
        let world = &mut *guard;
        world.shelf = Some(Shelf::new(&seen, &objects, &problems.warnings));
        // What differs is compiled in place: numbers stay what they were, and the cost is that of the difference.
        let mut changes = world.compiled.update(objects, problems);
        self.keep_addresses(&mut world.compiled);
        if !world.loaded {
            changes = world.compiled.changes();
        }
        world.note_spans(began, read);
        for warning in &world.compiled.warnings {
            tracing::warn!("{warning}");
        }
        world.problems.clear();
        world.read_at = Some(began);
        self.publish(guard, changes, began);
    }

    /// Write down who has which number, where that is news. After a while those of an earlier process that nobody has claimed
    /// are free.
    pub fn keep_numbers(&self) {
        let saved = {
            let mut world = self.world();
            let loaded = world.loaded;
            let numbers = world.compiled.engine.numbers_mut();
            if loaded && self.began.elapsed() > CLAIMED_WITHIN {
                numbers.forget_unclaimed();
            }
            numbers.take_changed().then(|| numbers.save())
        };
        if let Some(saved) = saved {
            kept::write(&numbers_path(&self.gateway), "numbers of identities", &saved);
        }
    }

    /// Write down who has which address of pools, where that is news.
    fn keep_addresses(&self, compiled: &mut Compiled) {
        let pools = &mut compiled.frontends.pools;
        if pools.take_moved() {
            addresses::write(&addresses::path(&self.gateway), &pools.held);
        }
    }

    /// A new generation, if there is anything new.
    fn publish(&self, mut world: MutexGuard<'_, World>, changes: Vec<Change>, began: Instant) {
        if changes.is_empty() && world.loaded && !world.lacking {
            return;
        }
        let lacking = std::mem::take(&mut world.lacking);
        let whole = !world.loaded || lacking;
        let changes = if lacking { world.compiled.changes() } else { changes };
        world.loaded = true;
        world.generation += 1;
        tracing::info!("generation {}: {} change(s)", world.generation, changes.len());
        let generation = world.generation;
        // Without a dataplane nothing is under way; how long it was away is no measure of a change.
        if self.link.is_up() {
            world.under_way.insert(generation, began);
        }
        drop(world);
        self.link.send_changes(generation, whole, changes);
    }

    /// Whoever learns names has met sets of patterns that need an identity.
    pub fn want_names(&self, sets: Vec<WantedSet>, whole: bool) {
        let began = now();
        let _turn = self.turn();
        let mut guard = self.world();
        let sets = sets.into_iter().map(|(prefix, patterns)| (prefix, patterns.into_iter().collect()));
        let changes = guard.compiled.want_names(sets.collect(), whole);
        if guard.loaded {
            self.publish(guard, changes, began);
        }
    }

    /// Generations are sent in the order of their numbers: one maker at a time.
    fn turn(&self) -> MutexGuard<'_, ()> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Events came: count them, keep them, tell those who listen.
    pub fn hear(&self, events: Vec<SentEvent>, lost: u64) {
        {
            let (world, now) = (self.world(), history::now());
            for event in &events {
                let event = (*event).into();
                self.tally.add(&event, &world.compiled);
                self.namespaces.see(&event, &world.compiled, now);
            }
        }
        self.history.add(events, lost);
    }

    /// The whole generation, for a dataplane that has just come. Nothing is live on it yet.
    pub fn begin_anew(&self) -> Option<(u64, Vec<Change>)> {
        let mut world = self.world();
        (world.acknowledged, world.lacking, world.refused) = (0, false, None);
        world.under_way.clear();
        world.loaded.then(|| (world.generation, world.compiled.changes()))
    }

    pub fn acknowledge(&self, generation: u64, microseconds: u64) {
        let mut world = self.world();
        if world.lacking {
            // A difference to what was refused.
            return;
        }
        world.acknowledged = world.acknowledged.max(generation);
        // What was overtaken by a snapshot is live with it; only the latest tells how long it took.
        let later = world.under_way.split_off(&(generation + 1));
        let earlier = std::mem::replace(&mut world.under_way, later);
        if let Some(began) = earlier.get(&generation) {
            self.latency.observe(began.elapsed().as_secs_f64());
        }
        world.took = microseconds;
        if generation >= world.generation {
            world.refused = None;
        }
        tracing::info!("generation {generation} is live after {microseconds} µs");
    }

    pub fn refuse(&self, generation: u64, why: String) {
        tracing::error!("the dataplane refused generation {generation}: {why}");
        let mut world = self.world();
        world.under_way.remove(&generation);
        (world.refused, world.lacking) = (Some(why), true);
    }

    /// What being ready takes, each with what is missing.
    pub fn conditions(&self) -> Vec<(&'static str, Result<(), String>)> {
        self.conditions_of(&self.world())
    }

    /// The same, for those who look at the world already.
    pub fn conditions_of(&self, world: &World) -> Vec<(&'static str, Result<(), String>)> {
        let must = |holds: bool, why: String| if holds { Ok(()) } else { Err(why) };
        vec![
            ("objects", must(world.loaded, "no valid set of objects was read yet".to_owned())),
            ("dataplane", must(self.link.is_up(), "the dataplane is not connected".to_owned())),
            (
                "generation",
                must(
                    world.acknowledged >= world.generation,
                    format!("generation {} is not live yet", world.generation),
                ),
            ),
        ]
    }

    /// Objects read, dataplane there, latest generation live?
    pub fn ready(&self) -> Result<(), String> {
        self.conditions().into_iter().try_for_each(|(_, state)| state)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use super::*;

    /// A gateway with a folder of its own.
    pub(crate) struct Lab {
        folder: PathBuf,
        pub control: Arc<Control>,
    }

    impl Lab {
        pub(crate) fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("sluice-reconcile-{}-{name}", std::process::id()));
            std::fs::create_dir_all(folder.join("objects")).unwrap();
            let text = format!(
                "apiVersion: sluice.dev/v1\nkind: Gateway\nspec: {{objects: {{files: [objects]}}, api: {{socket: {}/s}}}}\n",
                folder.display()
            );
            std::fs::write(folder.join("gateway.yaml"), text).unwrap();
            let control = Self::process(&folder);
            Self { folder, control }
        }

        /// A process of this gateway.
        fn process(folder: &Path) -> Arc<Control> {
            let (gateway, problems) = sluice_policy::config::load(&folder.join("gateway.yaml"));
            Arc::new(Control::new(gateway.unwrap_or_else(|| panic!("{problems}"))))
        }

        pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
            let file = self.folder.join("objects").join(name);
            std::fs::write(&file, text).unwrap();
            file
        }
    }

    impl Drop for Lab {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.folder));
        }
    }

    #[test]
    fn addresses_of_pools_are_kept_for_the_next_process_whatever_changed() {
        let lab = Lab::new("pools");
        lab.write(
            "pool.yaml",
            "apiVersion: cilium.io/v2\nkind: CiliumLoadBalancerIPPool\nmetadata: {name: l}\nspec: {blocks: [{cidr: 198.51.100.0/24}]}\n",
        );
        lab.control.take(News::Everything);
        let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {type: LoadBalancer, ports: [{port: 80}]}\n";
        let file = lab.write("web.yaml", service);
        lab.control.take(News::Files(vec![file]));
        let held = lab.control.world().compiled.frontends.pools.held.clone();
        assert_eq!(held.len(), 1, "the service has an address");
        assert_eq!(addresses::read(&addresses::path(&lab.control.gateway)), held);
    }

    #[test]
    fn identities_have_the_numbers_that_they_had_in_the_last_process() {
        let lab = Lab::new("numbers");
        let policy = |cidr: &str| {
            format!(
                "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p{}, namespace: shop}}\nspec:\n  \
                 endpointSelector: {{}}\n  ingress: [{{fromCIDR: [{cidr}]}}]\n",
                cidr.len()
            )
        };
        let numbers = |control: &Control| {
            let world = control.world();
            let number = |ip: &str| {
                let slot = world.compiled.engine.slot_of(ip.parse().unwrap()).unwrap();
                world.compiled.engine.party(slot).unwrap().number
            };
            ["198.51.100.1", "10.0.0.1"].map(number)
        };
        lab.write("one.yaml", &policy("198.51.100.0/24"));
        lab.control.take(News::Everything);
        // What comes later would be first if everything came at once.
        let later = lab.write("two.yaml", &policy("10.0.0.0/8"));
        lab.control.take(News::Files(vec![later]));
        let given = numbers(&lab.control);
        lab.control.keep_numbers();
        let next = Lab::process(&lab.folder);
        next.take(News::Everything);
        assert_eq!(numbers(&next), given);
    }
}
