//! Which files there are to be read.

use std::path::{Component, Path, PathBuf};

use super::note;
use crate::decode::Problems;

/// The files of these files and folders, in order.
pub(super) fn files_of(paths: &[PathBuf], problems: &mut Problems) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for path in paths {
        let mut files = Vec::new();
        collect(path, &mut Vec::new(), &mut files, problems);
        files.sort();
        all.extend(files);
    }
    all
}

fn collect(path: &Path, above: &mut Vec<PathBuf>, files: &mut Vec<PathBuf>, problems: &mut Problems) {
    if path.is_dir() {
        let (entries, own) = match (std::fs::read_dir(path), path.canonicalize()) {
            (Ok(entries), Ok(own)) => (entries, own),
            (Err(error), _) | (_, Err(error)) => {
                return note(problems, path, format!("cannot be read: {error}"));
            }
        };
        // A link to a folder that it lies in: what is there is read already.
        if above.contains(&own) {
            return;
        }
        above.push(own);
        for entry in entries {
            match entry {
                Ok(entry) if is_hidden(Path::new(&entry.file_name())) => {}
                Ok(entry) => collect(&entry.path(), above, files, problems),
                Err(error) => note(problems, path, format!("cannot be read: {error}")),
            }
        }
        above.pop();
        return;
    }
    let known =
        path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml" || ending == "json");
    // A file that was named is read whatever it is called; in folders only those that say what they are.
    if known || above.is_empty() {
        files.push(path.to_owned());
    }
}

/// Is there a name with a dot before it? Such files and folders are others' (a mounted ConfigMap has what its links lead to
/// in folders of this kind, editors their drafts) and are not read.
pub fn is_hidden(path: &Path) -> bool {
    path.components().any(|part| match part {
        Component::Normal(name) => name.as_encoded_bytes().first() == Some(&b'.'),
        Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => false,
    })
}
