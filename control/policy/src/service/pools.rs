//! Address pools: which addresses LoadBalancer services get where no cluster gives them any.
//!
//! Without a pool nothing is assigned, and services have the addresses that their status tells. With pools, a service has in
//! this order what its status tells, what it had before ([`Pools::held`], which outlives the process), what it asks for,
//! what its sharing key has already, and an address whose place in the pool follows from its name: two gateways with the
//! same objects give the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::frontends::hash;
use super::{Kind, Service};
use crate::decode::{Fields, Place, Problem, Problems, prefix};
use crate::labels::{Label, LabelSet, Selector};
use crate::objects::{Metadata, Objects, address};
use crate::policy::Spot;
use crate::tree::Node;

/// A CiliumLoadBalancerIPPool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    pub name: String,
    created: String,
    blocks: Vec<Block>,
    selector: Option<Selector>,
    disabled: bool,
    at: Spot,
}

/// Addresses from the first to the last, both with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    v4: bool,
    first: u128,
    last: u128,
}

impl Block {
    fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        let block = Self { v4: first.is_ipv4(), first: bits(first), last: bits(last) };
        (first.is_ipv4() == last.is_ipv4() && block.first <= block.last).then_some(block)
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.v4 == other.v4 && self.first <= other.last && other.first <= self.last
    }
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

fn ip(v4: bool, bits: u128) -> IpAddr {
    if v4 {
        Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX)).into()
    } else {
        Ipv6Addr::from_bits(bits).into()
    }
}

impl Pool {
    pub fn read(node: &Node, place: Place, metadata: Metadata, problems: &mut Problems) -> Self {
        let at = Spot::new(node, &place);
        let mut pool = Self {
            name: metadata.name,
            created: metadata.created,
            blocks: Vec::new(),
            selector: None,
            disabled: false,
            at,
        };
        let mut whole = Fields::new(node, place, problems);
        let spec = whole.object("spec");
        for known in ["apiVersion", "kind", "metadata", "status"] {
            whole.raw(known);
        }
        whole.deny_unknown();
        let Some((spec, place)) = spec else {
            whole.error(node, "a CiliumLoadBalancerIPPool needs a spec with blocks");
            return pool;
        };
        let mut fields = Fields::new(spec, place, whole.problems);
        pool.disabled = fields.flag("disabled").unwrap_or(false);
        let edges = match fields.text("allowFirstLastIPs").as_deref() {
            None | Some("Yes") => true,
            Some("No") => false,
            Some(other) => {
                fields.error(spec, format!("allowFirstLastIPs must be Yes or No, not {other}"));
                true
            }
        };
        if let Some((node, place)) = fields.object("serviceSelector") {
            let mut selector = Fields::new(node, place, fields.problems);
            pool.selector = Some(Selector::read(&mut selector));
            selector.deny_unknown();
        }
        for (node, place) in fields.list("blocks").unwrap_or_default() {
            pool.blocks.extend(read_block(node, place, edges, fields.problems));
        }
        fields.deny_unknown();
        pool
    }

    fn selects(&self, service: &Service) -> bool {
        let Some(selector) = &self.selector else { return true };
        let mut labels: LabelSet = service.labels.iter().map(|(key, value)| Label::k8s(key, value)).collect();
        labels.insert(Label::k8s("io.kubernetes.service.name", &service.name));
        labels.insert(Label::k8s("io.kubernetes.service.namespace", &service.namespace));
        selector.matches(&labels)
    }

    fn has(&self, address: IpAddr) -> bool {
        let bits = bits(address);
        let within =
            |block: &Block| block.v4 == address.is_ipv4() && (block.first..=block.last).contains(&bits);
        self.blocks.iter().any(within)
    }

    /// The addresses of a family from `start` on and round again.
    fn from(&self, v4: bool, start: u32) -> impl Iterator<Item = IpAddr> {
        let blocks = move || self.blocks.iter().filter(move |block| block.v4 == v4);
        let sizes = blocks().map(|block| (block.last - block.first).saturating_add(1));
        let total = sizes.fold(0_u128, u128::saturating_add);
        let nth = move |mut n: u128| {
            blocks().find_map(|block| {
                let size = (block.last - block.first).saturating_add(1);
                if n < size {
                    return Some(ip(v4, block.first + n));
                }
                n -= size;
                None
            })
        };
        let start = u128::from(start) % total.max(1);
        (0..total).filter_map(move |n| nth(if n < total - start { start + n } else { n - (total - start) }))
    }
}

fn read_block(node: &Node, place: Place, edges: bool, problems: &mut Problems) -> Option<Block> {
    let mut fields = Fields::new(node, place, problems);
    let (cidr, start, stop) = (fields.text("cidr"), fields.text("start"), fields.text("stop"));
    fields.deny_unknown();
    let block = match (cidr, start, stop) {
        (Some(cidr), None, None) => match prefix(&cidr) {
            Ok(net) => {
                let v4 = net.addr.is_ipv4();
                let host = if v4 { 32 } else { 128 } - u32::from(net.len);
                let first = bits(net.addr);
                let last = first | if host == 128 { u128::MAX } else { (1 << host) - 1 };
                let spare = u128::from(!edges && host > 1);
                Some(Block { v4, first: first + spare, last: last - spare })
            }
            Err(what) => {
                fields.error(node, what);
                return None;
            }
        },
        // One address alone is a start without a stop.
        (None, Some(start), stop) => {
            let place = fields.place.clone();
            let first = address(&start, node, &place, fields.problems)?;
            let last = match stop {
                Some(stop) => address(&stop, node, &place, fields.problems)?,
                None => first,
            };
            Block::new(first, last)
        }
        _ => None,
    };
    if block.is_none() {
        fields.error(node, "a block is a cidr, or a start and a stop that is not before it");
    }
    block
}

/// What a LoadBalancer service says of the addresses that it wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub created: String,
    pub class: Option<String>,
    /// Families by `ipFamilies`: is it IPv4?
    pub families: Vec<bool>,
    /// `ipFamilyPolicy`.
    pub policy: Option<String>,
    pub requested: Vec<IpAddr>,
    pub sharing_key: Option<String>,
    pub sharing_namespaces: Vec<String>,
    pub at: Spot,
}

/// Classes that Cilium takes for its own; a service of another waits for somebody else.
const CLASSES: [&str; 2] = ["io.cilium/bgp-control-plane", "io.cilium/l2-announcer"];

impl Claim {
    pub(super) fn read(node: &Node, place: &Place, metadata: &Metadata, problems: &mut Problems) -> Self {
        let text = |name: &str| {
            let legacy = format!("io.cilium/lb-ipam-{name}");
            metadata.annotation(&format!("lbipam.cilium.io/{name}")).or_else(|| metadata.annotation(&legacy))
        };
        let list = |text: Option<&str>| -> Vec<String> {
            let parts = text.unwrap_or_default().split(',').map(str::trim).filter(|part| !part.is_empty());
            parts.map(str::to_owned).collect()
        };
        let here = place.key("metadata.annotations");
        let mut requested = Vec::new();
        for ip in list(text("ips")) {
            requested.extend(address(&ip, node, &here, problems));
        }
        let spec = node.get("spec");
        let said = |key: &str| spec.and_then(|spec| spec.get(key)).and_then(Node::text);
        if let Some(ip) = said("loadBalancerIP").and_then(|ip| ip.parse().ok()) {
            requested.push(ip);
        }
        let families = spec.and_then(|spec| spec.get("ipFamilies")).map(Node::list).unwrap_or_default();
        Self {
            created: metadata.created.clone(),
            class: said("loadBalancerClass").map(str::to_owned),
            families: families.iter().filter_map(Node::text).map(|family| family == "IPv4").collect(),
            policy: said("ipFamilyPolicy").map(str::to_owned),
            requested,
            sharing_key: text("sharing-key").map(str::to_owned),
            sharing_namespaces: list(text("sharing-cross-namespace")),
            at: Spot::new(node, place),
        }
    }
}

type Key = (String, String);

/// Who has which addresses.
#[derive(Clone, Debug, Default)]
pub struct Pools {
    /// Is there any pool at all?
    active: bool,
    /// What was assigned, by service. To be kept for the next process.
    pub held: BTreeMap<Key, Vec<IpAddr>>,
    /// Who has what is something else than when somebody last looked.
    moved: bool,
    /// What could not be done, and where it is asked for.
    pub warnings: Vec<Problem>,
}

impl Pools {
    /// The addresses of a service's LoadBalancer frontends.
    pub fn addresses(&self, key: &Key, service: &Service) -> Vec<IpAddr> {
        let mut all = service.ingress_ips.clone();
        match service.claim.as_ref().filter(|claim| self.active && is_for_us(claim)) {
            Some(_) => all.extend(self.held.get(key).into_iter().flatten()),
            None => all.extend(service.load_balancer_ip),
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Is anything to be kept for the next process that was not kept yet?
    pub fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Assign by these objects; the services whose addresses are others now.
    pub fn assign(&mut self, objects: &Objects) -> BTreeSet<Key> {
        self.warnings.clear();
        let was_active = self.active;
        self.active = !objects.pools.is_empty();
        if !self.active && !was_active {
            // What an earlier process left waits for the pools.
            return BTreeSet::new();
        }
        let before = std::mem::take(&mut self.held);
        let pools = usable(&objects.pools, &mut self.warnings);
        let mut giving = Giving { pools, objects, taken: HashMap::new(), held: BTreeMap::new() };
        giving.give(&before, &mut self.warnings);
        self.held = giving.held;
        self.moved |= before != self.held;
        let claiming = objects.services.iter().filter(|(_, service)| service.claim.is_some());
        let keys = claiming.map(|(key, _)| key);
        let turned = was_active != self.active;
        keys.filter(|key| turned || before.get(*key) != self.held.get(*key)).cloned().collect()
    }
}

fn is_for_us(claim: &Claim) -> bool {
    claim.class.as_deref().is_none_or(|class| CLASSES.contains(&class))
}

/// Pools that overlap none older than themselves.
fn usable<'a>(pools: &'a BTreeMap<String, Pool>, warnings: &mut Vec<Problem>) -> Vec<&'a Pool> {
    let mut by_age: Vec<&Pool> = pools.values().collect();
    by_age.sort_by_key(|pool| (&pool.created, &pool.name));
    let mut usable: Vec<&Pool> = Vec::new();
    for pool in by_age {
        let meets = |other: &&&Pool| {
            pool.blocks.iter().any(|block| other.blocks.iter().any(|theirs| block.overlaps(theirs)))
        };
        match usable.iter().find(meets) {
            Some(older) => {
                let what = format!("the pool is not used: it overlaps the older pool {}", older.name);
                warnings.push(pool.at.problem(what));
            }
            None => usable.push(pool),
        }
    }
    usable
}

/// One round of giving addresses.
struct Giving<'a> {
    pools: Vec<&'a Pool>,
    objects: &'a Objects,
    /// Who has an address; nobody: it is a node's.
    taken: HashMap<IpAddr, Vec<&'a Key>>,
    held: BTreeMap<Key, Vec<IpAddr>>,
}

type Claiming<'a> = (&'a Key, &'a Service, &'a Claim);

impl<'a> Giving<'a> {
    fn give(&mut self, before: &BTreeMap<Key, Vec<IpAddr>>, warnings: &mut Vec<Problem>) {
        for ip in self.objects.nodes.values().flat_map(|node| &node.addresses) {
            self.taken.entry(*ip).or_default();
        }
        for (key, service) in &self.objects.services {
            for ip in service.ingress_ips.iter().chain(&service.external_ips).chain(&service.cluster_ips) {
                self.taken.entry(*ip).or_default().push(key);
            }
        }
        let services = self.objects.services.iter().filter(|(_, service)| service.kind == Kind::LoadBalancer);
        let claim = |(key, service): (&'a Key, &'a Service)| Some((key, service, service.claim.as_deref()?));
        let mut claiming: Vec<Claiming<'a>> =
            services.filter_map(claim).filter(|(.., claim)| is_for_us(claim)).collect();
        claiming.sort_by_key(|(key, _, claim)| (&claim.created, *key));
        for one in &claiming {
            for ip in before.get(one.0).into_iter().flatten() {
                let asked = one.2.requested.is_empty() || one.2.requested.contains(ip);
                if asked && self.may_have(one, *ip, true).is_ok() {
                    self.take(one, *ip);
                }
            }
        }
        for one in &claiming {
            for ip in &one.2.requested {
                match self.may_have(one, *ip, false) {
                    Ok(()) => self.take(one, *ip),
                    Err(why) => warnings.push(one.2.at.problem(format!("{ip} cannot be given: {why}"))),
                }
            }
        }
        for one in claiming.iter().filter(|(.., claim)| claim.requested.is_empty()) {
            self.automatically(one, warnings);
        }
    }

    fn take(&mut self, (key, ..): &Claiming<'a>, ip: IpAddr) {
        let held = self.held.entry((*key).clone()).or_default();
        if !held.contains(&ip) {
            held.push(ip);
            self.taken.entry(ip).or_default().push(key);
        }
    }

    /// May this service have this address? What is kept may be of a pool that is disabled.
    fn may_have(&self, one: &Claiming<'_>, ip: IpAddr, kept: bool) -> Result<(), String> {
        let pool = self.pools.iter().find(|pool| pool.has(ip)).ok_or("no pool has it (no_pool)")?;
        if pool.disabled && !kept {
            return Err(format!("the pool {} is disabled", pool.name));
        }
        if !pool.selects(one.1) {
            return Err(format!("the pool {} does not select this service", pool.name));
        }
        match self.taken.get(&ip) {
            None => Ok(()),
            Some(others) if others.is_empty() => Err("it is a node's".to_owned()),
            Some(others) => match others.iter().find(|other| **other != one.0 && !self.share(one, other)) {
                None => Ok(()),
                Some((namespace, name)) => Err(format!("{namespace}/{name} has it (already_allocated)")),
            },
        }
    }

    /// May these two have one address?
    fn share(&self, (key, service, claim): &Claiming<'_>, other: &Key) -> bool {
        let Some(theirs) = self.objects.services.get(other) else { return true };
        let Some(their_claim) = theirs.claim.as_deref() else { return false };
        let lets_in = |claim: &Claim, namespace: &String| {
            claim.sharing_namespaces.iter().any(|known| known == "*" || known == namespace)
        };
        let near = key.0 == other.0 || (lets_in(claim, &other.0) && lets_in(their_claim, &key.0));
        let disjoint = service
            .ports
            .iter()
            .all(|port| theirs.ports.iter().all(|p| (p.port, p.proto) != (port.port, port.proto)));
        let alike = service.external_local == theirs.external_local
            && (!service.external_local || service.selector == theirs.selector);
        claim.sharing_key.is_some()
            && claim.sharing_key == their_claim.sharing_key
            && near
            && disjoint
            && alike
    }

    fn automatically(&mut self, one: &Claiming<'a>, warnings: &mut Vec<Problem>) {
        let (key, service, claim) = *one;
        let mut missing = Vec::new();
        let families = self.families(service, claim);
        for v4 in families.iter().copied() {
            let has = |ips: &Vec<IpAddr>| ips.iter().any(|ip| ip.is_ipv4() == v4);
            if has(&service.ingress_ips) || self.held.get(key).is_some_and(has) {
                continue;
            }
            match self.shared(one, v4).or_else(|| self.free(one, v4)) {
                Some(ip) => self.take(one, ip),
                None => missing.push(if v4 { "IPv4" } else { "IPv6" }),
            }
        }
        let enough = claim.policy.as_deref() == Some("PreferDualStack") && missing.len() < families.len();
        if !missing.is_empty() && !enough {
            let what =
                format!("no pool has a free {} address for this service (no_pool)", missing.join(" and no "));
            warnings.push(claim.at.problem(what));
        }
    }

    /// Which families a service wants: is it IPv4?
    fn families(&self, service: &Service, claim: &Claim) -> Vec<bool> {
        if !claim.families.is_empty() {
            return claim.families.clone();
        }
        if matches!(claim.policy.as_deref(), Some("PreferDualStack" | "RequireDualStack")) {
            return vec![true, false];
        }
        if let Some(ip) = service.cluster_ips.first() {
            return vec![ip.is_ipv4()];
        }
        let offers = |v4: bool| {
            let meant = self.pools.iter().filter(|pool| pool.selects(service));
            meant.flat_map(|pool| &pool.blocks).any(|block| block.v4 == v4)
        };
        vec![offers(true) || !offers(false)]
    }

    /// An address that others with the same key have, and would share.
    fn shared(&self, one: &Claiming<'_>, v4: bool) -> Option<IpAddr> {
        let (_, _, claim) = *one;
        claim.sharing_key.as_ref()?;
        let same = |key: &&Key| {
            let other = self.objects.services.get(*key).and_then(|service| service.claim.as_deref());
            other.is_some_and(|other| other.sharing_key == claim.sharing_key)
        };
        let mut theirs = self.held.keys().filter(same).flat_map(|key| &self.held[key]);
        theirs.find(|ip| ip.is_ipv4() == v4 && self.may_have(one, **ip, false).is_ok()).copied()
    }

    fn free(&self, one: &Claiming<'_>, v4: bool) -> Option<IpAddr> {
        let (key, service, _) = *one;
        let start = hash(&[&key.0, &key.1, if v4 { "4" } else { "6" }]);
        // Only so many addresses can be taken: a free one is among these, or there is none.
        let most = self.taken.len() + 1;
        let open = self.pools.iter().filter(|pool| !pool.disabled && pool.selects(service));
        open.flat_map(|pool| pool.from(v4, start).take(most)).find(|ip| !self.taken.contains_key(ip))
    }
}
