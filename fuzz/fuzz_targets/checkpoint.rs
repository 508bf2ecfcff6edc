//! Any bytes as metadata of a checkpoint, an acknowledgement, a journal entry or a pin:
//! what decodes is encoded again without complaint, and decodes to the same.

#![no_main]

use alluvium::format::{Checkpoint, JournalEntry, Pin, ShardAck};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(checkpoint) = Checkpoint::decode(bytes) {
        let again = checkpoint.encode().expect("a decoded checkpoint keeps its promises");
        assert_eq!(Checkpoint::decode(&again).expect("what was written is read"), checkpoint);
        let handles = checkpoint.operators().map(|operator| checkpoint.handles(operator).len());
        assert_eq!(handles.sum::<usize>(), checkpoint.shards.len(), "every shard has an operator");
        let _ = checkpoint.costs();
    }
    if let Ok(ack) = ShardAck::decode(bytes) {
        let again = ack.encode().expect("a decoded acknowledgement keeps its promises");
        assert_eq!(ShardAck::decode(&again).expect("what was written is read"), ack);
    }
    if let Ok(entry) = JournalEntry::decode(bytes) {
        let again = entry.encode().expect("a decoded entry keeps its promises");
        assert_eq!(JournalEntry::decode(&again).expect("what was written is read"), entry);
        if let Some(resume) = &entry.resume {
            assert!(entry.kept().any(|kept| kept == resume), "a job goes on from what is kept");
        }
    }
    if let Ok(pin) = Pin::decode(bytes) {
        let again = pin.encode().expect("a decoded pin keeps its promises");
        assert_eq!(Pin::decode(&again).expect("what was written is read"), pin);
    }
});
