//! From a URL to a service, its prefix, and a text that identifies them.

use std::sync::Arc;

use async_trait::async_trait;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService,
    ReqwestConnector,
};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientConfigKey, HeaderValue, ObjectStore, ObjectStoreScheme, RetryConfig,
};
use url::Url;

use super::calls::Calls;
use super::options::RemoteOptions;
use crate::base::{Error, Result};
use crate::object::MAX_NAME_BYTES;

/// A service, and the place in it.
pub(super) struct Address {
    pub(super) service: Arc<dyn ObjectStore>,
    pub(super) prefix: Path,
    pub(super) identity: String,
}

/// What a URL says.
struct Parsed {
    url: Url,
    scheme: Scheme,
    prefix: Path,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scheme {
    S3,
    Google,
    Azure,
    Hdfs,
}

pub(super) fn connect(url: &str, options: &RemoteOptions, calls: &Calls) -> Result<Address> {
    let Parsed { url, scheme, prefix } = parse(url)?;
    match scheme {
        Scheme::S3 => s3(&url, prefix, options),
        Scheme::Google => google(&url, prefix, options),
        Scheme::Azure => azure(&url, prefix, options),
        Scheme::Hdfs => hdfs(&url, prefix, options, calls),
    }
}

fn parse(text: &str) -> Result<Parsed> {
    // The text is not quoted before it is known to hold no secret.
    let not_one = |why: String| {
        Error::invalid("not the URL of an object store")
            .expected("one like s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX")
            .found(why)
    };
    let url: Url = text.parse().map_err(|e| not_one(format!("{e}")))?;
    let secret = url.password().is_some() || url.query().is_some() || url.fragment().is_some();
    if secret {
        return Err(not_one("a password, a query or a fragment".to_owned())
            .remedy("give credentials in the environment or as settings, not in the URL"));
    }
    let (scheme, prefix) = if url.scheme() == "hdfs" {
        (Scheme::Hdfs, Path::from_url_path(url.path()).map_err(|e| not_one(e.to_string()))?)
    } else {
        let (scheme, prefix) =
            ObjectStoreScheme::parse(&url).map_err(|e| not_one(e.to_string()))?;
        let scheme = match scheme {
            ObjectStoreScheme::AmazonS3 => Scheme::S3,
            ObjectStoreScheme::GoogleCloudStorage => Scheme::Google,
            ObjectStoreScheme::MicrosoftAzure => Scheme::Azure,
            _ => return Err(not_one(url.to_string())),
        };
        (scheme, prefix)
    };
    if !url.username().is_empty() && scheme != Scheme::Azure {
        return Err(not_one("the name of a user".to_owned()));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(not_one(format!("{url}, which names no bucket")));
    }
    check_prefix(&prefix)?;
    Ok(Parsed { url, scheme, prefix })
}

/// A name and its prefix together have to stay below what services allow.
pub(super) fn check_prefix(prefix: &Path) -> Result<()> {
    if prefix.as_ref().len() < MAX_NAME_BYTES {
        return Ok(());
    }
    Err(Error::invalid("the prefix of an object store is too long")
        .expected(format_args!("less than {MAX_NAME_BYTES} bytes"))
        .found(prefix.as_ref().len()))
}

fn not_opened(url: &Url) -> impl Fn(object_store::Error) -> Error {
    let at = url.to_string();
    move |e| Error::invalid("an object store cannot be reached like this").at(&at).source(e)
}

fn unknown_setting(url: &Url, name: &str) -> Error {
    Error::invalid("a setting that this kind of object store does not know")
        .at(url)
        .found(format_args!("{name:?}"))
}

fn retry(options: &RemoteOptions) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: options.first_pause,
            max_backoff: options.first_pause * 64,
            base: 2.0,
        },
        max_retries: options.retries,
        retry_timeout: options.request_timeout * 4,
    }
}

/// Ways to say what is said to every service alike.
macro_rules! configured {
    ($builder:expr, $key:ty, $url:expr, $options:expr) => {{
        let (url, options) = ($url, $options);
        let timeout = format!("{}ms", options.request_timeout.as_millis());
        let mut builder = $builder
            .with_url(url.as_str())
            .with_retry(retry(options))
            .with_config(<$key>::Client(ClientConfigKey::Timeout), timeout);
        if options.allow_http {
            builder = builder.with_config(<$key>::Client(ClientConfigKey::AllowHttp), "true");
        }
        for (name, value) in &options.settings {
            let key: $key = name.parse().map_err(|_| unknown_setting(url, name))?;
            builder = builder.with_config(key, value);
        }
        builder
    }};
}

fn s3(url: &Url, prefix: Path, options: &RemoteOptions) -> Result<Address> {
    let mut builder = configured!(AmazonS3Builder::from_env(), AmazonS3ConfigKey, url, options)
        // Objects are removed one at a time, which every service knows how to do.
        .with_disable_bulk_delete(true);
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = &options.region {
        builder = builder.with_region(region);
    }
    if options.conditional_completion {
        builder = builder.with_http_connector(CompleteIfNew);
    }
    let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
    let service = builder.build().map_err(not_opened(url))?;
    let identity = identity("s3", url, &prefix, endpoint.as_deref());
    Ok(Address { service: Arc::new(service), prefix, identity })
}

fn google(url: &Url, prefix: Path, options: &RemoteOptions) -> Result<Address> {
    let mut builder =
        configured!(GoogleCloudStorageBuilder::from_env(), GoogleConfigKey, url, options);
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    let service = builder.build().map_err(not_opened(url))?;
    let identity = identity("gs", url, &prefix, options.endpoint.as_deref());
    Ok(Address { service: Arc::new(service), prefix, identity })
}

fn azure(url: &Url, prefix: Path, options: &RemoteOptions) -> Result<Address> {
    let mut builder = configured!(MicrosoftAzureBuilder::from_env(), AzureConfigKey, url, options);
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    let account = builder.get_config_value(&AzureConfigKey::AccountName);
    let endpoint = builder.get_config_value(&AzureConfigKey::Endpoint).or(account);
    let service = builder.build().map_err(not_opened(url))?;
    let identity = identity("az", url, &prefix, endpoint.as_deref());
    Ok(Address { service: Arc::new(service), prefix, identity })
}

#[cfg(feature = "hdfs")]
fn hdfs(url: &Url, prefix: Path, options: &RemoteOptions, calls: &Calls) -> Result<Address> {
    use hdfs_native_object_store::HdfsObjectStoreBuilder;
    let name_node = &url[..url::Position::BeforePath];
    let settings = options.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let builder = HdfsObjectStoreBuilder::new().with_url(name_node).with_config(settings);
    let service = calls.inside(|| builder.build()).map_err(not_opened(url))?;
    let identity = identity("hdfs", url, &prefix, None);
    Ok(Address { service: Arc::new(service), prefix, identity })
}

#[cfg(not(feature = "hdfs"))]
fn hdfs(url: &Url, _: Path, _: &RemoteOptions, _: &Calls) -> Result<Address> {
    Err(crate::object::needs_feature(url.scheme(), "hdfs"))
}

/// `scheme://place/prefix`, and where that is if there are several such places.
fn identity(scheme: &str, url: &Url, prefix: &Path, endpoint: Option<&str>) -> String {
    // The whole authority: of Azure's, the part before the `@` is the container.
    let place = match url.scheme() {
        // Here the bucket stands in the host or in the path.
        "https" => format!("{}{}", url.authority(), url.path().trim_end_matches('/')),
        _ if prefix.as_ref().is_empty() => url.authority().to_owned(),
        _ => format!("{}/{prefix}", url.authority()),
    };
    let mut identity = format!("{scheme}://{place}");
    if let Some(endpoint) = endpoint {
        let shown = match endpoint.parse::<Url>() {
            Ok(mut url) => {
                // Nobody should put them there; if somebody does, they stay out of this.
                let _ = url.set_username("");
                let _ = url.set_password(None);
                url.set_query(None);
                url.as_str().trim_end_matches('/').to_owned()
            }
            Err(_) => endpoint.to_owned(),
        };
        identity.push_str(" at ");
        identity.push_str(&shown);
    }
    identity
}

/// Makes a client that completes an upload in parts only if the name is free.
///
/// The crate `object_store` asks that of single requests alone, so the question is added
/// to the request on its way. Its signature need not cover the header.
#[derive(Debug)]
struct CompleteIfNew;

impl HttpConnector for CompleteIfNew {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(CompletingIfNew(ReqwestConnector::default().connect(options)?)))
    }
}

#[derive(Debug)]
struct CompletingIfNew(HttpClient);

#[async_trait]
impl HttpService for CompletingIfNew {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let query = request.uri().query().unwrap_or_default();
        if request.method().as_str() == "POST" && query.starts_with("uploadId=") {
            request.headers_mut().insert("if-none-match", HeaderValue::from_static("*"));
        }
        self.0.execute(request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ErrorKind;

    #[test]
    fn urls_name_a_service_and_a_prefix() {
        for (url, scheme, prefix) in [
            ("s3://bucket", Scheme::S3, ""),
            ("s3://bucket/", Scheme::S3, ""),
            ("s3a://bucket/a/b/", Scheme::S3, "a/b"),
            ("gs://bucket/a", Scheme::Google, "a"),
            ("az://container/a", Scheme::Azure, "a"),
            ("abfss://container@account.dfs.core.windows.net/a", Scheme::Azure, "a"),
            ("https://account.blob.core.windows.net/container/a", Scheme::Azure, "a"),
            ("hdfs://name-node:9000/a/b", Scheme::Hdfs, "a/b"),
            ("hdfs://service", Scheme::Hdfs, ""),
        ] {
            let parsed = parse(url).unwrap();
            assert_eq!((parsed.scheme, parsed.prefix.as_ref()), (scheme, prefix), "{url}");
        }
    }

    #[test]
    fn other_urls_are_refused_and_secrets_not_repeated() {
        let long = format!("s3://bucket/{}", "a".repeat(600));
        for url in [
            "",
            "bucket/prefix",
            "/etc",
            "s3:///prefix",
            "ftp://host/a",
            "http://host/a",
            "https://host/a",
            "memory:///a",
            "s3://key:hunter2@bucket/a",
            "s3://hunter2@bucket/a",
            "hdfs://hunter2@node/a",
            "az://container/a?sig=hunter2",
            "s3://bucket/a#hunter2",
            "hdfs:///a",
            &long,
        ] {
            let error = parse(url).err().unwrap_or_else(|| panic!("{url}"));
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    #[cfg(feature = "hdfs")]
    fn a_name_node_is_known_by_its_address_and_not_asked_when_the_store_is_opened() {
        let calls = Calls::start(&crate::env::RealEnv::new()).unwrap();
        let options = RemoteOptions::new();
        let open = |url| connect(url, &options, &calls);
        // Nobody listens there.
        let address = open("hdfs://127.0.0.1:1/jobs/one/").unwrap();
        assert_eq!(address.identity, "hdfs://127.0.0.1:1/jobs/one");
        assert_eq!(address.prefix.as_ref(), "jobs/one");
        // A service of several name nodes needs settings that say which.
        let error = open("hdfs://service/jobs").err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }

    #[test]
    #[cfg(not(feature = "hdfs"))]
    fn the_feature_for_hdfs_is_named_where_it_is_missing() {
        let calls = Calls::start(&crate::env::RealEnv::new()).unwrap();
        let error = connect("hdfs://node:9000/a", &RemoteOptions::new(), &calls).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("\"hdfs\""), "{error}");
    }

    #[test]
    fn settings_that_nobody_knows_are_refused() {
        let calls = Calls::start(&crate::env::RealEnv::new()).unwrap();
        let options = RemoteOptions::new().setting("aws_acces_key_id", "hunter2");
        for url in ["s3://bucket/a", "gs://bucket/a", "az://container/a"] {
            let error = connect(url, &options, &calls).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains("aws_acces_key_id"), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn identities_tell_places_apart_and_keep_secrets() {
        let of = |scheme, text, endpoint| {
            let parsed = parse(text).unwrap();
            identity(scheme, &parsed.url, &parsed.prefix, endpoint)
        };
        assert_eq!(of("s3", "s3a://bucket/a/", None), "s3://bucket/a");
        assert_eq!(of("s3", "s3://bucket", None), "s3://bucket");
        assert_eq!(
            of("s3", "s3://bucket/a", Some("http://user:hunter2@host:9000/")),
            "s3://bucket/a at http://host:9000"
        );
        assert_eq!(of("az", "az://box/a", Some("account")), "az://box/a at account");
        assert_ne!(
            of("az", "abfss://one@account.dfs.core.windows.net/a", None),
            of("az", "abfss://two@account.dfs.core.windows.net/a", None)
        );
    }
}
