//! A watched list of files and folders: tells what changed in them, once for a burst of changes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use notify::event::{CreateKind, ModifyKind, RemoveKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use sluice_policy::objects::is_hidden;
use tokio::sync::mpsc;

/// Editors and `kubectl`-like tools write several times in a row; wait until they are done.
const QUIET: Duration = Duration::from_millis(20);
/// But do not wait for ever on a folder that never rests.
const PATIENCE: Duration = Duration::from_millis(200);
/// Beyond so many files everything is read again.
const MOST_FILES: usize = 256;

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// These files, and nothing else.
    Files(Vec<PathBuf>),
    /// Something that only a reading of everything can tell.
    Everything,
}

/// Keeps the watch alive; dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    _watcher: RecommendedWatcher,
    changes: mpsc::Receiver<()>,
    gathered: Arc<Mutex<Gathered>>,
}

#[derive(Debug, Default)]
struct Gathered {
    files: BTreeSet<PathBuf>,
    everything: bool,
}

impl Watch {
    /// Watch the paths. A file is watched through its folder, because editors replace files.
    pub fn start(paths: &[PathBuf]) -> Result<Self> {
        let (tell, changes) = mpsc::channel(1);
        let gathered = Arc::new(Mutex::new(Gathered::default()));
        let (into, named) = (Arc::clone(&gathered), paths.to_vec());
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if into.lock().unwrap_or_else(PoisonError::into_inner).add(event, &named) {
                // A full channel already says that there is something new.
                let _ = tell.try_send(());
            }
        })
        .context("cannot watch files")?;
        for path in paths {
            let folder =
                if path.is_dir() { path.as_path() } else { path.parent().unwrap_or_else(|| Path::new(".")) };
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            watcher
                .watch(folder, RecursiveMode::Recursive)
                .with_context(|| format!("cannot watch {}", folder.display()))?;
        }
        Ok(Self { _watcher: watcher, changes, gathered })
    }

    /// Wait for the next change, and until it looks finished.
    pub async fn changed(&mut self) -> News {
        if self.changes.recv().await.is_none() {
            // The watcher is gone; nothing will ever change again.
            std::future::pending::<()>().await;
        }
        let settle = async { while tokio::time::timeout(QUIET, self.changes.recv()).await.is_ok() {} };
        drop(tokio::time::timeout(PATIENCE, settle).await);
        let gathered = std::mem::take(&mut *self.gathered.lock().unwrap_or_else(PoisonError::into_inner));
        match gathered.everything || gathered.files.len() > MOST_FILES {
            true => News::Everything,
            false => News::Files(gathered.files.into_iter().collect()),
        }
    }
}

impl Gathered {
    /// Note what happened. False: nothing that matters.
    fn add(&mut self, event: notify::Result<Event>, named: &[PathBuf]) -> bool {
        // An error (lost events) is a reason to look at everything.
        let Ok(event) = event else {
            self.everything = true;
            return true;
        };
        if matches!(event.kind, EventKind::Access(_)) {
            return false;
        }
        let of_a_file = matches!(
            event.kind,
            EventKind::Create(CreateKind::File)
                | EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_) | ModifyKind::Name(_))
                | EventKind::Remove(RemoveKind::File)
        );
        let before = (self.files.len(), self.everything);
        let mut again = false;
        for path in event.paths {
            let path = path.strip_prefix("./").map_or_else(|_| path.clone(), Path::to_owned);
            let ours = named.contains(&path) || is_ours(&path, named);
            if of_a_file && ours && !path.is_dir() && !path.is_symlink() {
                again |= !self.files.insert(path);
            } else if ours || path.is_dir() || path.is_symlink() || !path.exists() {
                // Folders, links that are turned round (as a mounted ConfigMap does), and what is gone and may have been one.
                self.everything = true;
            }
        }
        again || before != (self.files.len(), self.everything) || self.everything
    }
}

/// A file of objects in one of the folders.
fn is_ours(path: &Path, named: &[PathBuf]) -> bool {
    let known =
        path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml" || ending == "json");
    known && named.iter().any(|folder| path.strip_prefix(folder).is_ok_and(|rest| !is_hidden(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("sluice-watch-{}-{name}", std::process::id()));
            std::fs::create_dir_all(path.join("deep")).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    async fn next(watch: &mut Watch) -> News {
        tokio::time::timeout(Duration::from_secs(5), watch.changed()).await.expect("a change")
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_burst_of_writes_is_one_change_of_its_file() {
        let folder = Folder::new("burst");
        let mut watch = Watch::start(std::slice::from_ref(&folder.0)).unwrap();
        let file = folder.0.join("deep/a.yaml");
        for n in 0..5 {
            std::fs::write(&file, format!("n: {n}")).unwrap();
        }
        assert_eq!(next(&mut watch).await, News::Files(vec![file.clone()]));
        let more = tokio::time::timeout(Duration::from_millis(100), watch.changed()).await;
        assert!(more.is_err(), "the burst was told twice");
        std::fs::remove_file(&file).unwrap();
        assert_eq!(next(&mut watch).await, News::Files(vec![file]));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_more_than_files_is_everything() {
        let folder = Folder::new("more");
        std::fs::create_dir(folder.0.join("..one")).unwrap();
        std::os::unix::fs::symlink("..one", folder.0.join("..data")).unwrap();
        let mut watch = Watch::start(std::slice::from_ref(&folder.0)).unwrap();
        // As a mounted ConfigMap is changed.
        std::os::unix::fs::symlink("..two", folder.0.join("..data_tmp")).unwrap();
        std::fs::rename(folder.0.join("..data_tmp"), folder.0.join("..data")).unwrap();
        assert_eq!(next(&mut watch).await, News::Everything);
        std::fs::write(folder.0.join(".draft.yaml"), "of an editor").unwrap();
        let told = tokio::time::timeout(Duration::from_millis(200), watch.changed()).await;
        assert!(!told.is_ok_and(|news| matches!(news, News::Files(files) if !files.is_empty())));
        std::fs::create_dir(folder.0.join("new")).unwrap();
        assert_eq!(next(&mut watch).await, News::Everything);
    }
}
