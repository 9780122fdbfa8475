//! Reading in shares, so that several threads can read at once: files, and large files cut between their documents.
//!
//! Only what is in order is put together here. Where two shares tell of the same object, or something is wrong, a reading of
//! everything by one tells what it is.

use std::path::PathBuf;
use std::sync::Arc;

use super::folders::files_of;
use super::{Objects, Reader, Seen};
use crate::decode::Problems;
use crate::tree::Limits;

/// A text is cut into parts of about this size.
const PART: usize = 256 << 10;

/// Some of what is to be read.
#[derive(Clone, Debug, Default)]
pub struct Share {
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    File(PathBuf),
    /// Bytes from and to, and the lines before them.
    Of {
        file: Arc<str>,
        text: Arc<str>,
        from: usize,
        to: usize,
        above: u32,
    },
}

/// What one share came to.
#[derive(Debug)]
pub struct Shared {
    objects: Objects,
    problems: Problems,
    seen: Seen,
    count: usize,
}

/// What these paths hold, in at most so many shares of about the same size. `None`: something cannot be read at all.
pub fn shares(paths: &[PathBuf], limits: &Limits, count: usize) -> Option<Vec<Share>> {
    let mut problems = Problems::default();
    let files = files_of(paths, &mut problems);
    let mut parts = Vec::new();
    for file in files {
        let size = std::fs::metadata(&file).map_or(0, |data| data.len());
        let whole = size < 2 * PART as u64 || size > limits.file_bytes || count < 2;
        match std::fs::read_to_string(&file).ok().filter(|_| !whole) {
            Some(text) => parts.extend(cut(&Arc::from(file.display().to_string()), &Arc::from(text))),
            None => parts.push((usize::try_from(size).unwrap_or(PART), Part::File(file))),
        }
    }
    let all: usize = parts.iter().map(|(size, _)| size).sum();
    let each = all / count.max(1) + 1;
    let (mut shares, mut room) = (vec![Share::default()], each);
    for (size, part) in parts {
        if room == 0 {
            shares.push(Share::default());
            room = each;
        }
        room = room.saturating_sub(size);
        shares.last_mut()?.parts.push(part);
    }
    problems.is_ok().then_some(shares)
}

/// Parts of a text, each of whole documents.
fn cut(file: &Arc<str>, text: &Arc<str>) -> Vec<(usize, Part)> {
    // A directive speaks of the document behind it; such texts are rare, and stay whole.
    let whole = text.starts_with('%') || text.contains("\n%");
    let (mut parts, mut from, mut above) = (Vec::new(), 0, 0);
    while from < text.len() {
        let to = if whole { text.len() } else { next_document(text, from + PART) };
        let (file, text) = (Arc::clone(file), Arc::clone(text));
        let lines = text.as_bytes()[from..to].iter().filter(|byte| **byte == b'\n').count();
        parts.push((to - from, Part::Of { file, text, from, to, above }));
        above += u32::try_from(lines).unwrap_or(u32::MAX);
        from = to;
    }
    parts
}

/// Where a document begins, behind `from`; the end if none does.
fn next_document(text: &str, from: usize) -> usize {
    let bytes = text.as_bytes();
    let mut at = from.min(bytes.len());
    while let Some(line) = bytes[at..].iter().position(|byte| *byte == b'\n') {
        at += line + 1;
        let marks = bytes[at..].starts_with(b"---");
        if marks && bytes.get(at + 3).is_none_or(u8::is_ascii_whitespace) {
            return at;
        }
    }
    bytes.len()
}

impl Share {
    pub fn read(&self, limits: &Limits) -> Shared {
        let mut reader = Reader::new(limits);
        for part in &self.parts {
            match part {
                Part::File(path) => reader.file(path),
                Part::Of { file, text, from, to, above } => reader.part(file, &text[*from..*to], *above),
            }
        }
        let (seen, count) = (std::mem::take(&mut reader.seen), reader.count);
        let (objects, problems) = reader.finish();
        Shared { objects, problems, seen, count }
    }
}

/// All shares together. `None`: only a reading of everything by one can tell what they mean.
pub fn joined(shares: Vec<Shared>, limits: &Limits) -> Option<(Objects, Problems, Seen)> {
    if shares.iter().map(|share| share.count).sum::<usize>() > limits.objects {
        return None;
    }
    let mut shares = shares.into_iter();
    let Shared { mut objects, mut problems, mut seen, .. } = shares.next()?;
    for share in shares {
        if share.seen.keys().any(|name| seen.contains_key(name)) {
            return None;
        }
        seen.extend(share.seen);
        objects.take_in(share.objects);
        problems.errors.extend(share.problems.errors);
        problems.warnings.extend(share.problems.warnings);
    }
    problems.warnings.sort();
    problems.is_ok().then_some((objects, problems, seen))
}

impl Objects {
    /// Of what another holds, nothing is here yet.
    fn take_in(&mut self, other: Self) {
        let Self { namespaces, nodes, endpoints, services, slices, pools, policies, groups, egress, ignored } =
            other;
        self.namespaces.extend(namespaces);
        self.nodes.extend(nodes);
        self.endpoints.extend(endpoints);
        self.services.extend(services);
        self.slices.extend(slices);
        self.pools.extend(pools);
        self.policies.extend(policies);
        self.groups.extend(groups);
        self.egress.extend(egress);
        self.egress.sort_by(|a, b| a.name.cmp(&b.name));
        for (kind, count) in ignored {
            *self.ignored.entry(kind).or_insert(0) += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::load_seen;

    fn service(n: usize) -> String {
        let kind = if n.is_multiple_of(10) { "ConfigMap" } else { "Service" };
        let ip = format!("10.{}.{}.{}", n >> 16, n >> 8 & 255, n & 255);
        format!(
            "---\napiVersion: v1\nkind: {kind}\nmetadata: {{name: s{n}, namespace: shop}}\nspec:\n  clusterIP: {ip}\n  \
             ports: [{{port: 80}}] # a comment of some length, so that there is something to cut\n"
        )
    }

    fn folder(name: &str, texts: &[String]) -> PathBuf {
        let path = std::env::temp_dir().join(format!("sluice-share-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        for (n, text) in texts.iter().enumerate() {
            std::fs::write(path.join(format!("{n}.yaml")), text).unwrap();
        }
        path
    }

    fn read(path: &PathBuf, count: usize) -> Option<(Objects, Problems, Seen)> {
        let limits = Limits::default();
        let shares = shares(std::slice::from_ref(path), &limits, count).unwrap();
        assert!(shares.len() <= count && (count == 1 || shares.len() > 1), "{} shares", shares.len());
        joined(shares.iter().map(|share| share.read(&limits)).collect(), &limits)
    }

    #[test]
    fn in_shares_or_by_one_it_is_the_same() {
        let mut texts: Vec<String> = (1..9).map(service).collect();
        texts.push((1000..12_000).map(service).collect());
        let path = folder("same", &texts);
        let (objects, problems, seen) = load_seen(std::slice::from_ref(&path), &Limits::default());
        assert!(problems.is_ok() && objects.services.len() > 9000, "{problems}");
        for count in [1, 2, 3, 7] {
            let (ours, _, places) = read(&path, count).unwrap();
            assert_eq!(ours.services, objects.services);
            assert_eq!(ours.ignored, objects.ignored);
            assert_eq!(places, seen, "files and lines");
        }
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn what_is_not_in_order_is_left_to_one_reader() {
        let many: String = (0..9000).map(service).collect();
        let twice = folder("twice", &[format!("{many}{}", service(5))]);
        assert!(read(&twice, 3).is_none(), "two shares tell of one object");
        let wrong = folder("wrong", &[format!("{many}---\nkind: [\n")]);
        assert!(read(&wrong, 3).is_none(), "a mistake");
        let few = Limits { objects: 8999, ..Limits::default() };
        let all = folder("all", std::slice::from_ref(&many));
        let parts = shares(std::slice::from_ref(&all), &few, 3).unwrap();
        let read = parts.iter().map(|share| share.read(&few)).collect();
        assert!(
            joined(read, &few).is_none(),
            "more than there may be, each share by itself is none too many"
        );
        for path in [twice, wrong, all] {
            std::fs::remove_dir_all(path).unwrap();
        }
    }

    #[test]
    fn texts_are_cut_between_documents_only() {
        let filler = "#\n".repeat(PART);
        let text: Arc<str> = Arc::from(format!("a: |\n  ---\n  x\nb: 1\n{filler}---x: 1\n---\nc: 1\n---"));
        let sizes: Vec<usize> = cut(&Arc::from("f"), &text).iter().map(|(size, _)| *size).collect();
        assert_eq!(sizes, [text.len() - 12, 12], "the last mark is too near to begin another part");
        let directed: Arc<str> = Arc::from(format!("%YAML 1.2\n{text}"));
        assert_eq!(cut(&Arc::from("f"), &directed).len(), 1);
    }
}
