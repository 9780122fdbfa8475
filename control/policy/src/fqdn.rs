//! DNS names: the grammar of patterns, and which addresses a name has until when.

/// Does the pattern fit the name? Both are lower case and end with a dot ([`normal`]).
///
/// As Cilium's code has it: stars alone fit every name, the root too; two or more stars and a dot at the beginning are one
/// or more whole labels; any other run of stars is any number of characters of one label.
pub fn fits(pattern: &str, name: &str) -> bool {
    let bare = pattern.trim_end_matches('.');
    if bare.chars().all(|c| c == '*') && !bare.is_empty() {
        return name == "." || labels_are_valid(name);
    }
    let stars = pattern.bytes().take_while(|byte| *byte == b'*').count();
    if stars >= 2 && pattern[stars..].starts_with('.') {
        let rest = &pattern[stars + 1..];
        return name.char_indices().filter(|(at, c)| *c == '.' && *at > 0).any(|(at, _)| {
            labels_are_valid(&name[..=at]) && glob(rest.as_bytes(), &name.as_bytes()[at + 1..])
        });
    }
    glob(pattern.as_bytes(), name.as_bytes())
}

/// Trimmed, lower case, with a dot at its end.
pub fn normal(name: &str) -> String {
    let name = name.trim().to_lowercase();
    if name.ends_with('.') { name } else { name + "." }
}

const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

/// One or more labels, each with its dot.
fn labels_are_valid(name: &str) -> bool {
    name.strip_suffix('.')
        .is_some_and(|name| name.split('.').all(|label| !label.is_empty() && label.bytes().all(is_name_byte)))
}

/// A star is any number of characters of a name, but no dot.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows the last star did not fit.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((star, from)) = retry
            && is_name_byte(text[from])
        {
            retry = Some((star, from + 1));
            p = star + 1;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        fits(&normal(pattern), &normal(name))
    }

    #[test]
    fn stars_do_not_cross_dots() {
        for (pattern, name, expected) in [
            ("*.cilium.io", "www.cilium.io", true),
            ("*.cilium.io", "cilium.io", false),
            ("*.cilium.io", "a.b.cilium.io", false),
            ("*cilium.io", "cilium.io", true),
            ("*cilium.io", "subcilium.io", true),
            ("*cilium.io", "sub-cilium.io", true),
            ("*cilium.io", "www.cilium.io", false),
            ("sub*.cilium.io", "sub.cilium.io", true),
            ("sub*.cilium.io", "subdomain.cilium.io", true),
            ("sub*.cilium.io", "www.cilium.io", false),
            ("**.cilium.io", "app.cilium.io", true),
            ("**.cilium.io", "test.app.cilium.io", true),
            ("**.cilium.io", "cilium.io", false),
            ("***.cilium.io", "test.app.cilium.io", true),
            ("a*b*c.io", "aXbYc.io", true),
            ("a*b*c.io", "abbc.io", true),
            ("a*b*c.io", "abd.io", false),
            ("www.cilium.io", "WWW.Cilium.io.", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} and {name}");
        }
    }

    #[test]
    fn stars_alone_fit_everything_and_the_root() {
        for pattern in ["*", "**", "*."] {
            for name in [".", "a.", "a.b.c.d."] {
                assert!(fits(&normal(pattern), name), "{pattern} and {name}");
            }
            assert!(!fits(&normal(pattern), "a..b."));
        }
    }

    #[test]
    fn long_patterns_take_no_long_time() {
        let pattern = "*a".repeat(100) + ".";
        let name = "a".repeat(250) + "b.";
        assert!(!fits(&pattern, &name));
    }
}
