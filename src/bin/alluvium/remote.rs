//! Stores that a URL names: in a cloud, or in HDFS, as far as this build knows them.
//!
//! Credentials, regions and endpoints come from the environment, under the names that the
//! tools of each service use; the URL holds none, and no error repeats one. Whatever
//! happens to the service, a call ends: a request is given up after [`REQUEST_SECONDS`]
//! and repeated [`RETRIES`] times, for four times as long at most.

use std::sync::Arc;

#[cfg(not(feature = "object-store"))]
use alluvium::Error;
use alluvium::Result;
use alluvium::object::ObjectStore;

#[cfg(feature = "object-store")]
use crate::looking::Looking;
use crate::store::Access;

/// How long one request may take. A person waits, and a part of an upload has 8 MiB.
#[cfg(feature = "object-store")]
const REQUEST_SECONDS: u64 = 60;
/// How often a request is repeated whose connection failed or that was refused for now;
/// together the pauses are some seconds.
#[cfg(feature = "object-store")]
const RETRIES: usize = 5;

/// Whether a text is a URL of something that is no directory.
pub(crate) fn is_remote(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| scheme != "file")
}

/// Opens the store that a URL names. No request is sent yet.
#[cfg(feature = "object-store")]
pub(crate) fn open(url: &str, access: Access) -> Result<Arc<dyn ObjectStore>> {
    use std::time::Duration;

    use alluvium::env::RealEnv;
    use alluvium::object::{RemoteOptions, RemoteStore};

    let options =
        RemoteOptions::new().request_timeout(Duration::from_secs(REQUEST_SECONDS)).retries(RETRIES);
    let store = RemoteStore::open(Arc::new(RealEnv::with_pread()), url, options)?;
    Ok(match access {
        Access::Read => Arc::new(Looking(Arc::new(store))),
        Access::Change | Access::Make => Arc::new(store),
    })
}

/// Says which feature is missing. A URL may hold a secret, so no more of it is shown than
/// its scheme.
#[cfg(not(feature = "object-store"))]
pub(crate) fn open(url: &str, _: Access) -> Result<Arc<dyn ObjectStore>> {
    let scheme: String = url.chars().take_while(|c| c.is_ascii_alphanumeric()).take(16).collect();
    let features = if scheme == "hdfs" { "cli,hdfs" } else { "cli,object-store" };
    Err(Error::invalid("this build of alluvium opens no stores but directories")
        .at(format_args!("{scheme}://"))
        .expected("a directory, or file://")
        .remedy(format_args!("cargo install alluvium --features {features}")))
}
