//! From a URL to a store, as far as the crate was built to know it.

use std::path::PathBuf;
use std::sync::Arc;

use super::{LocalStore, MemoryStore, ObjectStore};
use crate::base::{Error, Result};
use crate::env::Env;

/// Schemes of the feature `object-store`.
const REMOTE: [&str; 9] = ["s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss", "https"];

/// Opens the store that a URL names.
///
/// - `file:///DIR`: a [`LocalStore`] in that directory, which is created if need be.
/// - `memory:///`: a [`MemoryStore`], a new and empty one each time.
/// - `s3://BUCKET/PREFIX` (or `s3a`), `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX` (or
///   `abfss://CONTAINER@ACCOUNT.HOST/PREFIX`): a `RemoteStore`, with the feature
///   `object-store`. Credentials and endpoints come from the environment of the process; to choose
///   more, use `RemoteStore::open`.
/// - `hdfs://NAME_NODE:PORT/PREFIX`: likewise, with the feature `hdfs`.
///
/// # Errors
/// `Invalid` if there is no such store, or a feature is missing (the error names it);
/// otherwise as of the store that is opened.
pub fn open_url(env: Arc<dyn Env>, url: &str) -> Result<Arc<dyn ObjectStore>> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(unknown(None));
    };
    match scheme {
        "file" => Ok(Arc::new(LocalStore::open(env, path_of(rest)?)?)),
        "memory" if matches!(rest, "" | "/") => Ok(Arc::new(MemoryStore::new(env))),
        "hdfs" => remote(env, url, scheme, "hdfs"),
        _ if REMOTE.contains(&scheme) => remote(env, url, scheme, "object-store"),
        _ => Err(unknown(Some(scheme))),
    }
}

#[cfg(feature = "object-store")]
fn remote(env: Arc<dyn Env>, url: &str, _: &str, _: &str) -> Result<Arc<dyn ObjectStore>> {
    use super::{RemoteOptions, RemoteStore};
    Ok(Arc::new(RemoteStore::open(env, url, RemoteOptions::new())?))
}

#[cfg(not(feature = "object-store"))]
fn remote(_: Arc<dyn Env>, _: &str, scheme: &str, feature: &str) -> Result<Arc<dyn ObjectStore>> {
    Err(super::needs_feature(scheme, feature))
}

/// A URL may hold a secret, so no more of it is shown than its beginning.
fn unknown(scheme: Option<&str>) -> Error {
    Error::invalid("not the URL of an object store")
        .expected("file:///DIR, memory:///, s3://BUCKET/PREFIX, gs://, az:// or hdfs://")
        .found(match scheme {
            Some(scheme) => format!("{:.16?}://", scheme),
            None => "none".to_owned(),
        })
}

/// The directory that a URL names; `None` if it names none of this machine.
///
/// # Errors
/// `Invalid` if it begins as one and is none.
pub(crate) fn directory_of(url: &str) -> Result<Option<PathBuf>> {
    url.strip_prefix("file://").map(path_of).transpose()
}

/// The path in what follows `file://`.
fn path_of(rest: &str) -> Result<PathBuf> {
    let wrong = |found: &str| {
        Error::invalid("not the URL of a directory")
            .expected("file:///DIR, with whatever is special in it as %XX")
            .found(format_args!("file://{rest:?}, with {found}"))
    };
    if !rest.starts_with('/') {
        return Err(wrong("a host or a relative path"));
    }
    let mut path = Vec::with_capacity(rest.len());
    let mut bytes = rest.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digits = [bytes.next(), bytes.next()].map(|digit| {
                    digit.and_then(|digit| char::from(digit).to_digit(16)).map(|digit| digit as u8)
                });
                match digits {
                    [Some(high), Some(low)] => path.push(high << 4 | low),
                    _ => return Err(wrong("a % that is not followed by two digits")),
                }
            }
            b'?' | b'#' => return Err(wrong("a query or a fragment")),
            _ => path.push(byte),
        }
    }
    let path = String::from_utf8(path).map_err(|_| wrong("bytes that are not UTF-8"))?;
    if path.contains('\0') {
        return Err(wrong("a zero byte"));
    }
    Ok(path.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ErrorKind;
    use crate::env::SimEnv;
    use crate::object::ObjectName;

    fn open(url: &str) -> Result<Arc<dyn ObjectStore>> {
        open_url(Arc::new(SimEnv::new(1)), url)
    }

    #[test]
    fn a_directory_and_memory_need_no_feature() {
        assert_eq!(open("file:///a/b%20c").unwrap().identity(), "local:/a/b c");
        let env = Arc::new(SimEnv::new(1));
        let memory = open_url(env.clone(), "memory:///").unwrap();
        memory.create(&ObjectName::new("a").unwrap(), b"x").unwrap();
        let other = open_url(env, "memory://").unwrap();
        assert_ne!(memory.identity(), other.identity());
    }

    #[test]
    fn other_urls_are_refused_and_not_repeated() {
        for url in [
            "",
            "a/b",
            "file:/a",
            "file://host/a",
            "file://a",
            "file:///a%2",
            "file:///a%zz",
            "file:///a%ff",
            "file:///a%00",
            "file:///a?b",
            "memory:///a",
            "ftp://user:hunter2@host/a",
            "hunter2",
        ] {
            let error = open(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    #[cfg(not(feature = "object-store"))]
    fn a_missing_feature_is_named() {
        for (url, feature) in
            [("s3://b/p", "object-store"), ("gs://b", "object-store"), ("hdfs://n/p", "hdfs")]
        {
            let error = open(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(feature), "{error}");
        }
    }
}
