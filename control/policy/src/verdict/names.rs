//! Names learned from the lines of a file of questions, for as long as their time to live lasts in its virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;

use super::Judge;
use crate::fqdn;
use crate::policy::above::all_known;

#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    /// Seconds since the start.
    now: f64,
    /// Until when a name has an address; without a time to live it is for good.
    known: BTreeMap<String, BTreeMap<IpAddr, Option<f64>>>,
}

impl Names {
    /// Beyond `most` addresses of the name those that would end first make room.
    fn learn(&mut self, name: &str, ips: &[IpAddr], lives: Option<f64>, most: usize) {
        let addresses = self.known.entry(name.to_owned()).or_default();
        for ip in ips {
            let deadline = lives.map(|seconds| self.now + seconds);
            let known = addresses.entry(*ip).or_insert(deadline);
            // An earlier end never replaces a later one.
            *known = match (*known, deadline) {
                (Some(old), Some(new)) => Some(old.max(new)),
                (None, _) | (_, None) => None,
            };
        }
        let end = |known: &Option<f64>| known.unwrap_or(f64::INFINITY);
        while addresses.len() > most {
            let first = addresses.iter().min_by(|(_, a), (_, b)| end(a).total_cmp(&end(b)));
            let Some(first) = first.map(|(ip, _)| *ip) else { break };
            addresses.remove(&first);
        }
    }

    fn addresses(&self, name: &str) -> Vec<IpAddr> {
        self.known.get(name).into_iter().flat_map(BTreeMap::keys).copied().collect()
    }

    /// Names that lost an address by now.
    fn expire(&mut self) -> BTreeSet<String> {
        let now = self.now;
        let mut changed = BTreeSet::new();
        for (name, addresses) in &mut self.known {
            let before = addresses.len();
            addresses.retain(|_, deadline| deadline.is_none_or(|deadline| deadline > now));
            if addresses.len() != before {
                changed.insert(name.clone());
            }
        }
        self.known.retain(|_, addresses| !addresses.is_empty());
        changed
    }
}

impl Judge {
    /// `{"learn": {"name", "ips", "ttl"}}`: as if a DNS answer had been seen.
    pub(super) fn learn(&mut self, line: &Value) -> Result<(), String> {
        let learn = &line["learn"];
        all_known(line, "", &["id", "at", "learn"])?;
        all_known(learn, "learn", &["name", "ips", "ttl", "at"])?;
        if let Some(at) = line.get("at").or_else(|| learn.get("at")).filter(|at| !at.is_null()) {
            self.advance(at)?;
        }
        let name = learn["name"].as_str().ok_or("learn.name is missing")?;
        let listed = learn["ips"].as_array().ok_or("learn.ips must be a list of addresses")?;
        let parse = |ip: &Value| {
            let parsed = ip.as_str().and_then(|ip| ip.parse::<IpAddr>().ok());
            parsed.map(|ip| ip.to_canonical()).ok_or_else(|| format!("{ip} is no address"))
        };
        let ips = listed.iter().map(parse).collect::<Result<Vec<IpAddr>, String>>()?;
        let ttl = match learn.get("ttl") {
            None | Some(Value::Null) => None,
            Some(ttl) => {
                let seconds = ttl.as_f64().filter(|ttl| *ttl >= 0.0).ok_or("learn.ttl must be seconds")?;
                Some(seconds.max(f64::from(self.compiled.options.settings.dns.min_ttl)))
            }
        };
        let name = fqdn::normal(name);
        let most = self.compiled.options.settings.dns.most_per_name;
        self.names.learn(&name, &ips, ttl, usize::try_from(most).unwrap_or(usize::MAX));
        self.teach(&name)
    }

    /// Go on to this time; names whose time is over are forgotten.
    pub(super) fn advance(&mut self, at: &Value) -> Result<(), String> {
        let at = at.as_f64().filter(|at| at.is_finite()).ok_or("at must be seconds")?;
        if at <= self.names.now {
            return Ok(());
        }
        self.names.now = at;
        let changed = self.names.expire();
        changed.iter().try_for_each(|name| self.teach(name))
    }

    fn teach(&mut self, name: &str) -> Result<(), String> {
        let changes = self.compiled.learn(name, self.names.addresses(name));
        if changes.is_empty() {
            return Ok(());
        }
        self.texts = super::Texts::default();
        self.tables.apply(&changes, None).map_err(|error| error.to_string()).map(drop)
    }
}
