//! Reading peers: selectors with the namespace that they inherit, CIDRs, entities, services, names.

use super::{Entity, Peer};
use sluice_core::tables::record::Prefix;

use crate::decode::{Fields, Place, Problems, prefix};
use crate::identity::holds;
use crate::labels::{NAMESPACE, NAMESPACE_LABELS, Operator, Selector};
use crate::tree::{Node, Value};

/// Where a selector of peers looks that says nothing of namespaces.
#[derive(Clone, Copy, Debug)]
pub enum Home<'a> {
    /// In the policy's own.
    Namespace(&'a str),
    /// In all, which the world has none of: policies for the whole cluster.
    AnyNamespace,
    /// Anywhere, outside too.
    Anywhere,
}

/// A selector of peers, with what Cilium adds to it.
pub fn endpoints(node: &Node, place: Place, home: Home<'_>, problems: &mut Problems) -> Peer {
    let mut fields = Fields::new(node, place, problems);
    let mut selector = Selector::read(&mut fields);
    let names_namespace = selector.mentions(|r| r.key == NAMESPACE || r.key.starts_with(NAMESPACE_LABELS));
    let reserved = selector.mentions(|r| r.source == "reserved");
    if !names_namespace && !reserved {
        match home {
            Home::Namespace(own) => selector.and("k8s", NAMESPACE, Operator::In(vec![own.to_owned()])),
            Home::AnyNamespace => selector.and("k8s", NAMESPACE, Operator::Exists),
            Home::Anywhere => {}
        }
    }
    Peer::Endpoints(selector)
}

/// `fromCIDR` and `toCIDR`.
pub fn cidr(text: &str, node: &Node, place: &Place, problems: &mut Problems) -> Option<Peer> {
    match prefix(text) {
        Ok(prefix) => Some(Peer::Cidr { prefix, except: Vec::new() }),
        Err(what) => {
            problems.errors.push(place.problem(node, what));
            None
        }
    }
}

/// `fromCIDRSet` and `toCIDRSet`.
pub fn cidr_set(node: &Node, place: Place, problems: &mut Problems) -> Option<Peer> {
    let mut fields = Fields::new(node, place, problems);
    let (cidr, group) = (fields.text("cidr"), fields.text("cidrGroupRef"));
    let selector = fields.object("cidrGroupSelector").map(|(node, place)| {
        let mut fields = Fields::new(node, place, fields.problems);
        Selector::read(&mut fields)
    });
    let except = holes(&mut fields);
    fields.deny_unknown();
    let given = usize::from(cidr.is_some()) + usize::from(group.is_some()) + usize::from(selector.is_some());
    if given != 1 {
        fields.error(node, "exactly one of cidr, cidrGroupRef and cidrGroupSelector is needed");
        return None;
    }
    let Some(cidr) = cidr else {
        let except = except.into_iter().map(|(prefix, _, _)| prefix).collect();
        return Some(Peer::Group { name: group, selector, except });
    };
    with_holes(&mut fields, &cidr, except)
}

/// Kubernetes' `ipBlock`.
pub fn ip_block(node: &Node, place: Place, problems: &mut Problems) -> Option<Peer> {
    let mut fields = Fields::new(node, place, problems);
    let cidr = fields.text("cidr");
    let except = holes(&mut fields);
    fields.deny_unknown();
    let Some(cidr) = cidr else {
        fields.error(node, "cidr is missing");
        return None;
    };
    with_holes(&mut fields, &cidr, except)
}

type Hole<'a> = (Prefix, &'a Node, Place);

fn holes<'a>(fields: &mut Fields<'a, '_>) -> Vec<Hole<'a>> {
    let mut except = Vec::new();
    for (text, node, place) in fields.texts("except") {
        match prefix(&text) {
            Ok(prefix) => except.push((prefix, node, place)),
            Err(what) => fields.problems.errors.push(place.problem(node, what)),
        }
    }
    except
}

fn with_holes(fields: &mut Fields<'_, '_>, cidr: &str, except: Vec<Hole<'_>>) -> Option<Peer> {
    let prefix = match prefix(cidr) {
        Ok(prefix) => prefix,
        Err(what) => {
            let node = fields.node;
            fields.error(node, what);
            return None;
        }
    };
    for (hole, node, place) in &except {
        if !holds(&prefix, hole) {
            fields.problems.errors.push(place.problem(node, format!("the exception lies outside {cidr}")));
        }
    }
    Some(Peer::Cidr { prefix, except: except.into_iter().map(|(prefix, _, _)| prefix).collect() })
}

pub fn entity(text: &str, node: &Node, place: &Place, problems: &mut Problems) -> Option<Peer> {
    let entity = match text {
        "all" => Entity::All,
        "none" => Entity::None,
        "world" => Entity::World,
        "world-ipv4" => Entity::WorldIpv4,
        "world-ipv6" => Entity::WorldIpv6,
        "cluster" | "cluster-mesh" => Entity::Cluster,
        "host" => Entity::Host,
        "remote-node" => Entity::RemoteNode,
        "kube-apiserver" => Entity::KubeApiserver,
        "init" => Entity::Init,
        "health" => Entity::Health,
        "unmanaged" => Entity::Unmanaged,
        "ingress" => Entity::Ingress,
        other => {
            problems.errors.push(place.problem(node, format!("there is no entity {other}")));
            return None;
        }
    };
    Some(Peer::Entity(entity))
}

pub fn nodes(node: &Node, place: Place, problems: &mut Problems) -> Peer {
    let mut fields = Fields::new(node, place, problems);
    Peer::Nodes(Selector::read(&mut fields))
}

/// `toServices`: by name or by the service's labels; an empty namespace is any.
pub fn service(node: &Node, place: Place, problems: &mut Problems) -> Option<Peer> {
    let mut fields = Fields::new(node, place, problems);
    let named = fields.object("k8sService");
    let selected = fields.object("k8sServiceSelector");
    fields.deny_unknown();
    match (named, selected) {
        (Some((node, place)), None) => {
            let mut fields = Fields::new(node, place, fields.problems);
            let (name, namespace) = (fields.text("serviceName"), fields.text("namespace"));
            fields.deny_unknown();
            if name.as_ref().is_none_or(String::is_empty) {
                fields.error(node, "serviceName is missing");
            }
            Some(Peer::Service { namespace: namespace.filter(|n| !n.is_empty()), name, selector: None })
        }
        (None, Some((node, place))) => {
            let mut fields = Fields::new(node, place, fields.problems);
            let namespace = fields.text("namespace").filter(|n| !n.is_empty());
            let selector = fields.object("selector").map(|(node, place)| {
                let mut fields = Fields::new(node, place, fields.problems);
                Selector::read(&mut fields)
            });
            fields.deny_unknown();
            Some(Peer::Service {
                namespace,
                name: None,
                selector: selector.or_else(|| Some(Selector::default())),
            })
        }
        _ => {
            fields.error(node, "exactly one of k8sService and k8sServiceSelector is needed");
            None
        }
    }
}

/// `toFQDNs`.
pub fn name(node: &Node, place: Place, problems: &mut Problems) -> Option<Peer> {
    pattern(node, place, problems).map(Peer::Name)
}

/// A name or a pattern, lower case, with a dot at its end.
pub fn pattern(node: &Node, place: Place, problems: &mut Problems) -> Option<String> {
    let mut fields = Fields::new(node, place, problems);
    let (exact, pattern) = (fields.text("matchName"), fields.text("matchPattern"));
    fields.deny_unknown();
    let (text, stars) = match (exact, pattern) {
        (Some(name), None) => (name, false),
        (None, Some(pattern)) => (pattern, true),
        _ => {
            fields.error(node, "exactly one of matchName and matchPattern is needed");
            return None;
        }
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') || (stars && c == '*');
    let labels = text.strip_suffix('.').unwrap_or(&text).split('.');
    if text.len() > 255 || !text.chars().all(fits) || labels.clone().any(str::is_empty) {
        fields.error(node, format!("{text:?} is no DNS name{}", if stars { " or pattern" } else { "" }));
        return None;
    }
    Some(crate::fqdn::normal(&text))
}

/// Is the list there, and is it there but empty? Cilium tells the two apart.
pub fn is_empty_list(node: &Node) -> bool {
    matches!(&node.value, Value::List(items) if items.is_empty())
}
