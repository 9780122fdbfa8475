//! Asks the control daemon: HTTP over its Unix socket, one request a connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Answers that end by themselves arrive within this; streams have no limit.
const PATIENCE: Duration = Duration::from_secs(10);

/// Text as it may stand in a query.
pub fn encoded(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// One JSON answer.
    pub fn get(&self, path: &str) -> Result<Value> {
        let text = self.text(path)?;
        serde_json::from_str(&text).with_context(|| format!("the answer to {path} is not JSON"))
    }

    /// One answer as text.
    pub fn text(&self, path: &str) -> Result<String> {
        let mut body = String::new();
        self.request("GET", path, Some(PATIENCE))?.read_to_string(&mut body)?;
        Ok(body)
    }

    /// Lines as they come, until the other side or `each` (by returning false) ends it.
    pub fn lines(&self, path: &str, mut each: impl FnMut(&str) -> Result<bool>) -> Result<()> {
        for line in self.request("GET", path, None)?.lines() {
            if !each(&line?)? {
                break;
            }
        }
        Ok(())
    }

    /// Send the request and return the body behind a good status line. HTTP/1.0, so that bodies end with the
    /// connection and need no chunk decoding.
    fn request(&self, method: &str, path: &str, patience: Option<Duration>) -> Result<BufReader<UnixStream>> {
        let mut stream = UnixStream::connect(&self.socket).with_context(|| {
            format!(
                "no gateway answers at {} (is `sluice run` or sluice-control up? name another socket with --socket)",
                self.socket.display()
            )
        })?;
        stream.set_read_timeout(patience)?;
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: sluice\r\n\r\n")?;
        let mut reader = BufReader::new(stream);
        let mut status = String::new();
        reader.read_line(&mut status).context("the gateway did not answer in time")?;
        let mut header = String::new();
        while reader.read_line(&mut header)? > 0 && header.trim() != "" {
            header.clear();
        }
        let code = status.split_whitespace().nth(1).unwrap_or_default();
        if code != "200" {
            let mut body = String::new();
            reader.read_to_string(&mut body)?;
            bail!("{}", if body.trim().is_empty() { status.trim() } else { body.trim() });
        }
        Ok(reader)
    }
}
