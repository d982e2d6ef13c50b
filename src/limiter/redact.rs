//! A request's descriptors as text for a log: on one line, bounded, and without what rules hash.

use crate::engine::rules::Domain;
use crate::engine::text::one_line_of_bytes;
use crate::engine::{Descriptor, Request};

/// Upper bound, in bytes, on a key or value.
const TEXT_BYTES_MAX: usize = 128;
/// Bytes after which no more entries follow.
const LINE_BYTES_MAX: usize = 1024;
/// Mark of a line that was cut.
const REST: char = '…';

/// Descriptors as text: `user=alice; path=/login,remote_address=10.0.0.1`. Control characters are escaped,
/// bytes that are not UTF-8 too, and values that one of `domains` hashes are shown as hashes.
pub(super) fn descriptors(request: &Request<'_>, domains: &[&Domain]) -> String {
    let normalize = |key: &[u8]| domains.iter().find_map(|domain| domain.hashed(key));
    let mut line = String::new();
    for (index, Descriptor { entries, .. }) in request.descriptors.iter().enumerate() {
        line.push_str(if index > 0 { "; " } else { "" });
        for (index, entry) in entries.iter().enumerate() {
            if line.len() > LINE_BYTES_MAX {
                line.push(REST);
                return line;
            }
            line.push_str(if index > 0 { "," } else { "" });
            push(&mut line, entry.key);
            line.push('=');
            match normalize(entry.key) {
                Some(normalize) => push(&mut line, &normalize.counted(normalize.matched(entry.value))),
                None => push(&mut line, entry.value),
            }
        }
    }
    line
}

/// Keys and values of the descriptors as they are; `None` where [`descriptors`] would change or cut one of them.
pub(super) fn entries(request: &Request<'_>, domains: &[&Domain]) -> Option<Vec<Vec<(String, String)>>> {
    let mut left = LINE_BYTES_MAX;
    let mut text = |bytes: &[u8]| {
        left = left.checked_sub(bytes.len())?;
        let text = str::from_utf8(bytes).ok().filter(|text| text.len() <= TEXT_BYTES_MAX)?;
        Some(text.to_owned())
    };
    let mut entry = |key: &[u8], value: &[u8]| {
        let is_hashed = domains.iter().any(|domain| domain.hashed(key).is_some());
        if is_hashed { None } else { Some((text(key)?, text(value)?)) }
    };
    let descriptor =
        |of: &Descriptor<'_>| of.entries.iter().map(|of| entry(of.key, of.value)).collect::<Option<Vec<_>>>();
    request.descriptors.iter().map(descriptor).collect()
}

/// `text` on one line, cut at the bound for a key or value.
pub(super) fn lossy(text: &[u8]) -> String {
    let mut line = String::new();
    push(&mut line, text);
    line
}

fn push(line: &mut String, text: &[u8]) {
    line.push_str(&one_line_of_bytes(text, TEXT_BYTES_MAX));
}

#[cfg(test)]
mod tests {
    use smallvec::SmallVec;

    use super::*;
    use crate::engine::rules::{CompileOptions, HashKey, SourceFile, compile};
    use crate::engine::{Entry, Hits, Rules};

    fn request<'a>(descriptors: &[&[(&'a [u8], &'a [u8])]]) -> Request<'a> {
        let descriptor = |pairs: &&[(&'a [u8], &'a [u8])]| Descriptor {
            entries: pairs.iter().map(|(key, value)| Entry { key, value }).collect(),
            hits: Hits::Add(1),
            limit_override: None,
        };
        Request { domain: b"shop", descriptors: descriptors.iter().map(descriptor).collect() }
    }

    fn rules(text: &str) -> Rules {
        let file = SourceFile { name: "rules.yaml".into(), text: text.into() };
        let hash_key = Some(HashKey::new(b"what HASH_KEY is"));
        compile(&[file], CompileOptions { hash_key, ..CompileOptions::default() }, None).expect("good rules")
    }

    #[test]
    fn descriptors_read_as_they_are_typed() {
        let request = request(&[
            &[(b"user", b"alice")],
            &[(b"path", b"/login"), (b"remote_address", b"10.0.0.1"), (b"raw", b"a\xffb")],
            &[],
        ]);
        let shown = descriptors(&request, &[]);
        assert_eq!(shown, "user=alice; path=/login,remote_address=10.0.0.1,raw=a\\xffb; ");
    }

    #[test]
    fn values_that_either_rule_set_hashes_are_shown_hashed() {
        let open = rules("domain: shop\ndescriptors: [{key: user, rate_limit: 1/day}]");
        let secret = rules(
            "domain: shop\ndescriptors:\n  - key: path\n    descriptors:\n      \
             - {key: user, normalize: [lowercase, hash], rate_limit: 1/day}\n",
        );
        let asked = request(&[&[(b"user", b"Alice")], &[(b"path", b"/alice"), (b"user", b"alice")]]);
        let (open, secret) = (open.domain(b"shop").expect("it"), secret.domain(b"shop").expect("it"));
        for domains in [[open, secret], [secret, open]] {
            let shown = descriptors(&asked, &domains);
            let texts: Vec<_> = shown.split("user=").skip(1).map(|rest| &rest[..32]).collect();
            assert!(!shown.contains("Alice") && !shown.contains("=alice"), "{shown}");
            assert_eq!(texts[0], texts[1], "{shown}");
            assert!(texts[0].bytes().all(|byte| byte.is_ascii_hexdigit()), "{shown}");
            assert!(shown.contains("path=/alice"), "{shown}");
        }
        assert!(descriptors(&asked, &[open]).starts_with("user=Alice; "));
    }

    #[test]
    fn a_line_costs_the_same_however_many_rules_there_are() {
        let with_rules = |count: usize| {
            let rule = |at| format!("  - {{key: k{at}, normalize: [hash], rate_limit: 1/day}}\n");
            let descriptors: String = (0..count).map(rule).collect();
            rules(&format!("domain: shop\ndescriptors:\n{descriptors}"))
        };
        let asked = request(&[&[(b"k0", b"alice"), (b"path", b"/")]]);
        let bytes = [1, 1_000].map(|count| {
            let rules = with_rules(count);
            let domain = rules.domain(b"shop").expect("it");
            let measured = allocation_counter::measure(|| drop(descriptors(&asked, &[domain, domain])));
            measured.bytes_total
        });
        assert_eq!(bytes[0], bytes[1]);
    }

    #[test]
    fn a_line_has_an_end_however_much_is_asked() {
        let long = [b'x'; 4096];
        let pairs: SmallVec<[(&[u8], &[u8]); 32]> = (0..32).map(|_| (&long[..], &long[..])).collect();
        let many: Vec<&[_]> = (0..64).map(|_| &pairs[..]).collect();
        let shown = descriptors(&request(&many), &[]);
        assert!(shown.len() < LINE_BYTES_MAX + 3 * TEXT_BYTES_MAX, "{}", shown.len());
        assert!(shown.ends_with(REST));
        assert_eq!(lossy(&long).chars().count(), TEXT_BYTES_MAX + 1);
        // Descriptors without entries are the shortest there are.
        assert!(descriptors(&request(&[&[] as &[_]; 64]), &[]).len() < LINE_BYTES_MAX);
    }
}
