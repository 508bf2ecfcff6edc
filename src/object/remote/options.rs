//! What can be chosen about a [`RemoteStore`](super::RemoteStore).

use std::fmt;
use std::time::Duration;

use crate::base::{Error, Result};

/// Smallest part of an upload in parts: what Amazon S3 asks of all but the last.
pub const MIN_PART_BYTES: usize = 5 << 20;

/// Largest part: what Amazon S3 allows, and far more than is of use.
pub const MAX_PART_BYTES: usize = 1 << 30;

/// Most parts of one upload.
pub(super) const MAX_PARTS: u64 = 10_000;

/// How a [`RemoteStore`](super::RemoteStore) reaches its service, and how much it
/// does at once.
///
/// Credentials, and all that is not set here, come from the environment of the
/// process, under the names that the tools of each service use: `AWS_ACCESS_KEY_ID`,
/// `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL` (or the roles
/// of a machine or a pod), `GOOGLE_SERVICE_ACCOUNT`, `AZURE_STORAGE_ACCOUNT_NAME`,
/// `AZURE_STORAGE_ACCOUNT_KEY` and so on.
#[derive(Clone)]
pub struct RemoteOptions {
    pub(super) endpoint: Option<String>,
    pub(super) region: Option<String>,
    pub(super) allow_http: bool,
    pub(super) settings: Vec<(String, String)>,
    pub(super) request_timeout: Duration,
    pub(super) retries: usize,
    pub(super) first_pause: Duration,
    pub(super) part_bytes: usize,
    pub(super) parallel_parts: usize,
    pub(super) tail_bytes: usize,
    pub(super) read_ahead_bytes: usize,
    pub(super) conditional_completion: bool,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            allow_http: false,
            settings: Vec::new(),
            request_timeout: Duration::from_secs(60),
            retries: 8,
            first_pause: Duration::from_millis(100),
            part_bytes: 8 << 20,
            parallel_parts: 4,
            tail_bytes: 256 << 10,
            read_ahead_bytes: 2 << 20,
            conditional_completion: true,
        }
    }
}

impl RemoteOptions {
    /// The defaults, as said at each option.
    pub fn new() -> Self {
        Self::default()
    }

    /// The service, such as `http://127.0.0.1:9000`, if it is not the provider's own. It
    /// becomes a part of the store's identity.
    #[must_use]
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = Some(endpoint.into());
        self
    }

    /// The region of the bucket, where the service has such a thing.
    #[must_use]
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// Whether to talk to the service without encryption; no.
    #[must_use]
    pub fn allow_http(mut self, allow: bool) -> Self {
        self.allow_http = allow;
        self
    }

    /// Any other setting, by the name that the crate `object_store` gives it, such as
    /// `aws_access_key_id` or `google_service_account_path`. A name that the
    /// service does not know is refused when the store is opened. Values are never shown.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// How long one request may take, its body included; 60 s. At most
    /// [`part_bytes`](Self::part_bytes) go into one.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How often a request is repeated that the service refused for now (429, 5xx), or
    /// whose connection failed; 8. The pause before the first is
    /// [`first_pause`](Self::first_pause); each is about twice the one before, up to
    /// 64 times the first.
    #[must_use]
    pub fn retries(mut self, retries: usize) -> Self {
        self.retries = retries;
        self
    }

    /// The pause before a request is repeated for the first time; 100 ms.
    #[must_use]
    pub fn first_pause(mut self, pause: Duration) -> Self {
        self.first_pause = pause;
        self
    }

    /// Bytes of a part; 8 MiB, at least [`MIN_PART_BYTES`]. What is not larger is created by one
    /// request. (An object of more than 10,000 parts gets larger ones.)
    #[must_use]
    pub fn part_bytes(mut self, bytes: usize) -> Self {
        self.part_bytes = bytes;
        self
    }

    /// Parts of one object that are sent at once; 4. An upload takes the memory of
    /// one part more than this, which no memory budget counts.
    #[must_use]
    pub fn parallel_parts(mut self, parts: usize) -> Self {
        self.parallel_parts = parts;
        self
    }

    /// Bytes at the end of an object that come along when it is opened; 256 KiB. A
    /// table ends with its filter and index, so one that these fit is
    /// opened by one request. Kept until the table has been opened, and of an object that is
    /// no longer, as long as it is open.
    #[must_use]
    pub fn tail_bytes(mut self, bytes: usize) -> Self {
        self.tail_bytes = bytes;
        self
    }

    /// Most bytes that are asked for ahead of somebody who reads an object in order, twice:
    /// while one such piece is read the next is on its way; 2 MiB.
    #[must_use]
    pub fn read_ahead_bytes(mut self, bytes: usize) -> Self {
        self.read_ahead_bytes = bytes;
        self
    }

    /// Whether to ask a service that speaks like Amazon S3 to complete an upload in
    /// parts only if no object has its name (`If-None-Match`); yes. Most that do not know
    /// the question ignore it; turn it off for one that refuses it.
    #[must_use]
    pub fn conditional_completion(mut self, ask: bool) -> Self {
        self.conditional_completion = ask;
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        if !(MIN_PART_BYTES..=MAX_PART_BYTES).contains(&self.part_bytes) {
            return Err(Error::invalid("parts of an upload cannot have this size")
                .expected(format_args!("{MIN_PART_BYTES} to {MAX_PART_BYTES} bytes"))
                .found(self.part_bytes));
        }
        if self.parallel_parts == 0 {
            return Err(Error::invalid("at least one part must be sent at once"));
        }
        Ok(())
    }

    /// The size of the parts of an object: equal for all but the last.
    pub(super) fn part_bytes_of(&self, object_bytes: u64) -> usize {
        let least = object_bytes.div_ceil(MAX_PARTS).next_multiple_of(1 << 20);
        self.part_bytes.max(usize::try_from(least).unwrap_or(usize::MAX))
    }

    /// The pause before attempt `number`, counted from zero, is repeated.
    pub(super) fn pause(&self, number: usize, random: u64) -> Duration {
        let pause = self.first_pause * (1 << number.min(6));
        // Those who were refused together should not come again together.
        pause / 2 + pause.mul_f64((random >> 11) as f64 / (1u64 << 53) as f64 / 2.0)
    }
}

impl fmt::Debug for RemoteOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.settings.iter().map(|(name, _)| name).collect();
        f.debug_struct("RemoteOptions")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("allow_http", &self.allow_http)
            .field("settings", &names)
            .field("request_timeout", &self.request_timeout)
            .field("retries", &self.retries)
            .field("first_pause", &self.first_pause)
            .field("part_bytes", &self.part_bytes)
            .field("parallel_parts", &self.parallel_parts)
            .field("tail_bytes", &self.tail_bytes)
            .field("read_ahead_bytes", &self.read_ahead_bytes)
            .field("conditional_completion", &self.conditional_completion)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_object_has_more_parts_than_a_service_takes() {
        let options = RemoteOptions::new();
        for bytes in [0, 1, 80_000 << 20, (80_000 << 20) + 1, 4 << 40] {
            let part = options.part_bytes_of(bytes) as u64;
            assert!(part >= options.part_bytes as u64);
            assert!(bytes.div_ceil(part) <= MAX_PARTS, "{bytes}");
        }
        assert_eq!(options.part_bytes_of(80_000 << 20), 8 << 20);
    }

    #[test]
    fn pauses_grow_and_have_an_end() {
        let options = RemoteOptions::new();
        for random in [0, u64::MAX / 2, u64::MAX] {
            let pauses: Vec<_> = (0..20).map(|number| options.pause(number, random)).collect();
            assert!(pauses[0] >= Duration::from_millis(50));
            assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(10)));
            assert!(pauses.is_sorted());
        }
    }

    #[test]
    fn values_of_settings_are_never_shown() {
        let options = RemoteOptions::new().setting("aws_secret_access_key", "hunter2");
        let shown = format!("{options:?}");
        assert!(shown.contains("aws_secret_access_key") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn sizes_that_no_service_takes_are_refused() {
        for options in [
            RemoteOptions::new().part_bytes(MIN_PART_BYTES - 1),
            RemoteOptions::new().part_bytes(MAX_PART_BYTES + 1),
            RemoteOptions::new().parallel_parts(0),
        ] {
            assert!(options.check().is_err(), "{options:?}");
        }
        RemoteOptions::new().check().unwrap();
    }
}
