//! Flows as they outlive the process: a file written every few seconds and at the end, checked and versioned.
//!
//! A process that is killed loses what came since the last writing; for a while after a start connections that policy
//! allows are therefore taken up in their middle ([`PICKUP`]).

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sluice_core::state::snapshot::FlowRecord;

/// What kinds of files there are.
pub const FLOWS: &[u8; 8] = b"sluicefl";
pub const NAMES: &[u8; 8] = b"sluicenm";
const VERSION: u32 = 1;
/// Header: magic, version, checksum, count.
const HEADER: usize = 20;

/// How long after its start a worker accepts TCP connections in their middle.
pub const PICKUP: Duration = Duration::from_secs(60);
/// How often flows are written down.
pub const EVERY: Duration = Duration::from_secs(2);

/// Write all, next to the file first, so that there is always a whole one.
pub fn write<T: Serialize>(path: &Path, magic: &[u8; 8], items: &[T]) -> io::Result<()> {
    let body = postcard::to_stdvec(items).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(magic);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(crc32fast::hash(&body).to_le_bytes());
    bytes.extend(u32::try_from(items.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend(body);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let beside = path.with_added_extension("new");
    fs::write(&beside, bytes)?;
    fs::rename(beside, path)
}

/// Read what the last process left. Nothing there is nothing; a damaged or foreign file is an error that costs the
/// flows, not the start.
pub fn read<T: DeserializeOwned>(path: &Path, magic: &[u8; 8]) -> io::Result<Vec<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", path.display()));
    let (header, body) = bytes.split_at_checked(HEADER).ok_or_else(|| bad("too short for a snapshot"))?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if !header.starts_with(magic) || word(8) != VERSION {
        return Err(bad("not a snapshot of this version"));
    }
    if crc32fast::hash(body) != word(12) {
        return Err(bad("damaged"));
    }
    postcard::from_bytes(body).map_err(|_| bad("damaged"))
}

/// Flows that the last process left, as old as they are by now: they waited in the file, too.
pub fn read_flows(path: &Path) -> io::Result<Vec<FlowRecord>> {
    let mut flows = read::<FlowRecord>(path, FLOWS)?;
    let written = fs::metadata(path).and_then(|file| file.modified()).ok();
    // A file from the future, by a clock that was wrong, is a new one.
    let waited = written.and_then(|time| time.elapsed().ok()).unwrap_or_default();
    let waited = u32::try_from(waited.as_secs()).unwrap_or(u32::MAX);
    for flow in &mut flows {
        flow.idle_seconds = flow.idle_seconds.saturating_add(waited);
        flow.age_seconds = flow.age_seconds.saturating_add(waited);
    }
    Ok(flows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_core::flow_key::FlowKey;

    #[test]
    fn what_is_written_is_read_and_damage_is_noticed() {
        let path = std::env::temp_dir().join(format!("sluice-snapshot-{}", std::process::id()));
        assert!(read::<FlowRecord>(&path, FLOWS).unwrap().is_empty());
        let ip = "::ffff:10.0.0.1".parse().unwrap();
        let key = FlowKey { src: ip, dst: ip, sport: 1, dport: 2, proto: 6, v4: true };
        let flow = FlowRecord {
            original: key,
            translated: key,
            tcp: 2,
            flags: 4,
            idle_seconds: 1,
            age_seconds: 9,
            egress_rule: 1,
            ingress_rule: 2,
            service: 3,
            backend: 4,
            packets: [5, 6],
            bytes: [7, 8],
        };
        write(&path, FLOWS, &[flow, flow]).unwrap();
        assert_eq!(read::<FlowRecord>(&path, FLOWS).unwrap(), vec![flow, flow]);
        assert!(read::<FlowRecord>(&path, NAMES).is_err());
        let file = fs::File::options().append(true).open(&path).unwrap();
        let now = file.metadata().unwrap().modified().unwrap();
        file.set_modified(now - Duration::from_secs(3600)).unwrap();
        let old = read_flows(&path).unwrap()[0];
        assert!((3601..3700).contains(&old.idle_seconds) && (3609..3700).contains(&old.age_seconds));
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(read::<FlowRecord>(&path, FLOWS).is_err());
        fs::remove_file(&path).unwrap();
    }
}
