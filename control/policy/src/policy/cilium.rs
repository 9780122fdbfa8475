//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy. Every field is read; what cannot be enforced is refused or
//! dropped, never ignored.

use super::peers::{self, Home, is_empty_list};
use super::ports::{PortRules, icmp_rules, port_rules};
use super::{Direction, Effect, Peer, Peers, Policy, Ports, Rule, Source, Spot, Subject, Tier};
use crate::decode::{Fields, Place, Problems};
use crate::labels::{NAMESPACE, Selector};
use crate::objects::Metadata;
use crate::tree::{Node, Value};

const LISTS: [(&str, Direction, bool); 4] = [
    ("ingress", Direction::Ingress, false),
    ("egress", Direction::Egress, false),
    ("ingressDeny", Direction::Ingress, true),
    ("egressDeny", Direction::Egress, true),
];

/// All specs of one object.
pub fn read(
    node: &Node,
    place: Place,
    metadata: Metadata,
    kind: &str,
    problems: &mut Problems,
) -> Vec<Policy> {
    let clusterwide = kind == "CiliumClusterwideNetworkPolicy";
    let namespace = match (clusterwide, metadata.namespace.is_empty()) {
        (true, _) => None,
        (false, true) => Some("default".to_owned()),
        (false, false) => Some(metadata.namespace.clone()),
    };
    let source = Source {
        kind: if clusterwide { "CiliumClusterwideNetworkPolicy" } else { "CiliumNetworkPolicy" },
        namespace: namespace.clone().unwrap_or_default(),
        name: metadata.name,
    };
    let mut fields = Fields::new(node, place, problems);
    let mut specs: Vec<(&Node, Place)> = fields.object("spec").into_iter().collect();
    specs.extend(fields.list("specs").unwrap_or_default());
    for known in ["apiVersion", "kind", "metadata", "status"] {
        fields.raw(known);
    }
    fields.deny_unknown();
    if specs.is_empty() {
        fields.error(node, "spec or specs is needed");
    }
    let reading = |(spec, place): (&Node, Place)| {
        let namespace = namespace.as_deref();
        let home = namespace.map_or(Home::AnyNamespace, Home::Namespace);
        Spec { source: &source, namespace, home }.read(spec, place, fields.problems)
    };
    specs.into_iter().filter_map(reading).collect()
}

#[derive(Clone, Copy)]
struct Spec<'a> {
    source: &'a Source,
    /// `None`: clusterwide.
    namespace: Option<&'a str>,
    /// What selectors of peers are limited to that say nothing of namespaces.
    home: Home<'a>,
}

impl Spec<'_> {
    fn read(&self, node: &Node, place: Place, problems: &mut Problems) -> Option<Policy> {
        let at = Spot::new(node, &place);
        let mut fields = Fields::new(node, place, problems);
        let subject = self.subject(&mut fields);
        // Who is not known yet has no namespace, and neither need its peers.
        let is_init = |subject: &Subject| {
            let Subject::Endpoints(selector) = subject else { return false };
            selector.mentions(|own| own.source == "reserved" && own.key == "init")
        };
        let open = self.namespace.is_none() && subject.as_ref().is_some_and(is_init);
        let this = if open { Self { home: Home::Anywhere, ..*self } } else { *self };
        let defaults = fields.object("enableDefaultDeny").map(|(node, place)| {
            let mut fields = Fields::new(node, place, fields.problems);
            let flags = [fields.flag("ingress"), fields.flag("egress")];
            fields.deny_unknown();
            flags
        });
        let [for_ingress, for_egress] = defaults.unwrap_or_default();
        let (mut rules, mut any, mut seen) = (Vec::new(), false, [false, false]);
        for (list, direction, deny) in LISTS {
            for (index, (item, place)) in fields.list(list).unwrap_or_default().into_iter().enumerate() {
                any = true;
                seen[usize::from(direction == Direction::Egress)] = true;
                let found = this.rule(item, place.clone(), direction, list, index, deny, fields.problems);
                if matches!(subject, Some(Subject::Nodes(_))) {
                    host_rules(item, &place, &found, fields.problems);
                }
                rules.extend(found);
            }
        }
        fields.text("description");
        for (item, place) in fields.list("labels").unwrap_or_default() {
            rule_label(item, place, fields.problems);
        }
        let log = fields.object("log").and_then(|(node, place)| log_value(node, place, fields.problems));
        fields.deny_unknown();
        if !any {
            fields.error(node, "at least one of ingress, egress, ingressDeny and egressDeny is needed");
            return None;
        }
        let default_deny = [for_ingress.unwrap_or(seen[0]), for_egress.unwrap_or(seen[1])];
        Some(Policy { source: self.source.clone(), subject: subject?, rules, default_deny, log, at })
    }

    fn subject(&self, fields: &mut Fields<'_, '_>) -> Option<Subject> {
        let (endpoints, nodes) = (fields.object("endpointSelector"), fields.object("nodeSelector"));
        let node = fields.node;
        match (endpoints, nodes) {
            (Some((node, place)), None) => {
                let mut fields = Fields::new(node, place, fields.problems);
                let mut selector = Selector::read(&mut fields);
                // A clusterwide policy is about whatever it selects, health checks and the ingress included.
                if let Some(namespace) = self.namespace
                    && let Some(other) = selector.force(&["k8s"], NAMESPACE, namespace)
                {
                    let what = format!("selects in {namespace}, the policy's own namespace, not in {other}");
                    fields.warn(node, what);
                }
                Some(Subject::Endpoints(selector))
            }
            (None, Some((node, _))) if self.namespace.is_some() => {
                fields.error(node, "nodeSelector is for CiliumClusterwideNetworkPolicy only");
                None
            }
            (None, Some((node, place))) => {
                let mut inner = Fields::new(node, place, fields.problems);
                let selector = Selector::read(&mut inner);
                fields.warn(node, "host policies are judged offline; the live host is not enforced yet");
                Some(Subject::Nodes(selector))
            }
            _ => {
                fields.error(node, "exactly one of endpointSelector and nodeSelector is needed");
                None
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "where a rule stands is part of what it is")]
    fn rule(
        &self,
        node: &Node,
        place: Place,
        direction: Direction,
        list: &'static str,
        index: usize,
        deny: bool,
        problems: &mut Problems,
    ) -> Vec<Rule> {
        let at = Spot::new(node, &place);
        let mut fields = Fields::new(node, place, problems);
        let (peers, restricted) = self.peers(&mut fields, direction, deny);
        let ports = fields.list("toPorts");
        let icmps = fields.list("icmps");
        let authenticate = !deny && authentication(&mut fields);
        fields.deny_unknown();
        if ports.is_some() && icmps.is_some() {
            fields.error(node, "toPorts and icmps cannot be in one rule");
        }
        let bare = ports.as_ref().is_none_or(Vec::is_empty) && icmps.as_ref().is_none_or(Vec::is_empty);
        let port_rules: PortRules = match (ports, icmps) {
            (Some(items), _) if !items.is_empty() => port_rules(&items, direction, deny, fields.problems),
            (_, Some(items)) if !items.is_empty() => vec![(icmp_rules(&items, fields.problems), None)],
            _ => vec![(Ports::All, None)],
        };
        // `[{}]`: nothing is named, nothing is allowed; the rule only switches default deny on.
        if !restricted && bare {
            return Vec::new();
        }
        let effect = if deny { Effect::Deny } else { Effect::Allow };
        let rule = |(ports, above)| Rule {
            direction,
            list,
            index,
            effect,
            tier: Tier::Normal,
            priority: 0,
            peers: peers.clone(),
            ports,
            authenticate,
            above,
            at: at.clone(),
        };
        port_rules.into_iter().map(rule).collect()
    }

    /// The peers of a rule, and whether it says anything about them.
    fn peers(&self, fields: &mut Fields<'_, '_>, direction: Direction, deny: bool) -> (Peers, bool) {
        let keys: &[&'static str] = match (direction, deny) {
            (Direction::Ingress, _) => &[
                "fromEndpoints",
                "fromCIDR",
                "fromCIDRSet",
                "fromEntities",
                "fromNodes",
                "fromGroups",
                "fromRequires",
            ],
            (Direction::Egress, false) => &[
                "toEndpoints",
                "toCIDR",
                "toCIDRSet",
                "toEntities",
                "toNodes",
                "toServices",
                "toFQDNs",
                "toGroups",
                "toRequires",
            ],
            (Direction::Egress, true) => &[
                "toEndpoints",
                "toCIDR",
                "toCIDRSet",
                "toEntities",
                "toNodes",
                "toServices",
                "toGroups",
                "toRequires",
            ],
        };
        let (mut found, mut kinds, mut restricted) = (Vec::new(), Vec::new(), false);
        for key in keys {
            let Some(node) = fields.some(key) else { continue };
            if key.ends_with("Requires") && is_empty_list(node) {
                continue;
            }
            restricted = true;
            if is_empty_list(node) {
                continue;
            }
            kinds.push(*key);
            self.kind_of_peer(fields, key, node, &mut found);
        }
        if kinds.len() > 1 {
            let node = fields.node;
            fields.error(
                node,
                format!("only one kind of peer may be in a rule, here are {}", kinds.join(" and ")),
            );
        }
        (if restricted { Peers::Any(found) } else { Peers::Anyone }, restricted)
    }

    fn kind_of_peer(
        &self,
        fields: &mut Fields<'_, '_>,
        key: &'static str,
        node: &Node,
        found: &mut Vec<Peer>,
    ) {
        if key.ends_with("CIDR") || key.ends_with("Entities") {
            for (text, node, place) in fields.texts(key) {
                let peer = if key.ends_with("CIDR") { peers::cidr } else { peers::entity };
                found.extend(peer(&text, node, &place, fields.problems));
            }
            return;
        }
        if key.ends_with("Groups") {
            for (item, place) in fields.list(key).unwrap_or_default() {
                cloud_group(item, place, fields.problems);
            }
            let what =
                format!("{key} needs a cloud provider's API, so it selects nothing; use a CiliumCIDRGroup");
            fields.warn(node, what);
            return;
        }
        if key.ends_with("Requires") {
            let instead = if key.starts_with("from") { "fromEndpoints" } else { "toEndpoints" };
            fields.error(node, format!("{key} was removed from Cilium; put the demands into {instead}"));
            return;
        }
        for (item, place) in fields.list(key).unwrap_or_default() {
            match key {
                "fromEndpoints" | "toEndpoints" => {
                    found.push(peers::endpoints(item, place, self.home, fields.problems));
                }
                "fromCIDRSet" | "toCIDRSet" => found.extend(peers::cidr_set(item, place, fields.problems)),
                "fromNodes" | "toNodes" => found.push(peers::nodes(item, place, fields.problems)),
                "toServices" => found.extend(peers::service(item, place, fields.problems)),
                _ => found.extend(peers::name(item, place, fields.problems)),
            }
        }
    }
}

/// `authentication.mode`: disabled is nothing, everything else must be met or dropped.
fn authentication(fields: &mut Fields<'_, '_>) -> bool {
    let Some((node, place)) = fields.object("authentication") else { return false };
    let mut fields = Fields::new(node, place, fields.problems);
    let mode = fields.text("mode").unwrap_or_default();
    fields.deny_unknown();
    match mode.as_str() {
        "disabled" => false,
        "required" | "test-always-fail" => {
            fields.warn(node, "mutual authentication is not done here: flows that need it are dropped (189)");
            true
        }
        other => {
            fields.error(node, format!("mode must be disabled, required or test-always-fail, not {other:?}"));
            true
        }
    }
}

/// A label of the rule itself, by which people find it: `source:key=value`, or the three by themselves as the API server
/// has them.
fn rule_label(node: &Node, place: Place, problems: &mut Problems) {
    if matches!(node.value, Value::Text(_)) {
        return;
    }
    let mut fields = Fields::new(node, place, problems);
    let key = fields.text("key");
    for other in ["value", "source"] {
        fields.text(other);
    }
    fields.deny_unknown();
    if key.is_none_or(|key| key.is_empty()) {
        fields.error(node, "a label needs a key");
    }
}

/// `log.value`: what flows are to say that this policy decides.
fn log_value(node: &Node, place: Place, problems: &mut Problems) -> Option<String> {
    let mut fields = Fields::new(node, place, problems);
    let value = fields.text("value");
    fields.deny_unknown();
    let printable = |value: &String| value.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    if value.as_ref().is_some_and(|value| value.len() > 32 || !printable(value)) {
        fields.error(node, "value may have 32 printable characters at most");
    }
    value
}

/// On nodes nobody reads what is said, but for DNS questions that they ask.
fn host_rules(node: &Node, place: &Place, rules: &[Rule], problems: &mut Problems) {
    let asks = |rule: &Rule| rule.above.as_ref().map(|above| above.is_dns());
    let wrong = |rule: &Rule| match (asks(rule), rule.direction) {
        (None, _) | (Some(true), Direction::Egress) => false,
        (Some(_), _) => true,
    };
    if rules.iter().any(wrong) {
        problems
            .errors
            .push(place.problem(node, "host policies may ask above ports for dns alone, and in egress"));
    }
}

/// `aws`: read, so that mistakes are told; who is in it, only the provider knows.
fn cloud_group(node: &Node, place: Place, problems: &mut Problems) {
    let mut fields = Fields::new(node, place, problems);
    let aws = fields.object("aws");
    fields.deny_unknown();
    let Some((node, place)) = aws else { return };
    let mut fields = Fields::new(node, place, fields.problems);
    fields.labels("labels");
    fields.texts("securityGroupsIds");
    fields.texts("securityGroupsNames");
    fields.text("region");
    fields.deny_unknown();
}
