//! Places that others ask savepoints into: which are refused, and how one is opened.
//!
//! Whoever may write a request may name a place, and the job writes there with rights of
//! its own. So nothing is opened unless the runtime said how
//! ([`CoordinatorBuilder::places`](super::CoordinatorBuilder::places)), and what could
//! harm the job or somebody's files is refused before: the job's own store and what is
//! around it, a way through links, a directory in which something is.
//!
//! A place is looked at without a change to it as far as that is possible: of a directory
//! of this machine before a store is opened in it, which would make one. What is anywhere
//! else is opened first, which changes nothing there, and then looked at.

use std::fmt;
use std::io::ErrorKind as Io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::CoordinatorBuilder;
use crate::base::{Error, Result};
use crate::env::Env;
use crate::format::place::check_place;
use crate::object::{ObjectStore, directory_of};
use crate::savepoint::native::{METADATA, ORIGIN};

/// What a store in a directory makes of its own, and keeps.
const OWN_DIR: &str = ".tmp";

type Open = dyn Fn(&str) -> Result<Arc<dyn ObjectStore>> + Send + Sync;

/// Opens the store that is a place, as the runtime says.
#[derive(Clone)]
pub(super) struct Opener(pub(super) Arc<Open>);

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opener")
    }
}

impl CoordinatorBuilder {
    /// How to open a place that others ask a savepoint into, by its URL; without this such
    /// requests are refused, and [`savepoint_into`](super::Coordinator::savepoint_into) is for the
    /// runtime alone. [`open_url`](crate::object::open_url) will do, where everybody who can
    /// write into the job's store may also choose where the job writes; else refuse here
    /// what is not allowed.
    ///
    /// The shards are given the same text, in the [barrier](super::Barrier::place), and must open
    /// the same place by it. What is opened is called on the coordinator's thread and should
    /// have timeouts. Before it is asked, places are refused that are no sound URL (see
    /// [`check_place`]), lie in the job's own store or around it, or are directories of
    /// this machine that are not empty or reached through a link.
    pub fn places(
        mut self,
        open: impl Fn(&str) -> Result<Arc<dyn ObjectStore>> + Send + Sync + 'static,
    ) -> Self {
        self.places = Some(Opener(Arc::new(open)));
        self
    }
}

/// Opens a place for a job whose own store has this identity.
///
/// # Errors
/// `Invalid` if it is none, is refused, or cannot be opened: whoever asked is told, and
/// nobody tries again.
pub(super) fn open(
    opener: Option<&Opener>,
    env: &dyn Env,
    own: &str,
    place: &str,
) -> Result<Arc<dyn ObjectStore>> {
    check_place(place)?;
    let Some(Opener(open)) = opener else {
        return Err(Error::invalid("the job takes no savepoints into other places")
            .at("its coordinator, which was not told how to open one")
            .remedy("take a savepoint in the job's store and copy it with `alluvium export`, or have the job built with CoordinatorBuilder::places"));
    };
    if let Some(path) = directory_of(place)? {
        let path: PathBuf = path.components().collect();
        check_way(env, &path)?;
        check_apart(&format!("local:{}", path.display()), own)?;
        check_empty(env, &path)?;
    }
    let store = open(place).map_err(|error| {
        Error::invalid("the place of a savepoint cannot be opened").at(place).source(error)
    })?;
    check_apart(&store.identity(), own)?;
    Ok(store)
}

/// Refuses a directory that is reached through a link: who asked for it may not know where
/// it leads.
fn check_way(env: &dyn Env, path: &Path) -> Result<()> {
    for above in path.ancestors() {
        match env.fs().canonicalize(above) {
            Ok(real) if real == above => return Ok(()),
            Ok(real) => {
                let rest = path.strip_prefix(above).unwrap_or(Path::new(""));
                return Err(Error::invalid("the place of a savepoint is reached through a link")
                    .at(above.display())
                    .expected("a path without links")
                    .found(real.display())
                    .remedy(format_args!("ask for {}", real.join(rest).display())));
            }
            // What is not there will be made.
            Err(error) if error.kind() == Io::NotFound => {}
            Err(error) => {
                return Err(Error::invalid("the place of a savepoint cannot be a directory")
                    .at(above.display())
                    .source(error));
            }
        }
    }
    Ok(())
}

/// Refuses what lies within the job's own store, or around it.
fn check_apart(place: &str, own: &str) -> Result<()> {
    if !is_within(place, own) && !is_within(own, place) {
        return Ok(());
    }
    Err(Error::invalid("the place of a savepoint lies in the job's own store, or around it")
        .expected(format_args!("one apart from {own}"))
        .found(place)
        .remedy("choose a folder elsewhere; `alluvium savepoint` without --into takes one in the job's store"))
}

/// Whether a store of one identity lies in that of another.
fn is_within(inner: &str, outer: &str) -> bool {
    // What follows says at which endpoint, and that of another one is another store.
    let parts = |identity| match identity {
        text if str::starts_with(text, "local:") => (text, ""),
        text => str::rsplit_once(text, " at ").unwrap_or((text, "")),
    };
    let ((inner, inner_at), (outer, outer_at)) = (parts(inner), parts(outer));
    let rest = inner.strip_prefix(outer.trim_end_matches('/'));
    inner_at == outer_at && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Refuses a directory in which there is something, other than a savepoint: that may be the
/// one that is asked for.
fn check_empty(env: &dyn Env, path: &Path) -> Result<()> {
    match env.fs().list(path) {
        Ok(names) if names.iter().any(|name| [METADATA, ORIGIN].contains(&&**name)) => Ok(()),
        Ok(names) => match names.iter().find(|name| *name != OWN_DIR) {
            Some(name) => Err(occupied(name).at(path.display())),
            None => Ok(()),
        },
        Err(error) if error.kind() == Io::NotFound => Ok(()),
        Err(error) => Err(Error::invalid("the place of a savepoint cannot be a directory")
            .at(path.display())
            .source(error)),
    }
}

/// Why nothing goes where something is already.
pub(super) fn occupied(by: impl fmt::Display) -> Error {
    Error::invalid("there is something in the place of a savepoint already")
        .expected("an empty folder, or none yet")
        .found(by)
        .remedy("choose another folder, or clear this one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_lies_within_another_by_whole_names_and_at_the_same_endpoint() {
        for (inner, outer, expected) in [
            ("local:/a", "local:/a", true),
            ("local:/a/b", "local:/a", true),
            ("local:/ab", "local:/a", false),
            ("local:/a", "local:/a/b", false),
            ("local:/a", "local:/", true),
            ("local:/a at b/c", "local:/a at b", true),
            ("local:/a at c", "local:/a at b", false),
            ("s3://bucket/a", "s3://bucket", true),
            ("s3://bucket2", "s3://bucket", false),
            ("s3://bucket/a at http://x", "s3://bucket at http://x", true),
            ("s3://bucket/a at http://x", "s3://bucket at http://y", false),
            ("s3://bucket/a at http://x", "s3://bucket", false),
            ("memory:1", "memory:1", true),
            ("memory:12", "memory:1", false),
        ] {
            assert_eq!(is_within(inner, outer), expected, "{inner} in {outer}");
        }
    }
}
