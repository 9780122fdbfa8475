//! Which file told of which objects, so that a file that changes costs no more than what it says.
//!
//! Only names are kept here; the objects themselves are where they are compiled. What a single file cannot answer (a mistake,
//! an object that two files tell of) is left to a reading of everything, which says all that is wrong.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::compile::{Compiled, Edit};
use crate::decode::Problem;
use crate::objects::{Objects, Read, Seen};
use crate::policy::Source;

/// Kind, namespace, name.
type Name = (String, String, String);

/// What one file told of.
#[derive(Debug, Default)]
struct Told {
    names: BTreeSet<Name>,
    policies: BTreeSet<Source>,
    warnings: Vec<Problem>,
}

/// Everything that was read, by file.
#[derive(Debug, Default)]
pub struct Shelf {
    files: HashMap<String, Told>,
    owners: HashMap<Name, Arc<str>>,
}

impl Shelf {
    /// After everything was read and found good.
    pub fn new(seen: &Seen, objects: &Objects, warnings: &[Problem]) -> Self {
        let mut shelf = Self::default();
        for (name, (file, _)) in seen {
            if !shelf.files.contains_key(&**file) {
                shelf.files.insert(file.to_string(), Told::default());
            }
            if let Some(told) = shelf.files.get_mut(&**file) {
                told.names.insert(name.clone());
            }
            shelf.owners.insert(name.clone(), Arc::clone(file));
        }
        for policy in &objects.policies {
            let told = shelf.files.entry(policy.at.place.file.to_string()).or_default();
            told.policies.insert(policy.source.clone());
        }
        for warning in warnings {
            shelf.files.entry(warning.file.to_string()).or_default().warnings.push(warning.clone());
        }
        shelf
    }

    fn put(&mut self, path: &Path, read: &Read) {
        let file = path.display().to_string();
        let owner: Arc<str> = Arc::from(file.as_str());
        for name in &read.names {
            self.owners.insert(name.clone(), Arc::clone(&owner));
        }
        let policies = read.objects.policies.iter().map(|policy| policy.source.clone()).collect();
        let told = Told { names: read.names.clone(), policies, warnings: read.problems.warnings.clone() };
        self.files.insert(file, told);
    }

    fn take(&mut self, path: &Path) -> Told {
        let told = self.files.remove(&path.display().to_string()).unwrap_or_default();
        told.names.iter().for_each(|name| drop(self.owners.remove(name)));
        told
    }

    /// Read these files again: what to edit. `None`: only a reading of everything can tell, and nothing here has changed.
    pub fn reread(
        &mut self,
        paths: &[PathBuf],
        compiled: &Compiled,
        read_file: impl Fn(&Path) -> Read,
    ) -> Option<Vec<Edit>> {
        let (mut read, mut more) = (Vec::new(), 0);
        for path in paths {
            let gone = !path.exists();
            let file = if gone { Read::default() } else { read_file(path) };
            if !file.problems.is_ok() || !self.is_alone(path, paths, &file) {
                return None;
            }
            more += file.names.len();
            read.push((path.as_path(), file));
        }
        if self.owners.len() + more > compiled.options.limits.objects {
            return None;
        }
        let mut edits = Vec::new();
        // What goes, before what comes: an object may move from one file to another.
        let old: Vec<Told> = read.iter().map(|(path, _)| self.take(path)).collect();
        removals(&old, &read, &mut edits);
        for (path, file) in read {
            arrivals(&file.objects, compiled, &mut edits);
            self.put(path, &file);
        }
        Some(edits)
    }

    /// Does nobody else tell of the same objects? A Pod and an Endpoint of one name count as the same.
    fn is_alone(&self, path: &Path, changing: &[PathBuf], file: &Read) -> bool {
        let other = |name: &Name| {
            self.owners
                .get(name)
                .is_some_and(|owner| !changing.iter().any(|path| Path::new(&**owner) == path))
        };
        let twin = |(kind, namespace, name): &Name| {
            let twin = match kind.as_str() {
                "Pod" => "Endpoint",
                "Endpoint" => "Pod",
                _ => return false,
            };
            self.owners.contains_key(&(twin.to_owned(), namespace.clone(), name.clone()))
        };
        let old = self.files.get(&path.display().to_string()).map(|told| &told.names);
        !file.names.iter().any(|name| other(name) || twin(name)) && !old.into_iter().flatten().any(twin)
    }

    /// What is odd in all files.
    pub fn warnings(&self) -> Vec<Problem> {
        let mut all: Vec<Problem> =
            self.files.values().flat_map(|told| told.warnings.iter().cloned()).collect();
        all.sort();
        all
    }
}

fn removals(old: &[Told], new: &[(&Path, Read)], edits: &mut Vec<Edit>) {
    let names: BTreeSet<&Name> = new.iter().flat_map(|(_, file)| &file.names).collect();
    for (kind, namespace, name) in
        old.iter().flat_map(|told| &told.names).filter(|name| !names.contains(name))
    {
        let key = (namespace.clone(), name.clone());
        edits.extend(match kind.as_str() {
            "Namespace" => Some(Edit::Namespace(key.1, None)),
            "Node" => Some(Edit::Node(key.1, None)),
            "Pod" | "Endpoint" => Some(Edit::Endpoint(key, None)),
            "Service" => Some(Edit::Service(key, None)),
            "EndpointSlice" => Some(Edit::Slice(key, None)),
            "CiliumCIDRGroup" => Some(Edit::Group(key.1, None)),
            "CiliumEgressGatewayPolicy" => Some(Edit::Egress(key.1, None)),
            "CiliumLoadBalancerIPPool" => Some(Edit::Pool(key.1, None)),
            // Policies go by what they call themselves, below; what else there is means nothing to a gateway.
            _ => None,
        });
    }
    let sources: BTreeSet<&Source> =
        new.iter().flat_map(|(_, file)| &file.objects.policies).map(|policy| &policy.source).collect();
    let gone = old.iter().flat_map(|told| &told.policies).filter(|source| !sources.contains(source));
    edits.extend(gone.map(|source| Edit::Policy(source.clone(), Vec::new())));
}

/// What is there and was not, or was something else.
fn arrivals(new: &Objects, compiled: &Compiled, edits: &mut Vec<Edit>) {
    let old = &compiled.objects;
    for (key, value) in new.namespaces.iter().filter(|(key, value)| old.namespaces.get(*key) != Some(value)) {
        edits.push(Edit::Namespace(key.clone(), Some(value.clone())));
    }
    for (key, value) in new.nodes.iter().filter(|(key, value)| old.nodes.get(*key) != Some(value)) {
        edits.push(Edit::Node(key.clone(), Some(value.clone())));
    }
    for group in new.groups.iter().filter(|group| !old.groups.contains(group)) {
        edits.push(Edit::Group(group.name.clone(), Some(group.clone())));
    }
    for (key, value) in new.services.iter().filter(|(key, value)| old.services.get(*key) != Some(value)) {
        edits.push(Edit::Service(key.clone(), Some(value.clone())));
    }
    for (key, value) in new.slices.iter().filter(|(key, value)| old.slices.get(*key) != Some(value)) {
        edits.push(Edit::Slice(key.clone(), Some(value.clone())));
    }
    for (key, value) in new.endpoints.iter().filter(|(key, value)| old.endpoints.get(*key) != Some(value)) {
        edits.push(Edit::Endpoint(key.clone(), Some(value.clone())));
    }
    for policy in new.egress.iter().filter(|policy| !old.egress.contains(policy)) {
        edits.push(Edit::Egress(policy.name.clone(), Some(policy.clone())));
    }
    for (key, value) in new.pools.iter().filter(|(key, value)| old.pools.get(*key) != Some(value)) {
        edits.push(Edit::Pool(key.clone(), Some(value.clone())));
    }
    let mut specs: HashMap<&Source, Vec<crate::policy::Policy>> = HashMap::new();
    for policy in &new.policies {
        specs.entry(&policy.source).or_default().push(policy.clone());
    }
    // By the engine's index: looking through all policies would cost more than the rest.
    let differs = |source: &Source, specs: &Vec<crate::policy::Policy>| {
        !compiled.engine.policies_of(source).eq(specs.iter())
    };
    let mut changed: Vec<_> = specs.into_iter().filter(|(source, specs)| differs(source, specs)).collect();
    changed.sort_by(|one, other| one.0.cmp(other.0));
    edits.extend(changed.into_iter().map(|(source, specs)| Edit::Policy(source.clone(), specs)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Options;
    use crate::objects;

    const OTHERS: &str = "apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: g}\nspec: {externalCIDRs: [198.51.100.0/24]}\n---\n\
        apiVersion: cilium.io/v2\nkind: CiliumLoadBalancerIPPool\nmetadata: {name: l}\nspec: {blocks: [{cidr: 198.51.100.0/24}]}\n---\n\
        apiVersion: cilium.io/v2\nkind: CiliumEgressGatewayPolicy\nmetadata: {name: e}\nspec:\n  selectors: [{podSelector: {}}]\n  \
        destinationCIDRs: [198.51.100.0/24]\n  egressGateway: {nodeSelector: {}, egressIP: 192.0.2.1}\n---\n\
        apiVersion: v1\nkind: Node\nmetadata: {name: n, labels: {rack: 198.51.100.0/24}}\n---\n\
        apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {rack: 198.51.100.0/24}}\n---\n\
        apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: shop}\nspec: {loadBalancerSourceRanges: [198.51.100.0/24], ports: [{port: 80}]}\n---\n\
        apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s1, namespace: shop, labels: {kubernetes.io/service-name: s}}\n\
        addressType: IPv4\nendpoints: [{zone: 198.51.100.0/24}]\n";
    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: NAME, namespace: shop, labels: {app: APP}}\nstatus: {podIPs: [{ip: IP}]}\n";
    const POLICY: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n  \
        endpointSelector: {matchLabels: {app: web}}\n  ingress: [{toPorts: [{ports: [{port: 'PORT', protocol: TCP}]}]}]\n";

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("sluice-shelf-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let file = self.0.join(name);
            std::fs::write(&file, text).unwrap();
            file
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    fn pod(name: &str, app: &str, ip: &str) -> String {
        POD.replace("NAME", name).replace("APP", app).replace("IP}", &format!("{ip}}}"))
    }

    fn start(folder: &Folder) -> (Compiled, Shelf) {
        let options = Options::default();
        let (objects, problems, seen) = objects::load_seen(std::slice::from_ref(&folder.0), &options.limits);
        assert!(problems.is_ok(), "{problems}");
        let shelf = Shelf::new(&seen, &objects, &problems.warnings);
        (Compiled::new(objects, options, problems), shelf)
    }

    /// After any change, what was edited is what a reading of everything gives.
    fn same(compiled: &Compiled, folder: &Folder) {
        let (objects, problems) = objects::load(std::slice::from_ref(&folder.0), &compiled.options.limits);
        assert!(problems.is_ok(), "{problems}");
        assert_eq!(compiled.objects.endpoints, objects.endpoints);
        assert_eq!(compiled.objects.policies, objects.policies);
        assert_eq!(compiled.objects.namespaces, objects.namespaces);
        assert_eq!(compiled.objects.nodes, objects.nodes);
        assert_eq!(compiled.objects.services, objects.services);
        assert_eq!(compiled.objects.slices, objects.slices);
        assert_eq!(compiled.objects.pools, objects.pools);
        assert_eq!(compiled.objects.groups, objects.groups);
        assert_eq!(compiled.objects.egress, objects.egress);
    }

    #[test]
    fn a_file_that_changes_edits_what_it_says_and_no_more() {
        let folder = Folder::new("edits");
        let one = folder.write(
            "one.yaml",
            &format!("{}---\n{}", pod("a", "web", "10.0.0.1"), pod("b", "web", "10.0.0.2")),
        );
        let two = folder.write("two.yaml", &POLICY.replace("PORT", "80"));
        let (mut compiled, mut shelf) = start(&folder);
        let limits = compiled.options.limits;
        let mut step = |paths: &[&PathBuf], count: usize| {
            let paths: Vec<PathBuf> = paths.iter().map(|path| (*path).clone()).collect();
            let edits = shelf
                .reread(&paths, &compiled, |path| objects::read_file(path, &limits))
                .expect("one file can tell");
            assert_eq!(edits.len(), count, "{edits:?}");
            compiled.edit(edits);
            same(&compiled, &folder);
        };
        step(&[&one], 0);
        folder.write(
            "one.yaml",
            &format!("{}---\n{}", pod("a", "web", "10.0.0.1"), pod("b", "api", "10.0.0.2")),
        );
        step(&[&one], 1);
        folder.write("one.yaml", &pod("b", "api", "10.0.0.2"));
        step(&[&one], 1);
        folder.write("two.yaml", &POLICY.replace("PORT", "81"));
        step(&[&two], 1);
        // A pod moves from one file to another that is new.
        let three = folder.write("three.yaml", &pod("b", "api", "10.0.0.2"));
        folder.write("one.yaml", "");
        step(&[&three, &one], 0);
        std::fs::remove_file(&two).unwrap();
        step(&[&two], 1);
    }

    #[test]
    fn every_kind_that_changes_in_a_file_or_goes_from_it_is_edited() {
        let folder = Folder::new("kinds");
        let file = folder.write("others.yaml", OTHERS);
        let (mut compiled, mut shelf) = start(&folder);
        let limits = compiled.options.limits;
        let kinds = OTHERS.matches("kind: ").count();
        for text in [OTHERS.replace("198.51.100.0/24", "203.0.113.0/24"), String::new(), OTHERS.to_owned()] {
            folder.write("others.yaml", &text);
            let read = |path: &Path| objects::read_file(path, &limits);
            let edits =
                shelf.reread(std::slice::from_ref(&file), &compiled, read).expect("one file can tell");
            assert_eq!(edits.len(), kinds, "{edits:?}");
            compiled.edit(edits);
            same(&compiled, &folder);
        }
    }

    #[test]
    fn a_file_more_than_there_may_be_objects_is_left_to_a_reading_of_everything() {
        let folder = Folder::new("limit");
        folder.write("one.yaml", &pod("a", "web", "10.0.0.1"));
        let (mut compiled, mut shelf) = start(&folder);
        compiled.options.limits.objects = 1;
        let limits = compiled.options.limits;
        let more = folder.write("two.yaml", &pod("b", "web", "10.0.0.2"));
        assert!(shelf.reread(&[more], &compiled, |path| objects::read_file(path, &limits)).is_none());
        let (_, problems) = objects::load(std::slice::from_ref(&folder.0), &limits);
        assert!(
            problems.to_string().contains("two.yaml:1:1: more than 1 objects (limits.objects)"),
            "{problems}"
        );
    }

    #[test]
    fn what_one_file_cannot_tell_is_left_to_a_reading_of_everything() {
        let folder = Folder::new("all");
        folder.write("one.yaml", &pod("a", "web", "10.0.0.1"));
        let (compiled, mut shelf) = start(&folder);
        let limits = compiled.options.limits;
        let wrong = folder.write("wrong.yaml", "kind: Pod\nmetadata: {");
        assert!(
            shelf.reread(&[wrong], &compiled, |path| objects::read_file(path, &limits)).is_none(),
            "a mistake"
        );
        let twice = folder.write("twice.yaml", &pod("a", "web", "10.0.0.9"));
        assert!(
            shelf.reread(&[twice], &compiled, |path| objects::read_file(path, &limits)).is_none(),
            "two files tell of one object"
        );
        let twin = pod("a", "web", "10.0.0.9")
            .replace("apiVersion: v1\nkind: Pod", "apiVersion: sluice.dev/v1\nkind: Endpoint");
        let twin = folder.write(
            "twin.yaml",
            &twin.replace("status: {podIPs: [{ip: 10.0.0.9}]}", "spec: {addresses: [10.0.0.9]}"),
        );
        assert!(
            shelf.reread(&[twin], &compiled, |path| objects::read_file(path, &limits)).is_none(),
            "a pod and an endpoint of one name"
        );
    }
}
