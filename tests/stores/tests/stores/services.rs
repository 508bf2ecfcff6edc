//! Services that are not Amazon S3.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// One that keeps no metadata, and does not know what the last bytes of an object are.
#[derive(Debug)]
pub(crate) struct Plain {
    pub(crate) inner: Arc<InMemory>,
    /// Whether it says so, or keeps quiet about metadata that it was given.
    pub(crate) says_so: bool,
}

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plain")
    }
}

impl Plain {
    fn check(&self, bare: bool, what: &str) -> Result<()> {
        if bare || !self.says_so {
            return Ok(());
        }
        Err(Error::NotImplemented { operation: what.to_owned(), implementer: self.to_string() })
    }
}

#[async_trait]
impl ObjectStore for Plain {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> Result<PutResult> {
        self.check(options.attributes.is_empty(), "metadata")?;
        options.attributes = Default::default();
        self.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        mut options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.check(options.attributes.is_empty(), "metadata")?;
        options.attributes = Default::default();
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        if let Some(GetRange::Suffix(_)) = options.range {
            return Err(Error::NotSupported { source: "a suffix".into() });
        }
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
