//! The work every engine is given: keys, values, and the order of operations.
//!
//! An operation is a key's number, drawn before the clock starts and kept in
//! an array, so that drawing it (dear for Zipf) is not what is measured. Turning
//! the number into key bytes takes two multiplications per eight bytes; the
//! `bare loop` rows show what that and the loop cost without a store.

use clap::ValueEnum;

/// Which keys the operations touch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Distribution {
    /// Every key equally often.
    Uniform,
    /// Zipf with exponent 0.99, popular keys scattered over the whole range.
    Zipf,
}

impl Distribution {
    /// Both, in the order of the tables.
    pub(crate) const ALL: [Self; 2] = [Self::Uniform, Self::Zipf];

    /// As the tables call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "Zipf 0.99",
        }
    }
}

/// A bijection of 64-bit numbers that looks random.
#[inline]
pub(crate) fn mix(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The key with number `index`: different for every index, in no useful order.
#[inline]
pub(crate) fn key<const K: usize>(index: u64) -> [u8; K] {
    let mut bytes = [0; K];
    for (part, chunk) in bytes.chunks_mut(8).enumerate() {
        let word = mix(index ^ ((part as u64) << 40)).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
    bytes
}

/// The first value of key `index`: a counter at zero, then bytes of which half
/// are random and half are equal, so that they compress about two to one.
pub(crate) fn value<const V: usize>(index: u64) -> [u8; V] {
    let mut bytes = [0; V];
    let random_bytes = V.saturating_sub(8) / 2;
    for (part, chunk) in bytes.iter_mut().skip(8).take(random_bytes).enumerate() {
        *chunk = mix(index.wrapping_mul(31).wrapping_add(part as u64 + 1)) as u8;
    }
    bytes
}

/// Adds one to the counter in the first eight bytes of a value.
#[inline]
pub(crate) fn bump(value: &mut [u8], by: u64) {
    if let Some(counter) = value.first_chunk_mut::<8>() {
        *counter = u64::from_le_bytes(*counter).wrapping_add(by).to_le_bytes();
    }
}

/// The counter in the first eight bytes of a value.
#[inline]
pub(crate) fn counter_of(value: &[u8]) -> Option<u64> {
    value.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes))
}

/// A small generator with a seed, so that a run can be repeated.
pub(crate) struct Random(u64);

impl Random {
    /// Starts the sequence that belongs to `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Uniform in `0..bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// Uniform in `0.0..1.0`.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Ranks with Zipf's distribution, by the method of Gray et al., "Quickly
/// generating billion-record synthetic databases" (SIGMOD 1994), which YCSB
/// uses as well.
pub(crate) struct Zipf {
    ranks: u64,
    theta: f64,
    zeta: f64,
    alpha: f64,
    eta: f64,
}

impl Zipf {
    /// Over `ranks` ranks, with exponent `theta` below 1.
    pub(crate) fn new(ranks: u64, theta: f64) -> Self {
        let zeta: f64 = (1..=ranks).map(|rank| (rank as f64).powf(-theta)).sum();
        let zeta_of_two = 1.0 + 0.5f64.powf(theta);
        Self {
            ranks,
            theta,
            zeta,
            alpha: 1.0 / (1.0 - theta),
            eta: (1.0 - (2.0 / ranks as f64).powf(1.0 - theta)) / (1.0 - zeta_of_two / zeta),
        }
    }

    /// A rank in `0..ranks`; 0 is the most popular.
    pub(crate) fn draw(&self, random: &mut Random) -> u64 {
        let unit = random.unit();
        let scaled = unit * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5f64.powf(self.theta) {
            return 1.min(self.ranks - 1);
        }
        let rank = self.ranks as f64 * (self.eta * unit - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.ranks - 1)
    }
}

/// Scatters `0..bound` over itself: a bijection on the next power of two,
/// applied until the result falls below the bound.
pub(crate) fn scatter(index: u64, bound: u64) -> u64 {
    let bits = u64::BITS - (bound.max(2) - 1).leading_zeros();
    let mask = u64::MAX >> (u64::BITS - bits);
    let mut x = index;
    loop {
        x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15 | 1).wrapping_add(0x1234_5678_9abc_def1) & mask;
        x ^= x >> (bits / 2).max(1);
        x = x.wrapping_mul(0xd6e8_feb8_6659_fd93) & mask;
        x ^= x >> (bits / 2).max(1);
        if x < bound {
            return x;
        }
    }
}

/// A ring of operations, each the number of the key it touches.
pub(crate) struct Ops {
    ring: Vec<u32>,
}

impl Ops {
    /// Draws `length` operations over `keys` keys.
    pub(crate) fn draw(distribution: Distribution, keys: u64, length: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let ring = match distribution {
            Distribution::Uniform => (0..length).map(|_| random.below(keys) as u32).collect(),
            Distribution::Zipf => {
                let zipf = Zipf::new(keys, 0.99);
                (0..length).map(|_| scatter(zipf.draw(&mut random), keys) as u32).collect()
            }
        };
        Self { ring }
    }

    /// At most `count` operations from `position` on, fewer where the ring
    /// closes.
    #[inline]
    pub(crate) fn slice(&self, position: u64, count: usize) -> &[u32] {
        let start = (position % self.ring.len() as u64) as usize;
        &self.ring[start..(start + count).min(self.ring.len())]
    }

    /// How often operations `0..position` touched each of the keys `sample`,
    /// which must be ascending.
    pub(crate) fn occurrences(&self, sample: &[u32], position: u64) -> Vec<u64> {
        let length = self.ring.len() as u64;
        let (turns, rest) = (position / length, (position % length) as usize);
        let mut counts = vec![0; sample.len()];
        for (at, index) in self.ring.iter().enumerate() {
            if let Ok(slot) = sample.binary_search(index) {
                counts[slot] += turns + u64::from(at < rest);
            }
        }
        counts
    }

    /// How many different keys operations `from..to` touched.
    pub(crate) fn distinct(&self, from: u64, to: u64, keys: u64) -> u64 {
        let length = self.ring.len() as u64;
        let mut touched = vec![false; keys as usize];
        for position in from..to.min(from + length) {
            touched[self.ring[(position % length) as usize] as usize] = true;
        }
        touched.iter().filter(|touched| **touched).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scatter_is_a_bijection() {
        for bound in [1, 2, 3, 1000, 1024, 1025, 50_000] {
            let mut seen: Vec<u64> = (0..bound).map(|index| scatter(index, bound)).collect();
            seen.sort_unstable();
            assert!(seen.iter().copied().eq(0..bound), "bound {bound}");
        }
    }

    #[test]
    fn keys_differ() {
        let mut keys: Vec<[u8; 16]> = (0..10_000).map(key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 10_000);
    }

    #[test]
    fn zipf_prefers_few_keys_and_uniform_none() {
        let top_share = |distribution| {
            let ops = Ops::draw(distribution, 10_000, 100_000, 7);
            let mut counts = vec![0u32; 10_000];
            for index in &ops.ring {
                counts[*index as usize] += 1;
            }
            counts.sort_unstable_by(|a, b| b.cmp(a));
            counts.iter().take(100).sum::<u32>()
        };
        // Zipf 0.99 over 10,000 keys gives the first hundred 53 % of the draws.
        assert!((48_000..58_000).contains(&top_share(Distribution::Zipf)));
        assert!(top_share(Distribution::Uniform) < 3_000);
    }

    #[test]
    fn occurrences_and_distinct_agree_with_a_plain_count() {
        let ops = Ops::draw(Distribution::Uniform, 50, 128, 3);
        let position = 300;
        let mut plain = vec![0u64; 50];
        for at in 0..position {
            plain[ops.slice(at, 1)[0] as usize] += 1;
        }
        let sample: Vec<u32> = (0..50).collect();
        assert_eq!(ops.occurrences(&sample, position), plain);
        let touched = plain.iter().filter(|count| **count > 0).count() as u64;
        assert_eq!(ops.distinct(0, position, 50), touched);
    }
}
