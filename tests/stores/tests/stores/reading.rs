//! Reading over a network: the right bytes, by few requests.

use std::io::ErrorKind as IoKind;
use std::ops::Range;
use std::sync::Arc;

use alluvium::env::{Env, ReadAt};
use alluvium::object::{ObjectStore, RemoteOptions};
use object_store::{ObjectStoreExt, PutPayload};
use stores_tests::{Fault, Server};

use crate::claims::name;
use crate::{assert_same, bytes, env};

fn opened(
    env: &Arc<dyn Env>,
    server: &Server,
    bytes: &[u8],
    choose: impl Fn(RemoteOptions) -> RemoteOptions,
) -> Arc<dyn ReadAt> {
    let prefix = format!("{:016x}", env.random_u64());
    let store = server.store_with(env, &prefix, choose(server.options()));
    store.create(&name("a"), bytes).unwrap();
    server.take_requests();
    store.open(&name("a")).unwrap()
}

fn part(object: &dyn ReadAt, range: Range<usize>) -> Vec<u8> {
    let mut found = vec![0; range.len()];
    object.read_at(range.start as u64, &mut found).unwrap();
    found
}

#[test]
fn every_way_to_read_gives_the_same_bytes() {
    let (env, server) = (env(), Server::start());
    let expected = bytes(700_001, 3);
    let seed = env.random_u64();
    println!("seed {seed}");
    let mut random = seed | 1;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) as usize % below
    };
    for tail_bytes in [0, 1, 100_000, 1 << 20] {
        let object = opened(&env, &server, &expected, |options| {
            options.tail_bytes(tail_bytes).read_ahead_bytes(200_000)
        });
        let mut in_order = 0;
        for step in 0..300 {
            let start = next(expected.len());
            let range = start..(start + next(30_000)).min(expected.len());
            match next(4) {
                0 => object.will_need(range.start as u64, range.len() as u64),
                1 => {
                    let context = format!("seed {seed}, step {step}, {range:?}");
                    assert_same(&part(&*object, range.clone()), &expected[range], &context);
                }
                _ => {
                    let end = (in_order + 1 + next(40_000)).min(expected.len());
                    let mut found = vec![0; end - in_order];
                    object.read_through(in_order as u64, &mut found).unwrap();
                    let context = format!("seed {seed}, step {step}, {in_order}..{end}");
                    assert_same(&found, &expected[in_order..end], &context);
                    in_order = if end == expected.len() { 0 } else { end };
                }
            }
            if step == 150 {
                object.read_singly(0, expected.len() as u64);
            }
        }
        let error = object.read_at(expected.len() as u64, &mut [0]).unwrap_err();
        assert_eq!(error.kind(), IoKind::UnexpectedEof);
        assert!(object.read_at(u64::MAX, &mut [0; 2]).is_err());
    }
}

#[test]
fn a_small_object_is_opened_and_read_by_one_request() {
    let (env, server) = (env(), Server::start());
    let expected = bytes(200_000, 1);
    let object = opened(&env, &server, &expected, |options| options);
    object.read_singly(0, expected.len() as u64);
    assert_eq!(part(&*object, 0..expected.len()), expected);
    assert_eq!(server.take_requests().len(), 1);
}

#[test]
fn what_was_asked_for_is_not_fetched_twice() {
    let (env, server) = (env(), Server::start());
    let expected = bytes(1_000_000, 1);
    let object = opened(&env, &server, &expected, |options| options);
    for at in (0..600_000).step_by(60_000) {
        object.will_need(at, 5000);
        object.will_need(at, 5000);
    }
    for at in (0..600_000).step_by(60_000) {
        assert_eq!(part(&*object, at..at + 5000), expected[at..at + 5000]);
    }
    assert_eq!(server.take_requests().len(), 1 + 10);
}

#[test]
fn who_reads_in_order_needs_few_requests() {
    let (env, server) = (env(), Server::start());
    let expected = bytes(8 << 20, 1);
    let object = opened(&env, &server, &expected, |options| options);
    let mut found = vec![0; expected.len()];
    for (i, piece) in found.chunks_mut(64 << 10).enumerate() {
        object.read_through((i << 16) as u64, piece).unwrap();
    }
    assert_same(&found, &expected, "in order");
    let requests = server.take_requests().len();
    assert!(requests <= 12, "{requests} requests for 8 MiB");
}

#[test]
fn an_object_that_was_replaced_or_removed_cannot_be_read_on() {
    let (env, server) = (env(), Server::start());
    let expected = bytes(1_000_000, 1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = server.plain_client();
    let store = server.store(&env, "p");
    store.create(&name("a"), &expected).unwrap();
    let object = store.open(&name("a")).unwrap();
    let path = object_store::path::Path::from("p/a");
    let other = PutPayload::from(bytes(1_000_000, 2));
    runtime.block_on(client.put(&path, other)).unwrap();
    object.read_at(0, &mut [0; 100]).unwrap_err();
    object.read_through(0, &mut [0; 100]).unwrap_err();
    store.remove(&name("a")).unwrap();
    let error = object.read_at(0, &mut [0; 100]).unwrap_err();
    assert_eq!(error.kind(), IoKind::NotFound);
}

#[test]
fn a_body_that_ends_early_is_read_on_or_an_error() {
    let (env, server) = (env(), Server::start());
    let expected = bytes(1_000_000, 1);
    let object = opened(&env, &server, &expected, |options| options);
    server.plan(Fault::Cut, 1, false);
    assert_eq!(part(&*object, 0..100_000), expected[..100_000]);
    server.plan(Fault::Cut, 1, true);
    let error = object.read_at(0, &mut [0; 100_000]).unwrap_err();
    // As of a table, "ends early" would mean that it is damaged.
    assert_ne!(error.kind(), IoKind::UnexpectedEof);
    object.will_need(0, 5000);
    object.read_at(0, &mut [0; 5000]).unwrap_err();
    server.heal();
    assert_eq!(part(&*object, 0..100_000), expected[..100_000]);
}
