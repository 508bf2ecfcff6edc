//! What a namespace and a time to live cost a value: the same read-modify-write of
//! the same values, with and without them.

use std::time::Duration;

use ::alluvium::Ttl;

use super::kinds::{CHUNK, Clock, Contestant, Contestants, compare, section};
use super::rmw::spell;
use super::{EngineDir, with_sizes};
use crate::Result;
use crate::engines::kinds::alluvium::Scoped;
use crate::options::Cli;
use crate::report::{Report, Section, keys_name};
use crate::workload::{Ops, value};

/// Namespaces that the keys are in.
const NAMESPACES: u32 = 16;

struct Runner<'a, const K: usize, const V: usize> {
    engine: Scoped,
    in_namespaces: bool,
    ops: &'a Ops,
    position: u64,
    keys: Vec<[u8; K]>,
    namespaces: Vec<[u8; 8]>,
    _dir: EngineDir,
}

fn namespace(index: u32) -> [u8; 8] {
    u64::from(index % NAMESPACES).to_be_bytes()
}

impl<const K: usize, const V: usize> Runner<'_, K, V> {
    fn spell(&mut self, chunk: &[u32]) {
        spell(chunk, &mut self.keys);
        self.namespaces.clear();
        self.namespaces.extend(chunk.iter().map(|&index| namespace(index)));
    }
}

impl<const K: usize, const V: usize> Contestant for Runner<'_, K, V> {
    fn work(&mut self, _: usize, clock: &mut Clock) -> Result<()> {
        let ops = self.ops;
        let chunk = ops.slice(self.position, CHUNK);
        self.spell(chunk);
        self.position += chunk.len() as u64;
        clock.time(chunk.len() as u64, || {
            if self.in_namespaces {
                let mut all = self.keys.iter().zip(&self.namespaces);
                all.try_for_each(|(key, namespace)| self.engine.rmw(key, namespace))
            } else {
                self.keys.iter().try_for_each(|key| self.engine.rmw(key, &[]))
            }
        })
    }

    fn settle(&mut self) -> Result<()> {
        Ok(())
    }

    fn check(&mut self, name: &str) -> Result<()> {
        let mut sample = self.ops.slice(0, 128).to_vec();
        sample.sort_unstable();
        sample.dedup();
        for (&index, expected) in sample.iter().zip(self.ops.occurrences(&sample, self.position)) {
            self.spell(&[index]);
            let namespace = if self.in_namespaces { &self.namespaces[0][..] } else { &[] };
            let found = self.engine.counter(&self.keys[0], namespace)?;
            if found != Some(expected) {
                return Err(format!(
                    "{name} counted key {index} wrongly: expected {expected}, found {found:?}"
                )
                .into());
            }
        }
        Ok(())
    }
}

/// Runs the measure at every size.
pub(super) fn run(cli: &Cli, report: &mut Report) -> Result<()> {
    for keys in cli.keys_or(&[1_000_000], &[20_000]) {
        for value_bytes in cli.value_bytes_or(&[8], &[8]) {
            report.add(with_sizes!(cli.key_bytes, value_bytes, at_size, cli, keys)?);
        }
    }
    Ok(())
}

fn at_size<const K: usize, const V: usize>(cli: &Cli, keys: u64) -> Result<Section> {
    let settings = cli.settings();
    let title = format!("{} keys of {K} B, values of {V} B", keys_name(keys));
    let mut section = section("scopes", title, cli)
        .parameter("keys", keys)
        .parameter("key_bytes", K)
        .parameter("value_bytes", V);
    for distribution in cli.distributions() {
        let ops = Ops::draw(distribution, keys, cli.ring_length(), cli.seed);
        let mut all: Contestants<'_> = Vec::new();
        // Nothing expires meanwhile.
        let day = Ttl::after(Duration::from_secs(86_400));
        for (name, in_namespaces, ttl) in [
            ("alluvium", false, None),
            ("with a namespace", true, None),
            ("with a namespace and a time to live", true, Some(day)),
        ] {
            let dir = EngineDir::new(cli)?;
            let mut runner = Runner::<K, V> {
                engine: Scoped::create(&settings, dir.path(), ttl)?,
                in_namespaces,
                ops: &ops,
                position: 0,
                keys: Vec::with_capacity(CHUNK),
                namespaces: Vec::with_capacity(CHUNK),
                _dir: dir,
            };
            for index in 0..keys {
                runner.spell(&[index as u32]);
                let namespace = if in_namespaces { &runner.namespaces[0][..] } else { &[] };
                runner.engine.insert(&runner.keys[0], namespace, &value::<V>(index))?;
            }
            all.push((name, Box::new(runner)));
        }
        compare(cli, &mut section, "scopes", &mut all, &[(0, distribution.name())])?;
        for (name, contestant) in &mut all {
            contestant.check(name)?;
        }
    }
    section.note("A ratio of 1.2 says that what a row adds costs 20 % more time.");
    Ok(section)
}
