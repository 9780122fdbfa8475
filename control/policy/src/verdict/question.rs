//! What is asked: who, to whom, by which protocol and port, and what was said.

use std::net::IpAddr;

use serde_json::Value;

use super::Judge;
use crate::identity;
use crate::policy::above::{Talk, all_known};

/// What a question may say.
const FIELDS: [&str; 13] = [
    "id",
    "from",
    "to",
    "proto",
    "port",
    "sport",
    "icmp_type",
    "icmp_code",
    "at",
    "http",
    "dns",
    "kafka",
    "sni",
];

/// One side of a flow.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    Address(IpAddr),
    /// A reserved identity without an address.
    Reserved(u32),
}

/// Protocol and port as policy sees them, and what was said.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub proto: u8,
    pub port: u16,
    /// For ICMP: the type, else the port.
    pub policy_port: u16,
    pub icmp_code: u16,
    pub sport: u16,
    pub talk: Talk,
}

impl Question {
    pub(super) fn read(question: &Value) -> Result<Self, String> {
        if !question.is_object() {
            return Err("a question must be an object".to_owned());
        }
        all_known(question, "", &FIELDS)?;
        let number = |name: &str| -> Result<Option<u16>, String> {
            let most = if name.starts_with("icmp_") { u16::from(u8::MAX) } else { u16::MAX };
            match question.get(name) {
                None | Some(Value::Null) => Ok(None),
                Some(value) => {
                    let n = value.as_u64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n <= most);
                    n.map(Some).ok_or_else(|| format!("{name} must be a number from 0 to {most}"))
                }
            }
        };
        let proto = protocol(question.get("proto"))?;
        let port = number("port")?.unwrap_or(0);
        let echo = if proto == 1 { 8 } else { 128 };
        let kind = number("icmp_type")?;
        let policy_port = if proto == 1 || proto == 58 { kind.unwrap_or(echo) } else { port };
        Ok(Self {
            proto,
            port,
            policy_port,
            icmp_code: number("icmp_code")?.unwrap_or(0),
            sport: number("sport")?.unwrap_or(0),
            talk: Talk::read(question)?,
        })
    }
}

fn protocol(value: Option<&Value>) -> Result<u8, String> {
    match value {
        None | Some(Value::Null) => Ok(6),
        Some(Value::Number(n)) => {
            n.as_u64().and_then(|n| u8::try_from(n).ok()).ok_or_else(|| "proto is beyond 255".to_owned())
        }
        Some(Value::String(name)) => Ok(match name.to_ascii_uppercase().as_str() {
            "TCP" => 6,
            "UDP" => 17,
            "SCTP" => 132,
            "ICMP" => 1,
            "ICMPV6" => 58,
            other => other.parse().map_err(|_| format!("there is no protocol {name}"))?,
        }),
        Some(_) => Err("proto must be a name or a number".to_owned()),
    }
}

/// Names whose meaning is remembered; beyond it all are forgotten.
const MOST_KNOWN: usize = 1 << 20;

impl Judge {
    /// The address family that the question is about, if a side says so.
    pub(super) fn family(&self, question: &Value) -> Option<bool> {
        let address = |name: &str| question.get(name)?.as_str()?.parse::<IpAddr>().ok();
        address("from").or_else(|| address("to")).map(|ip| ip.to_canonical().is_ipv4())
    }

    /// An address, `namespace/name`, or `reserved:NAME`. Of several addresses the one of the wanted family.
    pub(super) fn side(&self, question: &Value, name: &str, v4: Option<bool>) -> Result<Side, String> {
        let text = question.get(name).and_then(Value::as_str).ok_or_else(|| format!("{name} is missing"))?;
        let family = v4.map_or(0, |v4| if v4 { 1 } else { 2 });
        if let Some(side) = self.texts.sides.borrow().get(text).and_then(|known| known[family]) {
            return Ok(side);
        }
        let side = self.read_side(text, v4)?;
        let mut sides = self.texts.sides.borrow_mut();
        if sides.len() >= MOST_KNOWN {
            sides.clear();
        }
        sides.entry(text.to_owned()).or_default()[family] = Some(side);
        Ok(side)
    }

    fn read_side(&self, text: &str, v4: Option<bool>) -> Result<Side, String> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Side::Address(ip.to_canonical()));
        }
        if let Some(name) = text.strip_prefix("reserved:") {
            return self.reserved(name, v4).ok_or_else(|| format!("there is no reserved:{name}"));
        }
        let (namespace, name) =
            text.split_once('/').ok_or_else(|| format!("{text} is no address and no namespace/name"))?;
        let key = (namespace.to_owned(), name.to_owned());
        let endpoint = self
            .compiled
            .objects
            .endpoints
            .get(&key)
            .ok_or_else(|| format!("there is no endpoint {text}"))?;
        let wanted = endpoint.addresses.iter().find(|ip| v4.is_none_or(|v4| ip.is_ipv4() == v4));
        let ip = wanted.or_else(|| endpoint.addresses.first()).copied();
        if endpoint.host_network {
            let known = ip.filter(|ip| self.compiled.engine.owner(*ip).is_some());
            let own = endpoint.node == self.compiled.options.node;
            let number = if own { identity::HOST } else { identity::REMOTE_NODE };
            return Ok(known.map_or(Side::Reserved(number), Side::Address));
        }
        Ok(Side::Address(ip.ok_or_else(|| format!("{text} has no address"))?))
    }

    fn reserved(&self, name: &str, v4: Option<bool>) -> Option<Side> {
        let number = match name {
            "host" => {
                // Our own node has labels that host policies look at.
                let own = self.compiled.objects.nodes.get(&self.compiled.options.node);
                let mut addresses = own.into_iter().flat_map(|node| &node.addresses);
                if let Some(ip) = addresses.find(|ip| v4.is_none_or(|v4| ip.is_ipv4() == v4)) {
                    return Some(Side::Address(*ip));
                }
                identity::HOST
            }
            "unmanaged" => identity::UNMANAGED,
            "health" => identity::HEALTH,
            "init" => identity::INIT,
            "remote-node" => identity::REMOTE_NODE,
            "kube-apiserver" => identity::KUBE_APISERVER,
            "ingress" => identity::INGRESS,
            "world" if self.compiled.options.ipv4 != self.compiled.options.ipv6 => identity::WORLD,
            "world" if v4 == Some(false) => identity::WORLD_IPV6,
            "world" | "world-ipv4" => identity::WORLD_IPV4,
            "world-ipv6" => identity::WORLD_IPV6,
            _ => return None,
        };
        Some(Side::Reserved(number))
    }
}
