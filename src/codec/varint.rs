//! Unsigned integers in as few bytes as they need (LEB128).
//!
//! ```text
//! byte:  | more u1 | seven bits of the number u7 |     lowest bits first
//! ```
//!
//! Only the shortest form of a number is accepted, so that equal numbers have
//! equal bytes and a file that decodes can be encoded again to the same bytes.

/// Most bytes of an encoded `u32`.
pub const MAX_U32_BYTES: usize = 5;
/// Most bytes of an encoded `u64`.
pub const MAX_U64_BYTES: usize = 10;

/// Appends `value` to `out`.
#[inline]
pub fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends `value` to `out`.
#[inline]
pub fn put_u32(out: &mut Vec<u8>, value: u32) {
    put_u64(out, u64::from(value));
}

/// Number of bytes that `value` takes.
pub const fn len_u64(value: u64) -> usize {
    match value {
        0 => 1,
        _ => (value.ilog2() / 7 + 1) as usize,
    }
}

/// Why bytes are not a varint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VarintError {
    /// The bytes end within the number.
    CutShort,
    /// The number does not fit its type.
    TooLarge,
    /// The same number has a shorter form.
    NotShortest,
}

impl std::fmt::Display for VarintError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::CutShort => "a number that ends within the bytes",
            Self::TooLarge => "a number too large for its field",
            Self::NotShortest => "a number that is not in its shortest form",
        })
    }
}

/// The number at the start of `bytes`, and how many bytes it took.
///
/// # Errors
/// If the bytes do not start with the shortest form of a `u64`.
#[inline]
pub fn get_u64(bytes: &[u8]) -> Result<(u64, usize), VarintError> {
    let mut value = 0u64;
    for (index, &byte) in bytes.iter().take(MAX_U64_BYTES).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if index == MAX_U64_BYTES - 1 && byte > 1 {
            return Err(VarintError::TooLarge);
        }
        value |= bits << (7 * index);
        if byte & 0x80 == 0 {
            if byte == 0 && index > 0 {
                return Err(VarintError::NotShortest);
            }
            return Ok((value, index + 1));
        }
    }
    Err(VarintError::CutShort)
}

/// The number at the start of `bytes`, and how many bytes it took.
///
/// # Errors
/// If the bytes do not start with the shortest form of a `u32`.
#[inline]
pub fn get_u32(bytes: &[u8]) -> Result<(u32, usize), VarintError> {
    let (value, len) = get_u64(bytes)?;
    match u32::try_from(value) {
        Ok(value) => Ok((value, len)),
        Err(_) => Err(VarintError::TooLarge),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_of_number_comes_back() {
        for shift in 0..64 {
            for near in [-1i64, 0, 1] {
                let value = (1u64 << shift).wrapping_add(near as u64);
                let mut out = Vec::new();
                put_u64(&mut out, value);
                assert_eq!(out.len(), len_u64(value), "{value}");
                assert_eq!(get_u64(&out), Ok((value, out.len())));
                out.push(0xff);
                assert_eq!(get_u64(&out), Ok((value, out.len() - 1)));
            }
        }
    }

    #[test]
    fn only_the_shortest_form_is_accepted() {
        assert_eq!(get_u64(&[0x80, 0x00]), Err(VarintError::NotShortest));
        assert_eq!(get_u64(&[0xff, 0x80, 0x00]), Err(VarintError::NotShortest));
        assert_eq!(get_u64(&[0x00]), Ok((0, 1)));
    }

    #[test]
    fn numbers_that_end_early_or_do_not_fit_are_refused() {
        assert_eq!(get_u64(&[]), Err(VarintError::CutShort));
        assert_eq!(get_u64(&[0x80; 9]), Err(VarintError::CutShort));
        assert_eq!(get_u64(&[0xff; 10]), Err(VarintError::TooLarge));
        let mut max = Vec::new();
        put_u64(&mut max, u64::MAX);
        assert_eq!(get_u64(&max), Ok((u64::MAX, MAX_U64_BYTES)));
        *max.last_mut().unwrap() = 2;
        assert_eq!(get_u64(&max), Err(VarintError::TooLarge));
        let mut over = Vec::new();
        put_u64(&mut over, u64::from(u32::MAX) + 1);
        assert_eq!(get_u32(&over), Err(VarintError::TooLarge));
    }
}
