//! From a seed to a scenario, and its course.

use std::sync::{Arc, Mutex};

use alluvium::env::SimEnv;
use alluvium::env::sim::SimRng;
use alluvium::format::Compression;
use alluvium::table::TableOptions;

use crate::common::Keyspace;
use crate::job::Job;
use crate::runtime::Control;

/// The choices that hold for all of one seed.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub steps: u64,
    /// Values of megabytes occur.
    pub large_values: bool,
    pub table_options: TableOptions,
    pub fail_one_in: u64,
    pub interrupt_one_in: u64,
    /// The runtime throws away what no checkpoint needs.
    pub discards: bool,
    /// Completed checkpoints that it keeps.
    pub kept: usize,
    /// How often each kind of step is drawn.
    pub weights: Weights,
}

#[derive(Clone, Copy, Debug)]
pub struct Weights {
    pub write: u64,
    pub background: u64,
    pub barrier: u64,
    pub cancel: u64,
    pub poll: u64,
    pub notify: u64,
    pub discard: u64,
    pub check: u64,
    pub restart: u64,
}

impl Weights {
    fn all(self) -> [u64; 9] {
        [
            self.write,
            self.background,
            self.barrier,
            self.cancel,
            self.poll,
            self.notify,
            self.discard,
            self.check,
            self.restart,
        ]
    }
}

fn draw(rng: &mut SimRng, weights: Weights) -> usize {
    let all = weights.all();
    let mut left = rng.below(all.iter().sum());
    for (kind, weight) in all.into_iter().enumerate() {
        if left < weight {
            return kind;
        }
        left -= weight;
    }
    unreachable!("what was drawn is below the sum")
}

/// One of a few numbers.
pub fn pick<T: Copy>(rng: &mut SimRng, choices: &[T]) -> T {
    choices[rng.below(choices.len() as u64) as usize]
}

fn choose(rng: &mut SimRng) -> Scenario {
    Scenario {
        steps: 50 + rng.below(170),
        large_values: rng.one_in(60),
        table_options: TableOptions {
            block_bytes: pick(rng, &[512, 1024, 16 * 1024]),
            compression: pick(rng, &[Compression::None, Compression::Lz4]),
            filter_bits_per_key: pick(rng, &[0, 1, 8]),
            fit_pages: rng.one_in(3),
        },
        fail_one_in: pick(rng, &[0, 0, 5, 20]),
        interrupt_one_in: pick(rng, &[0, 2, 6]),
        discards: !rng.one_in(4),
        kept: pick(rng, &[1, 1, 2, 5]),
        weights: Weights {
            write: pick(rng, &[20, 60, 120]),
            background: pick(rng, &[10, 40, 80]),
            barrier: pick(rng, &[5, 20, 40]),
            cancel: pick(rng, &[0, 0, 4]),
            poll: pick(rng, &[5, 20]),
            notify: pick(rng, &[2, 10, 20]),
            discard: 5,
            check: 1,
            restart: pick(rng, &[0, 2, 5]),
        },
    }
}

/// Bytes of few different kinds, so that one key is often the beginning of
/// another, or of another with its namespace.
fn awkward_bytes(rng: &mut SimRng, most: u64) -> Vec<u8> {
    (0..rng.below(most + 1)).map(|_| pick(rng, b"\0a\xff")).collect()
}

fn keyspace(rng: &mut SimRng) -> Keyspace {
    let max = pick(rng, &[1, 2, 7, 128, 128, 32_768]);
    let states = 1 + rng.below(4) as usize;
    let names = ["", "a", "a0", "\u{1f426} state"];
    let mut space = Keyspace::new(max, names[..states].iter().map(|name| format!("{name}s")));
    for state in 0..states {
        let given = rng.one_in(3);
        let namespaces = rng.one_in(2);
        let awkward = rng.one_in(2);
        for _ in 0..pick(rng, &[1, 5, 20, 60, 120]) {
            let mut key = if awkward {
                awkward_bytes(rng, 3)
            } else {
                rng.below(1 << 40).to_be_bytes()[3..].to_vec()
            };
            if rng.one_in(100) {
                let most = pick(rng, &[300, 300, 300, 64 * 1024]);
                key.resize(most, b'k');
                rng.fill(&mut key[..8]);
            }
            let namespace = if namespaces { awkward_bytes(rng, 2) } else { Vec::new() };
            space.add(state, &key, &namespace, given);
        }
    }
    space
}

/// Runs the scenario of a seed, and gives a number that depends on all that
/// happened.
pub fn run(seed: u64) -> u64 {
    let mut rng = SimRng::new(seed);
    let scenario = choose(&mut rng);
    let space = Arc::new(keyspace(&mut rng));
    let env = SimEnv::new(rng.next_u64());
    let env = if rng.one_in(2) { env.with_mapped_reads() } else { env };
    let control = Arc::new(Control {
        rng: Mutex::new(SimRng::new(rng.next_u64())),
        fail_one_in: Mutex::new(scenario.fail_one_in),
        interrupt_one_in: Mutex::new(scenario.interrupt_one_in),
        job: Mutex::default(),
    });
    let job_rng = SimRng::new(rng.next_u64());
    let job = Job::start(scenario.clone(), space, env, Arc::clone(&control), job_rng);
    let job = Arc::new(Mutex::new(job));
    *control.job.lock().unwrap() = Arc::downgrade(&job);
    for _ in 0..scenario.steps {
        let kind = draw(&mut rng, scenario.weights);
        if kind == 1 {
            // Not under the lock: the sink lets the writer in.
            let backend = {
                let mut job = job.lock().unwrap();
                job.allow_interruptions();
                job.backend()
            };
            backend.run_background();
            continue;
        }
        let mut job = job.lock().unwrap();
        match kind {
            0 => job.write_some(),
            2 => job.barrier(),
            3 => job.cancel(),
            4 => job.poll(),
            5 => job.notify(),
            6 => job.discard(),
            7 => job.check_all(),
            _ => job.restart(),
        }
    }
    *control.fail_one_in.lock().unwrap() = 0;
    *control.interrupt_one_in.lock().unwrap() = 0;
    job.lock().unwrap().finish()
}
