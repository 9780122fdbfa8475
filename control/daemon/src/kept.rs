//! What the next process is to know, in files beside the API's socket.

use std::io::ErrorKind;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What was written; nothing where nothing was, or where it cannot be read.
pub fn read<T: DeserializeOwned + Default>(path: &Path, what: &str) -> T {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            if error.kind() != ErrorKind::NotFound {
                tracing::warn!("{what} are given anew: {}: {error}", path.display());
            }
            return T::default();
        }
    };
    serde_json::from_str(&text).unwrap_or_else(|error| {
        tracing::warn!("{what} are given anew: {}: {error}", path.display());
        T::default()
    })
}

pub fn write(path: &Path, what: &str, value: &impl Serialize) {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    let new = path.with_extension("json.new");
    // In one step: a process that dies here leaves the old or the new.
    if let Err(error) = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path)) {
        tracing::warn!("{what} are not kept for the next process: {}: {error}", path.display());
    }
}
