//! CIDR groups: prefixes under a name, for policies to refer to.

use sluice_core::tables::record::Prefix;

use crate::decode::{Fields, Place, Problems, prefix};
use crate::labels::{Label, LabelSet, Selector};
use crate::objects::Metadata;
use crate::tree::Node;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CidrGroup {
    pub name: String,
    pub labels: Vec<(String, String)>,
    pub prefixes: Vec<Prefix>,
}

impl CidrGroup {
    pub fn read(node: &Node, place: Place, metadata: Metadata, problems: &mut Problems) -> Self {
        let mut prefixes = Vec::new();
        let mut whole = Fields::new(node, place, problems);
        let spec = whole.object("spec");
        for known in ["apiVersion", "kind", "metadata", "status"] {
            whole.raw(known);
        }
        whole.deny_unknown();
        if spec.is_none() {
            whole.error(node, "a CiliumCIDRGroup needs a spec with externalCIDRs");
        }
        if let Some((spec, place)) = spec {
            let mut fields = Fields::new(spec, place, whole.problems);
            for (text, node, place) in fields.texts("externalCIDRs") {
                match prefix(&text) {
                    Ok(prefix) => prefixes.push(prefix),
                    Err(what) => fields.problems.errors.push(place.problem(node, what)),
                }
            }
            fields.deny_unknown();
        }
        Self { name: metadata.name, labels: metadata.labels, prefixes }
    }

    pub fn is_meant(&self, name: Option<&str>, selector: Option<&Selector>) -> bool {
        let labels: LabelSet = self.labels.iter().map(|(key, value)| Label::k8s(key, value)).collect();
        name.is_some_and(|name| name == self.name)
            || selector.is_some_and(|selector| selector.matches(&labels))
    }
}
