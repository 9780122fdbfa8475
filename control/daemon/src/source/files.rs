//! A watched list of files and folders: tells when something in them changed, once for a burst of changes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Editors and `kubectl`-like tools write several times in a row; wait until they are done.
const QUIET: Duration = Duration::from_millis(20);
/// But do not wait for ever on a folder that never rests.
const PATIENCE: Duration = Duration::from_millis(200);

/// Keeps the watch alive; dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    _watcher: RecommendedWatcher,
    changes: mpsc::Receiver<()>,
}

impl Watch {
    /// Watch the paths. A file is watched through its folder, because editors replace files.
    pub fn start(paths: &[PathBuf]) -> Result<Self> {
        let (tell, changes) = mpsc::channel(1);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An access changes nothing; an error (lost events) is a reason to look.
            if !matches!(&event, Ok(event) if matches!(event.kind, EventKind::Access(_))) {
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
        Ok(Self { _watcher: watcher, changes })
    }

    /// Wait for the next change, and until it looks finished.
    pub async fn changed(&mut self) {
        if self.changes.recv().await.is_none() {
            // The watcher is gone; nothing will ever change again.
            std::future::pending::<()>().await;
        }
        let settle = async { while tokio::time::timeout(QUIET, self.changes.recv()).await.is_ok() {} };
        drop(tokio::time::timeout(PATIENCE, settle).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_burst_of_writes_is_one_change() {
        let folder = std::env::temp_dir().join(format!("sluice-watch-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("deep")).unwrap();
        let mut watch = Watch::start(std::slice::from_ref(&folder)).unwrap();
        for n in 0..5 {
            std::fs::write(folder.join("deep/a.yaml"), format!("n: {n}")).unwrap();
        }
        tokio::time::timeout(Duration::from_secs(5), watch.changed()).await.expect("a change");
        let more = tokio::time::timeout(Duration::from_millis(100), watch.changed()).await;
        assert!(more.is_err(), "the burst was told twice");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
