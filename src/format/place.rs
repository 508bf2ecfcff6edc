//! Where a savepoint may be asked to go: a URL that says the same to whoever reads it.
//!
//! A request is written on one machine, carried out by a coordinator on another, and the
//! shards of the job open the place on yet others. So the text must not depend on where
//! somebody stands (no relative path), lead elsewhere than it seems to (no `..`), or hold
//! a secret, since it is stored, logged and shown.

use super::promise::{Broken, broken, check_len};
use crate::base::{Error, Result};

/// Most bytes of a place.
pub const MAX_PLACE_BYTES: usize = 1024;

const WHAT: &str = "place of a savepoint";
const EXPECTED: &str = "SCHEME://PLACE/FOLDER in visible ASCII, the rest as %XX, without dots for folders, query or password";

/// Refuses what no savepoint can be asked into.
///
/// # Errors
/// `Invalid`. What was found is named and not repeated, for it may hold a secret.
pub fn check_place(place: &str) -> Result<()> {
    check_len(WHAT, place.len(), 1, MAX_PLACE_BYTES).and_then(|()| check_url(place)).map_err(
        |broken| {
            let (expected, found) = broken.expected_and_found();
            Error::invalid("no savepoint can be asked into this place")
                .expected(expected)
                .found(found)
                .remedy("give an absolute path, or the URL of an empty folder, that means the same on every machine of the job")
        },
    )
}

/// The promise that a stored place keeps.
pub(super) fn check_promise(place: &str) -> Result<(), Broken> {
    check_len(WHAT, place.len(), 1, MAX_PLACE_BYTES)?;
    check_url(place)
}

fn check_url(place: &str) -> Result<(), Broken> {
    let wrong = |found: &str| broken(WHAT, EXPECTED, found);
    if !place.bytes().all(|byte| byte.is_ascii_graphic()) {
        return wrong("a blank, a control character, or one that is not ASCII");
    }
    let Some((scheme, rest)) = place.split_once("://") else {
        return wrong("no scheme: a path would be another one for each process");
    };
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if !is_scheme {
        return wrong("a scheme of other characters than lower-case letters and digits");
    }
    if scheme == "memory" {
        return wrong("memory, which ends with the process");
    }
    if rest.contains(['?', '#', '\\']) {
        return wrong("a query, a fragment or a backslash");
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.split_once('@').is_some_and(|(user, _)| user.contains(':')) {
        return wrong("a password");
    }
    if scheme == "file" && !authority.is_empty() {
        return wrong("a host or a relative path behind file://");
    }
    if authority.is_empty() && path.trim_end_matches('/').is_empty() {
        return wrong("no folder");
    }
    for segment in path.strip_suffix('/').unwrap_or(path).split('/') {
        match decoded(segment) {
            None => return wrong("a % that is not followed by two digits"),
            Some(name) if name == b"." || name == b".." => return wrong("`.` or `..` as a folder"),
            Some(name) if name.is_empty() && !path.is_empty() => {
                return wrong("an empty folder name");
            }
            Some(name) if name.iter().any(|&b| b == b'/' || b == 0) => {
                return wrong("a slash or a zero byte in the name of a folder");
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// The bytes of a segment of a path.
fn decoded(segment: &str) -> Option<Vec<u8>> {
    let mut bytes = segment.bytes();
    let mut out = Vec::with_capacity(segment.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        out.push((digit()? << 4 | digit()?) as u8);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ErrorKind;

    #[test]
    fn places_that_mean_the_same_everywhere_are_taken() {
        for place in [
            "file:///a",
            "file:///a/b%20c/",
            "s3://bucket",
            "s3://bucket/",
            "s3://bucket/a/b",
            "abfss://container@account.dfs.core.windows.net/a",
            "hdfs://node:8020/a",
            "https://account.blob.core.windows.net/container/a..b",
        ] {
            check_place(place).unwrap_or_else(|error| panic!("{place}: {error}"));
        }
    }

    #[test]
    fn places_that_lead_elsewhere_or_tell_secrets_are_refused_and_not_repeated() {
        let long = format!("s3://bucket/{}", "a".repeat(MAX_PLACE_BYTES));
        for place in [
            "",
            "hunter2",
            "/a/hunter2",
            "../hunter2",
            "file://hunter2/a",
            "file://../hunter2",
            "file:///",
            "file:///a//hunter2",
            "file:///a/../hunter2",
            "file:///a/..",
            "file:///a/./hunter2",
            "file:///a/%2e%2E/hunter2",
            "file:///a/..%2fhunter2",
            "file:///a%00hunter2",
            "file:///a%zhunter2",
            "file:///a%2",
            "file:///a/hunter2?x=1",
            "file:///a/hunter2\n",
            "file:///a/\u{1b}[31mhunter2",
            "file:///ä/hunter2",
            "S3://hunter2",
            "s3://",
            "://hunter2",
            "s3://bucket/hunter2#x",
            "https://account.example/c?sig=hunter2",
            "https://me:hunter2@example/c",
            "memory:///",
            &long,
        ] {
            let error = check_place(place).expect_err(place);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{place:?}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
