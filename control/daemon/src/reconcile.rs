//! Newest objects → compiled → told to the dataplane, once. What is invalid changes nothing and is reported.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sluice_core::tables::record::Change;
use sluice_policy::compile::Compiled;
use sluice_policy::config::Gateway;
use sluice_policy::decode::Problems;
use sluice_policy::objects::{self, Objects};

use crate::history::History;
use crate::link::Link;
use crate::watches::Watches;

/// Everything that the parts of this process share.
pub struct Control {
    pub gateway: Gateway,
    world: Mutex<World>,
    pub history: History,
    pub link: Link,
    pub watches: Watches,
}

/// The objects as they were last valid, and how the latest fared.
pub struct World {
    pub compiled: Arc<Compiled>,
    pub generation: u64,
    /// Live on every worker.
    pub acknowledged: u64,
    /// Microseconds from sending to live, of the last generation.
    pub took: u64,
    pub refused: Option<String>,
    pub problems: Vec<String>,
    pub loaded: bool,
}

impl Control {
    pub fn new(gateway: Gateway) -> Self {
        let compiled = Compiled::new(Objects::default(), gateway.options.clone(), Problems::default());
        let world = World {
            compiled: Arc::new(compiled),
            generation: 0,
            acknowledged: 0,
            took: 0,
            refused: None,
            problems: Vec::new(),
            loaded: false,
        };
        Self {
            gateway,
            world: Mutex::new(world),
            history: History::default(),
            link: Link::default(),
            watches: Watches::default(),
        }
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Read all objects again; if they are valid and mean something else, tell the dataplane the difference.
    pub fn reload(&self) {
        let options = self.gateway.options.clone();
        let (objects, problems) = objects::load(&self.gateway.objects, &options.limits);
        if !problems.is_ok() {
            let told: Vec<String> = problems.errors.iter().map(ToString::to_string).collect();
            for line in told.iter().take(20) {
                tracing::error!("{line}");
            }
            tracing::error!("{} mistake(s): nothing was changed", told.len());
            self.world().problems = told;
            return;
        }
        let mut world = self.world();
        let whole = !world.loaded;
        // What differs is compiled in place: numbers stay what they were, and the cost is that of the difference.
        let compiled = Arc::make_mut(&mut world.compiled);
        let mut changes = compiled.update(objects, problems);
        if whole {
            changes = compiled.changes();
        }
        for warning in &compiled.warnings {
            tracing::warn!("{warning}");
        }
        world.problems.clear();
        if changes.is_empty() && world.loaded {
            return;
        }
        world.loaded = true;
        world.generation += 1;
        tracing::info!("generation {}: {} change(s)", world.generation, changes.len());
        let generation = world.generation;
        drop(world);
        self.link.send_changes(generation, whole, changes);
    }

    /// The whole generation, for a dataplane that has just come.
    pub fn snapshot(&self) -> Option<(u64, Vec<Change>)> {
        let world = self.world();
        world.loaded.then(|| (world.generation, world.compiled.changes()))
    }

    pub fn acknowledge(&self, generation: u64, microseconds: u64) {
        let mut world = self.world();
        world.acknowledged = world.acknowledged.max(generation);
        world.took = microseconds;
        world.refused = None;
        tracing::info!("generation {generation} is live after {microseconds} µs");
    }

    pub fn refuse(&self, generation: u64, why: String) {
        tracing::error!("the dataplane refused generation {generation}: {why}");
        self.world().refused = Some(why);
    }

    /// Objects read, dataplane there, latest generation live?
    pub fn ready(&self) -> Result<(), String> {
        let world = self.world();
        if !world.loaded {
            return Err("no valid set of objects was read yet".to_owned());
        }
        if !self.link.is_up() {
            return Err("the dataplane is not connected".to_owned());
        }
        if world.acknowledged < world.generation {
            return Err(format!("generation {} is not live yet", world.generation));
        }
        Ok(())
    }
}
