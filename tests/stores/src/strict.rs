//! `s3s-fs`, with what Amazon S3 promises and it does not:
//!
//! - of two that create an object at once, each only if there is none, one fails;
//! - a directory of files is not an object;
//! - a bucket that is missing is said to be;
//! - the last thousand bytes of a shorter object are all of it;
//! - a version that is gone is not read;
//! - an upload that is over is said to be unknown, not forbidden.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;

/// Uploads in parts that are under way.
pub type Uploads = Arc<Mutex<BTreeSet<String>>>;

/// See the [module documentation](self).
pub struct Strict {
    files: FileSystem,
    root: PathBuf,
    creating: tokio::sync::Mutex<()>,
    uploads: Uploads,
}

impl Strict {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            files: FileSystem::new(root).expect("a directory"),
            root: root.to_owned(),
            creating: tokio::sync::Mutex::new(()),
            uploads: Uploads::default(),
        }
    }

    pub(crate) fn uploads(&self) -> Uploads {
        Arc::clone(&self.uploads)
    }

    fn check_upload(&self, upload: &str) -> S3Result<()> {
        let uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        if uploads.contains(upload) { Ok(()) } else { Err(s3_error!(NoSuchUpload)) }
    }

    fn end_upload(&self, upload: &str) {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner).remove(upload);
    }

    #[allow(clippy::disallowed_methods, reason = "the server lives outside the engine's world")]
    fn check_bucket(&self, bucket: &str) -> S3Result<()> {
        let there = self.root.join(bucket).is_dir();
        if there { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
    }

    #[allow(clippy::disallowed_methods, reason = "the server lives outside the engine's world")]
    fn check_object(&self, bucket: &str, key: &str) -> S3Result<u64> {
        self.check_bucket(bucket)?;
        match std::fs::metadata(self.root.join(bucket).join(key)) {
            Ok(found) if found.is_file() => Ok(found.len()),
            _ => Err(s3_error!(NoSuchKey)),
        }
    }
}

#[async_trait]
impl S3 for Strict {
    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        self.check_bucket(&request.input.bucket)?;
        let _one_at_a_time = self.creating.lock().await;
        self.files.put_object(request).await
    }

    async fn get_object(
        &self,
        mut request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let bytes = self.check_object(&request.input.bucket, &request.input.key)?;
        if let Some(Range::Suffix { length }) = &mut request.input.range {
            *length = bytes.min(*length);
        }
        let if_match = request.input.if_match.take();
        let reply = self.files.get_object(request).await?;
        if let Some(ETagCondition::ETag(wanted)) = if_match
            && reply.output.e_tag.as_ref() != Some(&wanted)
        {
            return Err(s3_error!(PreconditionFailed));
        }
        Ok(reply)
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        self.check_object(&request.input.bucket, &request.input.key)?;
        self.files.head_object(request).await
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.check_bucket(&request.input.bucket)?;
        if self.check_object(&request.input.bucket, &request.input.key).is_err() {
            return Ok(S3Response::new(DeleteObjectOutput::default()));
        }
        self.files.delete_object(request).await
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        self.check_bucket(&request.input.bucket)?;
        self.files.list_objects_v2(request).await
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.check_bucket(&request.input.bucket)?;
        let reply = self.files.create_multipart_upload(request).await?;
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        uploads.extend(reply.output.upload_id.clone());
        drop(uploads);
        Ok(reply)
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        self.check_upload(&request.input.upload_id)?;
        self.files.upload_part(request).await
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let _one_at_a_time = self.creating.lock().await;
        let upload = request.input.upload_id.clone();
        self.check_upload(&upload)?;
        let reply = self.files.complete_multipart_upload(request).await?;
        self.end_upload(&upload);
        Ok(reply)
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let upload = request.input.upload_id.clone();
        self.check_upload(&upload)?;
        let reply = self.files.abort_multipart_upload(request).await?;
        self.end_upload(&upload);
        Ok(reply)
    }
}
