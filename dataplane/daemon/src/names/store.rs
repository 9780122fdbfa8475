//! Names as they outlive the process, and names that are known before anybody asks: two files.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use sluice_core::dns::Name;
use sluice_core::time::Now;

use super::book::Book;
use crate::snapshot;

/// A name and its addresses, each with the second since 1970 until which it lives.
pub type Kept = (Vec<u8>, Vec<(IpAddr, u64)>);

/// Names written down in one turn.
const PIECE: usize = 1024;

/// Beside the flows' file.
pub fn path(flows: &Path) -> PathBuf {
    flows.with_extension("names")
}

#[expect(clippy::disallowed_methods, reason = "what outlives the process is told by the time of day")]
pub fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Collects what is to be written, a piece a turn.
#[derive(Debug, Default)]
pub struct Writing {
    place: usize,
    kept: Vec<Kept>,
}

impl Writing {
    /// `true`: all is collected.
    pub fn step(&mut self, book: &Book, now: Now) -> bool {
        let day = seconds_since_1970();
        let mut count = 0;
        for (place, name, _, addresses) in book.names_from(self.place).take(PIECE) {
            let until = |until: u64| day + until.saturating_sub(now.0) / Now::SECOND;
            let addresses = addresses.map(|pair| (pair.ip, until(pair.until))).collect();
            self.kept.push((name.as_bytes().to_vec(), addresses));
            self.place = place;
            count += 1;
        }
        count < PIECE
    }

    pub fn write(self, path: &Path) -> io::Result<()> {
        snapshot::write(path, snapshot::NAMES, &self.kept)
    }
}

/// What the last process knew: name, address, seconds left. Those without time left are told, too: flows may live on them.
pub fn read(path: &Path) -> io::Result<Vec<(Name, IpAddr, u32)>> {
    let kept: Vec<Kept> = snapshot::read(path, snapshot::NAMES)?;
    let day = seconds_since_1970();
    let mut found = Vec::new();
    for (name, addresses) in kept {
        let Some(name) = Name::from_bytes(&name) else { continue };
        let left = |until: u64| u32::try_from(until.saturating_sub(day)).unwrap_or(u32::MAX);
        found.extend(addresses.into_iter().map(|(ip, until)| (name, ip, left(until))));
    }
    Ok(found)
}

/// A file in the form of Cilium's `tofqdns-pre-cache`: a list of objects with `fqdn`, `ips`, and `ttl` (seconds from now on)
/// or `expiration-time`.
pub fn read_known(path: &Path) -> Result<Vec<(Name, IpAddr, u32)>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let list: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let list = list.as_array().ok_or("it must be a list")?;
    let day = seconds_since_1970();
    let mut found = Vec::new();
    for (n, entry) in list.iter().enumerate() {
        let wrong = |what: &str| format!("entry {}: {what}", n + 1);
        let name =
            entry["fqdn"].as_str().and_then(Name::parse).ok_or_else(|| wrong("fqdn must be a name"))?;
        let until = entry["expiration-time"].as_str().map(|text| {
            seconds(text).ok_or_else(|| wrong("expiration-time must be like 2026-11-24T12:30:00Z"))
        });
        let holds = match (until.transpose()?, entry["ttl"].as_u64()) {
            (Some(until), _) if until <= day => continue,
            (Some(until), _) => until - day,
            (None, Some(ttl)) => ttl,
            (None, None) => return Err(wrong("ttl or expiration-time is missing")),
        };
        let holds = u32::try_from(holds).unwrap_or(u32::MAX);
        for ip in entry["ips"].as_array().into_iter().flatten() {
            let ip = ip.as_str().and_then(|ip| ip.parse::<IpAddr>().ok());
            let ip = ip.ok_or_else(|| wrong("ips must be addresses"))?.to_canonical();
            found.push((name, ip, holds));
        }
    }
    Ok(found)
}

/// Seconds since 1970 of a time like `2026-11-24T12:30:00.25+01:00`.
fn seconds(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let clock = number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
    let zone = text.get(19..)?.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let shift = match zone.as_bytes() {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), rest @ ..] => {
            let rest = std::str::from_utf8(rest).ok()?;
            let (hours, minutes) = rest.split_once(':')?;
            let size = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
            if *sign == b'-' { -size } else { size }
        }
        _ => return None,
    };
    // Days since 1970: years begin in March here, so that leap days come last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    u64::try_from(days * 86_400 + clock - shift).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds("2000-02-29T00:00:00Z"), Some(951_782_400));
        assert_eq!(seconds("2026-11-24T12:30:01.250Z"), Some(1_795_523_401));
        assert_eq!(seconds("2026-11-24T13:30:01.250+01:00"), Some(1_795_523_401));
        assert_eq!(seconds("yesterday"), None);
    }

    #[test]
    fn names_known_beforehand_are_read_as_cilium_writes_them() {
        let path = std::env::temp_dir().join(format!("sluice-known-{}", std::process::id()));
        let text = r#"[{"fqdn": "A.example.", "ttl": 60, "ips": ["192.0.2.1", "2001:db8::1"]},
            {"fqdn": "old.example", "expiration-time": "2001-01-01T00:00:00Z", "ips": ["192.0.2.9"]},
            {"fqdn": "late.example", "expiration-time": "2999-01-01T00:00:00Z", "ips": ["192.0.2.2"]}]"#;
        std::fs::write(&path, text).unwrap();
        let found = read_known(&path).unwrap();
        assert_eq!(found.len(), 3);
        assert_eq!((found[0].0.to_string().as_str(), found[0].2), ("a.example.", 60));
        std::fs::write(&path, r#"[{"fqdn": "a.example", "ips": []}]"#).unwrap();
        assert!(read_known(&path).unwrap_err().contains("entry 1: ttl"));
        std::fs::remove_file(&path).unwrap();
    }
}
