//! Any bytes as a sequence of operations on a list or a map as they lie in
//! memory: what they hold is what vectors and ordered maps hold, and what each
//! epoch changed is what tables need to say the same. The model lives beside the
//! layouts (`src/memtable/collection/model`), which are not public.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // More of the same finds nothing more.
    alluvium::fuzzing::layouts(&bytes[..bytes.len().min(2048)]);
});
