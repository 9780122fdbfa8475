//! A log that a flood cannot fill: the same line again within ten seconds is counted, not written, and the count is written
//! once. Both daemons log through this, as text or as JSON.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(10);
/// Lines that are remembered; with more different ones than that there is no flood of the same.
const MOST: usize = 64;

/// Takes whole lines, as the subscriber writes them: one a call.
#[derive(Debug)]
pub struct Steady<W> {
    target: W,
    known: HashMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    since: Instant,
    line: String,
    more: u64,
}

impl<W: Write> Steady<W> {
    pub fn new(target: W) -> Self {
        Self { target, known: HashMap::new() }
    }

    fn take(&mut self, line: &str, now: Instant) -> io::Result<()> {
        self.settle(now)?;
        if let Some(known) = self.known.get_mut(words(line)) {
            known.more += 1;
            line.clone_into(&mut known.line);
            return Ok(());
        }
        if self.known.len() < MOST {
            let known = Known { since: now, line: line.to_owned(), more: 0 };
            self.known.insert(words(line).to_owned(), known);
        }
        self.target.write_all(line.as_bytes())
    }

    /// Tell how often lines came whose time is over.
    fn settle(&mut self, now: Instant) -> io::Result<()> {
        let over: Vec<Known> = self
            .known
            .extract_if(|_, known| now.duration_since(known.since) >= WINDOW)
            .map(|(_, known)| known)
            .collect();
        for known in over.iter().filter(|known| known.more > 0) {
            self.target.write_all(counted(&known.line, known.more).as_bytes())?;
        }
        Ok(())
    }
}

/// The line without its time.
fn words(line: &str) -> &str {
    let start = if line.starts_with('{') { line.find("\"level\"") } else { line.find(' ') };
    &line[start.unwrap_or(0)..]
}

/// The latest of the lines, with how many there were.
fn counted(line: &str, more: u64) -> String {
    let line = line.trim_end();
    match line.strip_suffix('}').filter(|_| line.starts_with('{')) {
        Some(open) => format!("{open},\"more_of_these\":{more}}}\n"),
        None => format!("{line} ({more} more of these)\n"),
    }
}

impl<W: Write> Write for Steady<W> {
    #[expect(clippy::disallowed_methods, reason = "what comes again soon is told apart by time")]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.take(&String::from_utf8_lossy(bytes), Instant::now())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.target.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a start to count from")]
    fn a_flood_is_one_line_and_a_count() {
        let mut log = Steady::new(Vec::new());
        let start = Instant::now();
        let at = |n: u64| start + Duration::from_millis(n);
        for n in 0..1000 {
            log.take(&format!("2026-11-24T12:30:{n:02}Z  WARN the dataplane is lost\n"), at(n)).unwrap();
        }
        log.take("2026-11-24T12:30:01Z  INFO something else\n", at(2000)).unwrap();
        log.take("2026-11-24T12:30:12Z  INFO later\n", at(10_001)).unwrap();
        let text = String::from_utf8(log.target).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "2026-11-24T12:30:00Z  WARN the dataplane is lost",
                "2026-11-24T12:30:01Z  INFO something else",
                "2026-11-24T12:30:999Z  WARN the dataplane is lost (999 more of these)",
                "2026-11-24T12:30:12Z  INFO later",
            ]
        );
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a start to count from")]
    fn json_stays_json() {
        let mut log = Steady::new(Vec::new());
        let line = r#"{"timestamp":"T","level":"WARN","fields":{"message":"lost"}}"#;
        let start = Instant::now();
        for second in [0, 1, 11] {
            log.take(
                &format!("{}\n", line.replace('T', &second.to_string())),
                start + Duration::from_secs(second),
            )
            .unwrap();
        }
        let text = String::from_utf8(log.target).unwrap();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains(r#""fields":{"message":"lost"},"more_of_these":1}"#), "{text}");
    }
}
