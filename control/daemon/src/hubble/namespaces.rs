//! Namespaces of those who took part in flows lately.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use sluice_core::event::FlowEvent;
use sluice_policy::observed::Naming;

/// How long a namespace is remembered after its last flow, in milliseconds.
const REMEMBERED: u64 = 3_600_000;

/// When each was last seen, in milliseconds since 1970. There are no more than objects have told of.
#[derive(Debug, Default)]
pub struct Namespaces(Mutex<BTreeMap<String, u64>>);

impl Namespaces {
    pub fn see(&self, event: &FlowEvent, names: &impl Naming, now: u64) {
        for ip in [event.key.source(), event.translated.destination()] {
            let Some(name) = names.endpoint(ip) else { continue };
            let Some((namespace, _)) = name.split_once('/') else { continue };
            let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match seen.get_mut(namespace) {
                Some(last) => *last = now,
                None => drop(seen.insert(namespace.to_owned(), now)),
            }
        }
    }

    /// Those of the last hour, sorted; the others are forgotten.
    pub fn list(&self, now: u64) -> Vec<String> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|_, last| now.saturating_sub(*last) <= REMEMBERED);
        seen.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_without_flows_is_forgotten() {
        let namespaces =
            Namespaces(Mutex::new(BTreeMap::from([("shop".to_owned(), 1000), ("bank".to_owned(), 2000)])));
        assert_eq!(namespaces.list(1000 + REMEMBERED), ["bank", "shop"]);
        assert_eq!(namespaces.list(1001 + REMEMBERED), ["bank"]);
        assert_eq!(namespaces.list(1000), ["bank"], "what is forgotten stays so");
    }
}
