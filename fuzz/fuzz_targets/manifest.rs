//! Any bytes as a manifest or a snapshot handle: what decodes is encoded again
//! without complaint, and decodes to the same.

#![no_main]

use alluvium::format::{Manifest, SnapshotHandle};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::decode(bytes) {
        let again = manifest.encode().expect("a decoded manifest keeps its promises");
        assert_eq!(again[..again.len() - 16], bytes[..bytes.len() - 16], "one encoding");
        assert_eq!(Manifest::decode(&again).expect("what was written is read"), manifest);
        for state in &manifest.operator_states {
            let items = state.parts.iter().flat_map(|part| part.items.iter());
            assert_eq!(items.count() as u64, state.items(), "items can be told apart");
        }
    }
    if let Ok(handle) = SnapshotHandle::decode(bytes) {
        let again = handle.encode();
        assert_eq!(SnapshotHandle::decode(&again).expect("what was written is read"), handle);
    }
});
