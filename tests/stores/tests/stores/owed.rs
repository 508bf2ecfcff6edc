//! What every object store owes, of services that are reached in different ways.

use std::path::Path;
use std::sync::Arc;

use alluvium::env::Fs;
use alluvium::object::{FolderStore, MemoryStore, ObjectStore, RemoteOptions, RemoteStore};
use alluvium::{SnapshotSource, StoreSink};
use object_store::memory::InMemory;
use stores_tests::Server;

use crate::services::Plain;
use crate::{claims, env};

fn on_every_service(claim: impl Fn(&dyn ObjectStore, &dyn Fs, &Path)) {
    let env = env();
    let temp = tempfile::tempdir().unwrap();
    let mut dirs = 0..;
    let mut check = |store: RemoteStore| {
        let dir = temp.path().join(dirs.next().unwrap_or(0).to_string());
        env.fs().create_dir_all(&dir).unwrap();
        claim(&store, env.fs(), &dir);
    };
    let server = Server::start();
    check(server.store(&env, ""));
    check(server.store(&env, "jobs/one"));
    check(server.store_with(&env, "jobs/two", server.options().tail_bytes(7)));
    let memory = || Arc::new(InMemory::new());
    let over = |service: Arc<dyn object_store::ObjectStore>, prefix| {
        let options = RemoteOptions::new();
        RemoteStore::over(Arc::clone(&env), service, prefix, "test:", options).unwrap()
    };
    check(over(memory(), ""));
    check(over(memory(), "a/b"));
    check(over(Arc::new(Plain { inner: memory(), says_so: true }), "p"));
    check(over(Arc::new(Plain { inner: memory(), says_so: false }), "p"));
}

macro_rules! owed {
    ($($claim:ident),* $(,)?) => {
        $(
            #[test]
            fn $claim() {
                on_every_service(claims::$claim);
            }
        )*
    };
}

owed!(
    what_was_created_is_read_back,
    a_file_or_another_object_becomes_an_object,
    no_object_is_ever_replaced,
    contents_that_are_not_as_expected_are_refused,
    a_copy_can_be_cancelled_at_every_step,
    listing_finds_what_begins_with_the_prefix,
    a_missing_object_is_positively_missing,
    a_removed_object_is_gone_but_stays_readable_where_it_is_open,
);

#[test]
fn a_store_sees_nothing_outside_its_prefix() {
    let (env, server) = (env(), Server::start());
    let inner = server.store(&env, "a");
    let outer = server.store(&env, "");
    for object in ["a/x", "ab/x", "b/x"] {
        outer.create(&claims::name(object), b"x").unwrap();
    }
    assert_eq!(inner.list("").unwrap(), [claims::name("x")]);
    assert_eq!(inner.len_of(&claims::name("b/x")).unwrap(), None);
    assert_ne!(inner.identity(), outer.identity());
    assert_eq!(inner.identity(), server.store(&env, "a/").identity());
    assert!(!inner.identity().contains("secret"));
}

#[test]
fn a_missing_bucket_is_not_a_missing_object() {
    let (env, server) = (env(), Server::start());
    let store = server.store(&env, "p");
    store.create(&claims::name("a"), b"x").unwrap();
    server.hide_bucket(true);
    let errors = [
        store.open(&claims::name("a")).unwrap_err(),
        store.len_of(&claims::name("a")).unwrap_err(),
        store.list("").unwrap_err(),
        store.create(&claims::name("c"), b"").unwrap_err(),
        store.remove(&claims::name("a")).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), alluvium::base::ErrorKind::Unavailable, "{error}");
    }
    server.hide_bucket(false);
    assert_eq!(store.len_of(&claims::name("a")).unwrap(), Some(1));
}

#[test]
fn listings_of_several_pages_are_whole() {
    let env = env();
    let server = Server::start();
    let store = server.store(&env, "p");
    let mut names: Vec<_> = (0..1003).map(|i| claims::name(&format!("d/{i:04}"))).collect();
    for name in &names {
        store.create(name, b"").unwrap();
    }
    server.take_requests();
    assert_eq!(store.list("d/").unwrap(), names);
    assert_eq!(server.take_requests().len(), 2, "a page has a thousand");
    names.truncate(1000);
    assert_eq!(store.list("d/0").unwrap(), names);
}

#[test]
fn what_is_read_over_a_network_says_so_and_so_does_a_folder_of_it() {
    let (env, server) = (env(), Server::start());
    let store: Arc<dyn ObjectStore> = Arc::new(server.store(&env, "a"));
    let folder = FolderStore::new(Arc::clone(&store), claims::name("b"));
    assert!(store.is_remote() && folder.is_remote());
    let sink = StoreSink::new(Arc::new(folder));
    assert!(SnapshotSource::is_remote(&sink));
    let memory: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new(env));
    assert!(!FolderStore::new(memory, claims::name("b")).is_remote());
}
