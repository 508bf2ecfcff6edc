//! Byte strings that compare as what they were made of.
//!
//! ```text
//! string:     | eight bytes, zeros behind the last | mark u8 | ...
//! mark:       how many of the eight count; 9 if eight do and more follow
//! ```
//!
//! Of two such strings the shorter one comes first if it begins the other, whatever
//! follows behind them, so that several can be put one behind the other and compared
//! as one. Numbers are written big-endian.

use crate::base::{Error, Result};

const WORD: usize = 8;
const MORE: u8 = WORD as u8 + 1;

/// Appends a string.
pub(super) fn put(out: &mut Vec<u8>, mut bytes: &[u8]) {
    while let Some((word, rest)) = bytes.split_first_chunk::<WORD>() {
        out.extend_from_slice(word);
        if rest.is_empty() {
            out.push(WORD as u8);
            return;
        }
        out.push(MORE);
        bytes = rest;
    }
    let mut word = [0; WORD + 1];
    word[..bytes.len()].copy_from_slice(bytes);
    word[WORD] = bytes.len() as u8;
    out.extend_from_slice(&word);
}

/// Puts the string at the beginning of `bytes` into `out`, and gives what is behind
/// it.
///
/// # Errors
/// `Internal` if there is none: such strings are made here.
pub(super) fn take<'a>(mut bytes: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8]> {
    out.clear();
    while let Some(([word @ .., mark], rest)) = bytes.split_first_chunk::<{ WORD + 1 }>() {
        bytes = rest;
        match *mark {
            MORE => out.extend_from_slice(word),
            count => {
                out.extend_from_slice(&word[..usize::from(count).min(WORD)]);
                return Ok(rest);
            }
        }
    }
    Err(Error::internal("a sorted record has no key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_behind_each_other_compare_as_tuples_do() {
        let mut strings: Vec<Vec<u8>> = vec![Vec::new()];
        for len in [1, 2, 7, 8, 9, 15, 16, 17, 24] {
            for last in [0, 1, 8, 9, 255] {
                for fill in [0, 9, 255] {
                    let mut bytes = vec![fill; len];
                    bytes[len - 1] = last;
                    strings.push(bytes);
                }
            }
        }
        let encoded = |one: &[u8], other: &[u8]| {
            let mut out = Vec::new();
            put(&mut out, one);
            put(&mut out, other);
            out
        };
        let mut pairs = Vec::new();
        for one in &strings {
            for other in strings.iter().step_by(7) {
                pairs.push((one, other));
            }
        }
        for &(a, b) in &pairs {
            let bytes = encoded(a, b);
            let (mut one, mut other) = (Vec::new(), Vec::new());
            let rest = take(&bytes, &mut one).unwrap();
            assert!(take(rest, &mut other).unwrap().is_empty());
            assert_eq!((&one, &other), (a, b));
            for &(c, d) in &pairs {
                assert_eq!(
                    (a, b).cmp(&(c, d)),
                    bytes.cmp(&encoded(c, d)),
                    "{a:?} {b:?} {c:?} {d:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_string_is_an_error() {
        let mut out = Vec::new();
        for bytes in [&[][..], &[0; 8], &[0, 0, 0, 0, 0, 0, 0, 0, MORE]] {
            assert!(take(bytes, &mut out).is_err(), "{bytes:?}");
        }
    }
}
