//! Uploads in parts.

use std::sync::Arc;

use alluvium::base::ErrorKind;
use alluvium::env::{Env, ReadAt};
use alluvium::object::{COPY_STEP_BYTES, Contents, MIN_PART_BYTES, ObjectStore, RemoteStore};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use stores_tests::Server;

use crate::claims::{name, write};
use crate::services::Plain;
use crate::{assert_same, bytes, env, read, small_parts};

/// The bytes of an object as another client sees them.
fn seen_by_another(server: &Server, path: &str) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = server.plain_client();
    let path = object_store::path::Path::from(path);
    runtime.block_on(async { client.get(&path).await.unwrap().bytes().await.unwrap() }).into()
}

fn local(env: &Arc<dyn Env>, dir: &tempfile::TempDir, bytes: &[u8]) -> Arc<dyn ReadAt> {
    let path = dir.path().join(format!("{:016x}", env.random_u64()));
    write(env.fs(), &path, bytes);
    env.fs().open(&path).unwrap()
}

#[test]
fn bug_21_no_upload_loses_its_tail_at_any_boundary_of_parts() {
    let (env, server, dir) = (env(), Server::start(), tempfile::tempdir().unwrap());
    let store = server.store_with(&env, "p", small_parts(server.options()));
    for parts in 1..=3 {
        for size in [parts * MIN_PART_BYTES - 1, parts * MIN_PART_BYTES, parts * MIN_PART_BYTES + 1]
        {
            let expected = bytes(size, size as u64);
            let source = local(&env, &dir, &expected);
            let contents = Contents::of(&expected);
            let (a, b) = (format!("a{size}"), format!("b{size}"));
            store.create_from_source(&name(&a), &*source, &contents, &mut |_| true).unwrap();
            store.create(&name(&b), &expected).unwrap();
            for object in [a, b] {
                assert_same(&seen_by_another(&server, &format!("p/{object}")), &expected, &object);
                assert_same(&read(&store, &object).unwrap(), &expected, &object);
            }
        }
    }
    assert!(server.open_uploads().is_empty());
    assert_eq!(server.orphan_parts(), 0);
}

#[test]
fn an_upload_is_completed_only_if_its_name_is_free() {
    let (env, server) = (env(), Server::start());
    let store = server.store_with(&env, "p", small_parts(server.options()));
    store.create(&name("a"), &bytes(MIN_PART_BYTES + 1, 1)).unwrap();
    let requests = server.take_requests();
    let completions: Vec<_> =
        requests.iter().filter(|request| request.starts_with("POST p/a?uploadId=")).collect();
    assert_eq!(completions.len(), 1, "{requests:?}");
    assert!(completions[0].ends_with(" if new"), "{requests:?}");
    let plain = small_parts(server.options()).conditional_completion(false);
    let store = server.store_with(&env, "p", plain);
    store.create(&name("b"), &bytes(MIN_PART_BYTES + 1, 1)).unwrap();
    let requests = server.take_requests();
    assert!(!requests.iter().any(|request| request.ends_with(" if new")), "{requests:?}");
}

#[test]
fn an_object_that_appears_while_parts_are_sent_is_not_replaced() {
    let (env, server, dir) = (env(), Server::start(), tempfile::tempdir().unwrap());
    let other = server.store(&env, "p");
    let store = server.store_with(&env, "p", small_parts(server.options()));
    let expected = bytes(2 * MIN_PART_BYTES + 1, 1);
    let source = local(&env, &dir, &expected);
    for when in [0, MIN_PART_BYTES as u64, expected.len() as u64] {
        let object = name(&format!("a{when}"));
        let mut created = false;
        let mut go = |done: u64| {
            if done >= when && !created {
                other.create(&object, b"theirs").unwrap();
                created = true;
            }
            true
        };
        let contents = Contents::of(&expected);
        let error = store.create_from_source(&object, &*source, &contents, &mut go).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert_eq!(read(&store, object.as_str()).unwrap(), b"theirs");
    }
    assert!(server.open_uploads().is_empty());
    assert_eq!(server.orphan_parts(), 0);
}

#[test]
fn an_upload_that_is_cancelled_at_any_step_leaves_nothing() {
    let (env, server, dir) = (env(), Server::start(), tempfile::tempdir().unwrap());
    let store = server.store_with(&env, "p", small_parts(server.options()));
    let expected = bytes(2 * MIN_PART_BYTES + 1, 1);
    let source = local(&env, &dir, &expected);
    let contents = Contents::of(&expected);
    let mut told = Vec::new();
    for limit in (0..).map(|step| step * COPY_STEP_BYTES as u64) {
        told.clear();
        let result = store.create_from_source(&name("a"), &*source, &contents, &mut |done| {
            told.push(done);
            done < limit
        });
        match result {
            Ok(()) => break,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable);
                assert!(error.to_string().contains("cancelled"), "{error}");
                assert!(!error.may_have_happened());
            }
        }
        assert_eq!(store.len_of(&name("a")).unwrap(), None);
        assert!(server.open_uploads().is_empty());
        assert_eq!(server.orphan_parts(), 0);
    }
    assert!(told.windows(2).all(|pair| pair[1] - pair[0] <= COPY_STEP_BYTES as u64), "{told:?}");
    assert_eq!(told.last(), Some(&contents.bytes));
    assert_same(&read(&store, "a").unwrap(), &expected, "a");
}

#[test]
fn a_large_source_that_is_not_as_expected_leaves_nothing() {
    let (env, server, dir) = (env(), Server::start(), tempfile::tempdir().unwrap());
    let store = server.store_with(&env, "p", small_parts(server.options()));
    let mut other = bytes(MIN_PART_BYTES + 1, 1);
    let contents = Contents::of(&other);
    *other.last_mut().unwrap() ^= 1;
    let source = local(&env, &dir, &other);
    let longer = Contents { bytes: contents.bytes + 1, ..contents };
    for contents in [contents, longer] {
        let error =
            store.create_from_source(&name("a"), &*source, &contents, &mut |_| true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
    assert_eq!(store.len_of(&name("a")).unwrap(), None);
    assert!(server.open_uploads().is_empty());
    assert_eq!(server.orphan_parts(), 0);
}

#[test]
fn two_creators_of_one_name_have_one_winner() {
    let (env, server) = (env(), Server::start());
    for round in 0..8 {
        let object = name(&format!("a/{round}"));
        let size = if round < 6 { 5000 } else { MIN_PART_BYTES + 1 };
        let contents: Vec<_> = (0..3).map(|i| bytes(size, 100 + i)).collect();
        let results = race(&contents, |bytes| {
            let store = server.store_with(&env, "p", small_parts(server.options()));
            store.create(&object, bytes)
        });
        let winners: Vec<_> = (0..3).filter(|i| results[*i].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        let found = read(&server.store(&env, "p"), object.as_str()).unwrap();
        assert_same(&found, &contents[winners[0]], "the winner's");
        for error in results.into_iter().filter_map(Result::err) {
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        }
    }
    assert!(server.open_uploads().is_empty());
}

#[allow(clippy::disallowed_methods, reason = "creators on threads of their own")]
fn race<T: Send>(contents: &[Vec<u8>], create: impl Fn(&[u8]) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let create = &create;
        let threads: Vec<_> =
            contents.iter().map(|bytes| scope.spawn(move || create(bytes))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn services_without_metadata_take_large_objects_too() {
    let env = env();
    for says_so in [true, false] {
        let service = Plain { inner: Arc::new(InMemory::new()), says_so };
        let options = small_parts(alluvium::object::RemoteOptions::new());
        let store =
            RemoteStore::over(Arc::clone(&env), Arc::new(service), "", "test:", options).unwrap();
        let expected = bytes(2 * MIN_PART_BYTES + 1, 1);
        store.create(&name("a"), &expected).unwrap();
        assert_same(&read(&store, "a").unwrap(), &expected, "a");
        let error = store.create(&name("a"), &expected).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}
