//! Every request may go wrong in every way, and no answer lies.

use std::time::Duration;

use alluvium::base::ErrorKind;
use alluvium::object::{MIN_PART_BYTES, ObjectStore};
use stores_tests::{Fault, Server};

use crate::claims::name;
use crate::{bytes, env, read, small_parts};

/// What may be under a name, given all that the store has said.
struct Known<'a> {
    name: &'a str,
    possible: Vec<Option<&'a [u8]>>,
}

impl<'a> Known<'a> {
    fn nothing(name: &'a str) -> Self {
        Self { name, possible: vec![None] }
    }

    fn may_be_absent(&self) -> bool {
        self.possible.contains(&None)
    }

    fn create(&mut self, store: &dyn ObjectStore, bytes: &'a [u8], context: &str) {
        match store.create(&name(self.name), bytes) {
            Ok(()) => {
                assert!(self.may_be_absent(), "replaced something: {context}");
                self.possible = vec![Some(bytes)];
            }
            Err(error) if error.kind() == ErrorKind::Invalid => {
                self.possible.retain(Option::is_some);
                assert!(!self.possible.is_empty(), "nothing is in the way: {context}: {error}");
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{context}: {error}");
                if error.may_have_happened() && self.may_be_absent() {
                    self.possible.push(Some(bytes));
                }
            }
        }
    }

    fn remove(&mut self, store: &dyn ObjectStore, context: &str) {
        match store.remove(&name(self.name)) {
            Ok(()) => self.possible = vec![None],
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{context}: {error}");
                if error.may_have_happened() {
                    self.possible.push(None);
                }
            }
        }
    }

    /// Says whether everything could be read.
    fn check(&mut self, store: &dyn ObjectStore, context: &str) -> bool {
        let mut all = true;
        match store.len_of(&name(self.name)) {
            Ok(len) => {
                self.possible.retain(|bytes| bytes.map(|bytes| bytes.len() as u64) == len);
                assert!(!self.possible.is_empty(), "{} has {len:?}: {context}", self.name);
            }
            Err(error) => {
                all = false;
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{context}: {error}");
            }
        }
        match read(store, self.name) {
            Ok(found) => {
                self.possible.retain(|bytes| *bytes == Some(&found));
                assert!(!self.possible.is_empty(), "{} is another: {context}", self.name);
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                assert!(self.may_be_absent(), "{} is missing: {context}: {error}", self.name);
                self.possible = vec![None];
            }
            Err(error) => {
                all = false;
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{context}: {error}");
            }
        }
        match store.list("") {
            Ok(listed) => {
                let there = listed.contains(&name(self.name));
                self.possible.retain(|bytes| bytes.is_some() == there);
                assert!(!self.possible.is_empty(), "{} listed {there}: {context}", self.name);
            }
            Err(error) => {
                all = false;
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{context}: {error}");
            }
        }
        all
    }
}

/// Runs `scenario` with every fault at every request, and then without.
fn sweep(faults: &[Fault], size: usize, timeout: Duration, rereads: bool) {
    let (env, server) = (env(), Server::start());
    let (first, second) = (bytes(size, 1), bytes(size, 2));
    let mut lives = 0;
    for &fault in faults {
        for sticky in [false, true] {
            for ordinal in 1.. {
                lives += 1;
                let context = format!("{fault:?} at {ordinal}, sticky {sticky}");
                let prefix = format!("life-{lives}");
                let options = small_parts(server.options()).tail_bytes(1000);
                let options = options.retries(2).request_timeout(timeout);
                let store = server.store_with(&env, &prefix, options);
                let parts_before = server.orphan_parts();
                server.plan(fault, ordinal, sticky);

                let mut known = Known::nothing("a/b");
                known.create(&store, &first, &context);
                known.create(&store, &second, &context);
                if rereads {
                    known.check(&store, &context);
                    known.remove(&store, &context);
                    known.check(&store, &context);
                }

                let suffered = server.heal();
                let healthy = server.store_with(&env, &prefix, small_parts(server.options()));
                assert!(known.check(&healthy, &context), "{context}");
                if known.may_be_absent() {
                    known.create(&healthy, &first, &context);
                    assert_eq!(known.possible, [Some(&first[..])], "{context}");
                }
                if !sticky {
                    assert_eq!(server.orphan_parts(), parts_before, "{context}");
                }
                if suffered == 0 {
                    break;
                }
                assert!(ordinal < 200, "the scenario has an end");
            }
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn no_answer_about_a_small_object_lies_whatever_request_goes_wrong() {
    sweep(&Fault::QUICK, 3000, PATIENCE, true);
}

#[test]
fn no_answer_about_a_large_object_lies_whatever_request_goes_wrong() {
    sweep(&Fault::QUICK, MIN_PART_BYTES + 1, PATIENCE, false);
}

#[test]
fn a_service_that_does_not_answer_is_unavailable_and_no_more() {
    sweep(&[Fault::Hang], 3000, Duration::from_millis(40), true);
}

#[test]
fn a_create_whose_reply_was_lost_succeeds() {
    let (env, server) = (env(), Server::start());
    for fault in [Fault::LoseReply, Fault::Deny(500), Fault::Deny(409), Fault::Deny(503)] {
        let store = server.store(&env, &format!("{:016x}", env.random_u64()));
        server.plan(fault, 1, false);
        store.create(&name("a"), b"bytes").unwrap();
        assert_eq!(server.heal(), 1);
        assert_eq!(read(&store, "a").unwrap(), b"bytes");
    }
}

#[test]
fn a_conflict_is_not_taken_for_an_object_that_exists() {
    let (env, server) = (env(), Server::start());
    for status in [409, 412] {
        let store = server.store(&env, &format!("s{status}"));
        server.plan(Fault::Refuse(status), 1, false);
        store.create(&name("a"), b"bytes").unwrap();
        assert_eq!(server.heal(), 1);
        server.plan(Fault::Refuse(status), 1, true);
        let error = store.create(&name("b"), b"bytes").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        server.heal();
        assert_eq!(store.len_of(&name("b")).unwrap(), None);
    }
}

#[test]
fn a_refusal_for_want_of_rights_says_so_and_nothing_has_happened() {
    let (env, server) = (env(), Server::start());
    let store = server.store(&env, "p");
    server.plan(Fault::Refuse(403), 1, true);
    let error = store.create(&name("a"), b"bytes").unwrap_err();
    assert!(!error.may_have_happened(), "{error}");
    assert!(error.to_string().contains("credentials"), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
    server.heal();
    assert_eq!(store.len_of(&name("a")).unwrap(), None);
}
