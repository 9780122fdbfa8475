//! Which addresses of pools services have, written down beside the API's socket, so that the next process gives the same.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use sluice_policy::config::Gateway;

use crate::kept;

type Held = BTreeMap<(String, String), Vec<IpAddr>>;

pub fn path(gateway: &Gateway) -> PathBuf {
    gateway.api_socket.with_file_name("addresses.json")
}

/// What was written; nothing where nothing was, or where it cannot be read.
pub fn read(path: &Path) -> Held {
    let by_name: BTreeMap<String, Vec<IpAddr>> = kept::read(path, "addresses of pools");
    by_name.into_iter().filter_map(|(name, ips)| Some((key(&name)?, ips))).collect()
}

fn key(name: &str) -> Option<(String, String)> {
    name.split_once('/').map(|(namespace, name)| (namespace.to_owned(), name.to_owned()))
}

pub fn write(path: &Path, held: &Held) {
    let by_name: BTreeMap<String, &Vec<IpAddr>> =
        held.iter().map(|((namespace, name), ips)| (format!("{namespace}/{name}"), ips)).collect();
    kept::write(path, "addresses of pools", &by_name);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nonsense_is_nothing() {
        let path = std::env::temp_dir().join(format!("sluice-addresses-{}.json", std::process::id()));
        let held = Held::from([(("shop".into(), "web".into()), vec!["192.0.2.1".parse().unwrap()])]);
        write(&path, &held);
        assert_eq!(read(&path), held);
        std::fs::write(&path, "nonsense").unwrap();
        assert_eq!(read(&path), Held::new());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read(&path), Held::new());
    }
}
