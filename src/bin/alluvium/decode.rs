//! Stored bytes for people and scripts, by their stored schemas.

use std::collections::BTreeMap;

use alluvium::Result;
use alluvium::codec::Schema;
use alluvium::codec::dynamic::{DynamicCodec, hex};
use alluvium::format::StateMeta;
use serde_json::Value;

use crate::out::{self, compact};

/// Most characters of a value that people are shown, unless they want it in full.
const SHOWN_CHARS: usize = 120;

/// Reads the bytes of one state.
#[derive(Debug)]
pub(crate) struct Decoder {
    pub(crate) key: DynamicCodec,
    pub(crate) namespace: DynamicCodec,
    pub(crate) map_key: Option<DynamicCodec>,
    values: BTreeMap<u64, DynamicCodec>,
    /// What did not fit its schema.
    pub(crate) misfits: u64,
    full: bool,
}

impl Decoder {
    /// For a keyed state. Says which of its codecs are not known here.
    pub(crate) fn of(state: &StateMeta, full: bool) -> Self {
        let map_key = state.map_key_schema.as_ref();
        let schemas = [&state.key_schema, &state.namespace_schema].into_iter().chain(map_key);
        let is_timers = state.kind == alluvium::StateKind::Timers;
        let values = state.value_schemas().filter(|_| !is_timers);
        note_unknown(&state.name, schemas.chain(values));
        Self {
            key: DynamicCodec::of(&state.key_schema),
            namespace: DynamicCodec::of(&state.namespace_schema),
            map_key: map_key.map(DynamicCodec::of),
            values: state
                .value_schemas()
                .map(|schema| (schema.fingerprint(), DynamicCodec::of(schema)))
                .collect(),
            misfits: 0,
            full,
        }
    }

    /// What bytes stand for; as hexadecimal digits if they do not fit.
    pub(crate) fn read(&mut self, which: Which<'_>, bytes: &[u8]) -> Value {
        let codec = match which {
            Which::Key => Some(&self.key),
            Which::Namespace => Some(&self.namespace),
            Which::MapKey => self.map_key.as_ref(),
            Which::Value(schema) => self.values.get(&schema.fingerprint()),
        };
        let decoded: Option<Result<Value>> = codec.map(|codec| codec.decode(bytes));
        match decoded {
            Some(Ok(value)) => value,
            Some(Err(error)) => {
                if self.misfits == 0 {
                    out::note(error.to_string());
                }
                self.misfits += 1;
                hex(bytes).into()
            }
            None => hex(bytes).into(),
        }
    }

    /// A value for people.
    pub(crate) fn text(&self, value: &Value) -> String {
        let text = compact(value);
        if self.full { text } else { out::cut(&text, SHOWN_CHARS).into_owned() }
    }
}

/// Which bytes of a record.
#[derive(Clone, Copy)]
pub(crate) enum Which<'a> {
    Key,
    Namespace,
    MapKey,
    Value(&'a Schema),
}

/// Says which codecs are not known here.
pub(crate) fn note_unknown<'a>(state: &str, schemas: impl Iterator<Item = &'a Schema>) {
    let unknown = schemas.filter(|schema| !DynamicCodec::of(schema).is_known());
    let mut names: Vec<_> = unknown.map(|schema| schema.id().to_string()).collect();
    names.sort_unstable();
    names.dedup();
    if !names.is_empty() {
        let names = names.join(", ");
        out::note(format!(
            "state {state:?}: what was written by {names} is shown in hexadecimal, since only the job's code can read it"
        ));
    }
}
