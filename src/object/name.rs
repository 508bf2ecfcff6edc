//! Names of objects, checked once.
//!
//! Names come out of manifests, and a manifest may come from anywhere. Because
//! a store takes nothing but an [`ObjectName`], and one cannot be made of `..`,
//! an absolute path or a control character, no manifest can make a store touch
//! a file outside its root.

use std::fmt;

use crate::base::{Error, Result};

/// Longest name, in bytes. Object stores allow 1,024; the other half is for
/// the prefix under which a store was opened.
pub const MAX_NAME_BYTES: usize = 512;

/// Longest part between two slashes, in bytes: what file systems allow.
pub const MAX_SEGMENT_BYTES: usize = 255;

/// The name of an object: segments of `A-Z a-z 0-9 . _ -`, joined by `/`, none
/// empty or beginning with a dot.
///
/// The engine itself makes lower-case names only, so that no two of them
/// become one on a file system that ignores case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(Box<str>);

impl ObjectName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::base::ErrorKind::Invalid) if it breaks a
    /// rule above, or is too long. A decoder turns that into `Corrupt`.
    pub fn new(name: impl AsRef<str>) -> Result<Self> {
        let name = name.as_ref();
        check_length(name)?;
        for segment in name.split('/') {
            check_segment(name, segment)?;
        }
        Ok(Self(name.into()))
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name `self/rest`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn join(&self, rest: impl AsRef<str>) -> Result<Self> {
        Self::new(format!("{}/{}", self.0, rest.as_ref()))
    }

    /// Everything before the last slash; empty if there is none.
    pub fn parent(&self) -> &str {
        parent_of(&self.0)
    }
}

/// Everything before the last slash; empty if there is none.
pub(super) fn parent_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Checks that `prefix` is the beginning of some name: empty, or whole
/// segments followed by a part of one.
pub(super) fn check_prefix(prefix: &str) -> Result<()> {
    if prefix.is_empty() {
        return Ok(());
    }
    check_length(prefix)?;
    let (whole, part) = prefix.rsplit_once('/').map_or((None, prefix), |(w, p)| (Some(w), p));
    for segment in whole.into_iter().flat_map(|whole| whole.split('/')) {
        check_segment(prefix, segment)?;
    }
    if part.is_empty() { Ok(()) } else { check_segment(prefix, part) }
}

fn check_length(name: &str) -> Result<()> {
    if name.len() > MAX_NAME_BYTES {
        return Err(Error::invalid("object name is too long")
            .expected(format_args!("at most {MAX_NAME_BYTES} bytes"))
            .found(name.len()));
    }
    Ok(())
}

fn check_segment(name: &str, segment: &str) -> Result<()> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let sound = !segment.is_empty()
        && segment.len() <= MAX_SEGMENT_BYTES
        && !segment.starts_with('.')
        && segment.bytes().all(allowed);
    if sound {
        return Ok(());
    }
    Err(Error::invalid("not the name of an object")
        .expected(format_args!(
            "segments of 1 to {MAX_SEGMENT_BYTES} letters, digits, '.', '_' or '-', not beginning with '.', joined by '/'"
        ))
        .found(format_args!("{name:?}")))
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for ObjectName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ErrorKind;

    #[test]
    fn ordinary_names_pass() {
        for name in ["a", "a/b", "job-1/op_2/00ff.sst", "A.b..c", "x.", "0", "a/-", "_"] {
            assert_eq!(ObjectName::new(name).unwrap().as_str(), name);
        }
        let longest = format!("{}/{}/c", "a".repeat(255), "b".repeat(254));
        assert_eq!(longest.len(), MAX_NAME_BYTES);
        assert!(ObjectName::new(longest).is_ok());
    }

    #[test]
    fn names_that_could_leave_the_root_or_hide_are_refused() {
        let long_segment = "a".repeat(256);
        let long = ["a".repeat(200), "b".repeat(200), "c".repeat(200)].join("/");
        let huge = "a/".repeat(1 << 20);
        let corpus = [
            "",
            "/",
            "//",
            ".",
            "..",
            "./a",
            "../a",
            "a/..",
            "a/../b",
            "a/.",
            "a/./b",
            "/a",
            "/etc/passwd",
            "a/",
            "a//b",
            "a\\b",
            "..\\a",
            "C:\\a",
            "c:a",
            "a\0",
            "\0",
            "a\0/b",
            "a\n",
            "a\r",
            "a\tb",
            "a b",
            "a\u{7f}",
            "ä",
            "a\u{202e}b",
            "a\u{2024}\u{2024}",
            "%2e",
            "~",
            "a*",
            "a?",
            "$HOME",
            ".tmp",
            ".tmp/x",
            "a/.hidden",
            "\u{ff0e}\u{ff0e}/a",
            "a:b",
            "file://a",
            "a/\u{0}/b",
            "|",
            "-/ ",
            &long_segment,
            &long,
            &huge,
        ];
        for name in corpus {
            let error = ObjectName::new(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{:.40}", name);
            assert!(error.to_string().len() < 4096, "an error quotes no endless name");
        }
    }

    #[test]
    fn every_byte_but_the_allowed_ones_is_refused() {
        for byte in 0..=255u8 {
            let name = format!("a{}b", char::from(byte));
            let allowed = byte == b'/' || byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            assert_eq!(ObjectName::new(&name).is_ok(), allowed, "byte {byte}");
        }
    }

    #[test]
    fn join_and_parent_are_inverse() {
        let name = ObjectName::new("a/b").unwrap().join("c/d").unwrap();
        assert_eq!(name.as_str(), "a/b/c/d");
        assert_eq!(name.parent(), "a/b/c");
        assert_eq!(ObjectName::new("a").unwrap().parent(), "");
        assert!(name.join("../x").is_err());
        assert!(name.join("").is_err());
    }

    #[test]
    fn a_prefix_may_end_anywhere_inside_a_name() {
        let name = "job-1/op.2/file";
        for end in 0..=name.len() {
            check_prefix(&name[..end]).unwrap();
        }
        for prefix in ["/", "//", "a//", "..", "../", "a/..", "a/../", ".", "a/.b", "a\0", "a b/"] {
            assert!(check_prefix(prefix).is_err(), "{prefix:?}");
        }
    }
}
