//! Reading objects with all cores: large sets are read in shares, a thread each.

use std::path::{Path, PathBuf};

use sluice_policy::decode::Problems;
use sluice_policy::objects::{self, Objects, Read, Seen, Share};
use sluice_policy::tree::Limits;

/// More threads than this are not worth it: putting together what they read is one's work.
const MOST: usize = 8;

/// Everything: see [`objects::load_seen`].
pub fn load(paths: &[PathBuf], limits: &Limits) -> (Objects, Problems, Seen) {
    in_shares(paths, limits).unwrap_or_else(|| objects::load_seen(paths, limits))
}

/// One file: see [`objects::read_file`].
pub fn read_file(path: &Path, limits: &Limits) -> Read {
    let read = in_shares(&[path.to_owned()], limits);
    read.map_or_else(
        || objects::read_file(path, limits),
        |(objects, problems, seen)| Read::new(objects, problems, seen),
    )
}

/// `None`: not in order, or too little to share.
fn in_shares(paths: &[PathBuf], limits: &Limits) -> Option<(Objects, Problems, Seen)> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(MOST);
    let shares: Vec<Share> = objects::shares(paths, limits, cores).filter(|shares| shares.len() > 1)?;
    let read = std::thread::scope(|scope| {
        let threads: Vec<_> = shares.iter().map(|share| scope.spawn(|| share.read(limits))).collect();
        threads.into_iter().map(|thread| thread.join().ok()).collect::<Option<Vec<_>>>()
    });
    objects::joined(read?, limits)
}
