//! Flows to services: the frontend that is meant, and the backend that it leads to.

use std::net::IpAddr;

use sluice_core::emit::mapped;
use sluice_core::flow_key::FlowKey;
use sluice_core::tables::record::FrontendKey;
use sluice_core::tables::service::Match;
use sluice_core::verdict::DropReason;

use super::Judge;
use super::question::{Question, Side};

/// Where a flow leads.
pub(super) struct Target {
    /// The frontend, as people write it.
    pub frontend: Option<String>,
    /// Who is reached, or why nobody is.
    pub to: Result<Side, DropReason>,
    pub backend: Option<(IpAddr, u16)>,
}

impl Target {
    fn plain(to: Side) -> Self {
        Self { frontend: None, to: Ok(to), backend: None }
    }

    fn nobody(frontend: Option<String>, why: DropReason) -> Self {
        Self { frontend, to: Err(why), backend: None }
    }
}

impl Judge {
    pub(super) fn service(
        &self,
        name: &str,
        asked: &Question,
        from: Side,
        v4: Option<bool>,
    ) -> Result<Target, String> {
        let mut own = self.compiled.frontends.iter().filter(|one| one.service == name).peekable();
        if own.peek().is_none() {
            return Err(format!("there is no service {name} with a frontend"));
        }
        let fits = own.filter(|one| one.key.port == asked.port && one.key.proto == asked.proto);
        let outside = {
            let row = self.row(self.slot(from));
            row.world || row.number == 0
        };
        // One of the family that the flow has, and of the side that it comes from; else any.
        let best =
            fits.min_by_key(|one| (v4.is_some_and(|v4| one.key.ip.is_ipv4() != v4), one.external != outside));
        Ok(match best {
            Some(one) => self.frontend(one.key, asked, from),
            None => Target::nobody(None, DropReason::NoBackend),
        })
    }

    pub(super) fn by_address(&self, to: Side, asked: &Question, from: Side) -> Target {
        let Side::Address(ip) = to else { return Target::plain(to) };
        let key = FrontendKey { ip, port: asked.port, proto: asked.proto };
        if self.tables.services.frontend(key).is_some() {
            return self.frontend(key, asked, from);
        }
        let whole = FrontendKey { ip, port: 0, proto: 0 };
        if self.tables.services.frontend(whole).is_some() && matches!(asked.proto, 6 | 17 | 132) {
            return Target::nobody(None, DropReason::NoBackend);
        }
        Target::plain(to)
    }

    fn frontend(&self, key: FrontendKey, asked: &Question, from: Side) -> Target {
        let src = match from {
            Side::Address(ip) => ip,
            Side::Reserved(_) if key.ip.is_ipv4() => IpAddr::from([0, 0, 0, 0]),
            Side::Reserved(_) => IpAddr::from([0; 16]),
        };
        let flow = FlowKey {
            src: mapped(src),
            dst: mapped(key.ip),
            sport: asked.sport,
            dport: key.port,
            proto: key.proto,
            v4: key.ip.is_ipv4(),
        };
        let name = format!(
            "{}/{}",
            std::net::SocketAddr::new(key.ip, key.port),
            crate::observed::protocol(key.proto)
        );
        match self.tables.services.lookup(&flow, self.row(self.slot(from))) {
            Match::Service(_, service) => {
                let hash = self.tables.services.hash(&flow, service.record.affinity_seconds > 0);
                match service.pick(hash) {
                    Some(backend) => Target {
                        frontend: Some(name),
                        to: Ok(Side::Address(backend.ip)),
                        backend: Some((backend.ip, backend.port)),
                    },
                    None => Target::nobody(Some(name), DropReason::NoBackend),
                }
            }
            Match::Refused(reason) => Target::nobody(Some(name), reason),
            Match::None => Target::nobody(Some(name), DropReason::NoBackend),
        }
    }
}
