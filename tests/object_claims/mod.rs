//! What every object store owes, as claims about one that is empty.
//!
//! What could break: an object that exists in part, one that replaces another, one that
//! is said not to be there although it is.

use std::path::Path;

use alluvium::base::ErrorKind;
use alluvium::env::Fs;
use alluvium::object::{COPY_STEP_BYTES, Contents, ObjectName, ObjectStore};

pub(crate) fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}

pub(crate) fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i % 251) as u8 ^ (i / 251) as u8).collect()
}

pub(crate) fn content(store: &dyn ObjectStore, object: &ObjectName) -> Vec<u8> {
    let file = store.open(object).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len()).unwrap()];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

pub(crate) fn write(fs: &dyn Fs, path: &Path, bytes: &[u8]) {
    let mut file = fs.create_new(path).unwrap();
    file.write_all(bytes).unwrap();
    file.sync().unwrap();
}

pub(crate) fn what_was_created_is_read_back(store: &dyn ObjectStore, _: &dyn Fs, _: &Path) {
    for (i, n) in [0, 1, 4096, 100_001].into_iter().enumerate() {
        let object = name(&format!("a/b{i}/c"));
        store.create(&object, &pattern(n)).unwrap();
        assert_eq!(content(store, &object), pattern(n));
        assert_eq!(store.len_of(&object).unwrap(), Some(n as u64));
    }
    store.create(&name("top"), b"x").unwrap();
    assert_eq!(content(store, &name("top")), b"x");
}

pub(crate) fn a_file_or_another_object_becomes_an_object(
    store: &dyn ObjectStore,
    fs: &dyn Fs,
    dir: &Path,
) {
    for n in [0, 1, COPY_STEP_BYTES, COPY_STEP_BYTES + 1] {
        let bytes = pattern(n);
        let local = dir.join(format!("local{n}"));
        write(fs, &local, &bytes);
        let (a, b) = (name(&format!("x/a{n}")), name(&format!("y/b{n}")));
        let expected = Contents::of(&bytes);
        store.create_from_file(&a, &local, &expected, &mut |_| true).unwrap();
        fs.remove_file(&local).unwrap();
        assert_eq!(content(store, &a), bytes);
        let source = store.open(&a).unwrap();
        store.create_from_source(&b, &*source, &expected, &mut |_| true).unwrap();
        assert_eq!(content(store, &b), bytes);
    }
}

pub(crate) fn no_object_is_ever_replaced(store: &dyn ObjectStore, fs: &dyn Fs, dir: &Path) {
    let object = name("a/b");
    store.create(&object, b"first").unwrap();
    let local = dir.join("local");
    write(fs, &local, b"second");
    let expected = Contents::of(b"second");
    let source = fs.open(&local).unwrap();
    for error in [
        store.create(&object, b"second").unwrap_err(),
        store.create_from_file(&object, &local, &expected, &mut |_| true).unwrap_err(),
        store.create_from_source(&object, &*source, &expected, &mut |_| true).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(!error.may_have_happened());
    }
    assert_eq!(content(store, &object), b"first");
}

pub(crate) fn contents_that_are_not_as_expected_are_refused(
    store: &dyn ObjectStore,
    fs: &dyn Fs,
    dir: &Path,
) {
    let local = dir.join("local");
    write(fs, &local, b"bytes");
    let source = fs.open(&local).unwrap();
    let (other, short) = (Contents::of(b"bytez"), Contents::of(b"byte"));
    let go = &mut |_| true;
    for error in [
        store.create_from_source(&name("a"), &*source, &other, go).unwrap_err(),
        store.create_from_source(&name("a"), &*source, &short, go).unwrap_err(),
        store.create_from_file(&name("a"), &local, &short, go).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
    assert_eq!(store.len_of(&name("a")).unwrap(), None);
}

pub(crate) fn a_copy_can_be_cancelled_at_every_step(
    store: &dyn ObjectStore,
    fs: &dyn Fs,
    dir: &Path,
) {
    let bytes = pattern(2 * COPY_STEP_BYTES + 5);
    let local = dir.join("local");
    write(fs, &local, &bytes);
    let source = fs.open(&local).unwrap();
    let expected = Contents::of(&bytes);
    let mut told = Vec::new();
    for patience in 0.. {
        told.clear();
        let result = store.create_from_source(&name("a"), &*source, &expected, &mut |done| {
            told.push(done);
            told.len() <= patience
        });
        match result {
            Ok(()) => break,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable);
                assert!(error.to_string().contains("cancelled"));
                assert_eq!(store.len_of(&name("a")).unwrap(), None);
            }
        }
    }
    let step = COPY_STEP_BYTES as u64;
    assert_eq!(told, [0, step, 2 * step, 2 * step + 5]);
    let cancelled =
        store.create_from_file(&name("b"), &local, &expected, &mut |_| false).unwrap_err();
    assert!(cancelled.to_string().contains("cancelled"));
    assert_eq!(store.len_of(&name("b")).unwrap(), None);
}

pub(crate) fn listing_finds_what_begins_with_the_prefix(
    store: &dyn ObjectStore,
    _: &dyn Fs,
    _: &Path,
) {
    let all = ["a", "ab", "b/a", "b/ab/c", "b/ab/d", "b/b", "c/d/e/f"];
    for object in all {
        store.create(&name(object), b"").unwrap();
    }
    for prefix in ["", "a", "ab", "abc", "b", "b/", "b/a", "b/ab", "b/ab/", "c/d", "x/y", "b/b/"] {
        let expected: Vec<_> = all.into_iter().filter(|n| n.starts_with(prefix)).collect();
        let found = store.list(prefix).unwrap();
        let found: Vec<_> = found.iter().map(ObjectName::as_str).collect();
        assert_eq!(found, expected, "prefix {prefix:?}");
    }
    for prefix in ["..", "../", "/", "/etc/", "a/../", "a//", ".tmp", ".tmp/", "b/.tmp"] {
        assert_eq!(store.list(prefix).unwrap_err().kind(), ErrorKind::Invalid, "{prefix:?}");
    }
}

pub(crate) fn a_missing_object_is_positively_missing(
    store: &dyn ObjectStore,
    _: &dyn Fs,
    _: &Path,
) {
    store.create(&name("a/b"), b"x").unwrap();
    for missing in ["b", "a/c", "a", "a/b/c", "x/y/z"] {
        let error = store.open(&name(missing)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{missing}: {error}");
        assert!(!error.is_retryable());
        assert_eq!(store.len_of(&name(missing)).unwrap(), None);
        store.remove(&name(missing)).unwrap();
    }
    assert_eq!(content(store, &name("a/b")), b"x");
}

pub(crate) fn a_removed_object_is_gone_but_stays_readable_where_it_is_open(
    store: &dyn ObjectStore,
    _: &dyn Fs,
    _: &Path,
) {
    store.create(&name("a/b"), b"bytes").unwrap();
    let open = store.open(&name("a/b")).unwrap();
    store.remove(&name("a/b")).unwrap();
    assert_eq!(store.len_of(&name("a/b")).unwrap(), None);
    assert!(store.list("").unwrap().is_empty());
    let mut buf = [0; 5];
    open.read_at(0, &mut buf).unwrap();
    assert_eq!(&buf, b"bytes");
    store.remove(&name("a/b")).unwrap();
}
