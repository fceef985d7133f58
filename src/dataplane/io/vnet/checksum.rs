//! Fast Internet checksum: words in the host's byte order (RFC 1071 section 2), 8 bytes a step.

/// Returns the sum of 16-bit words in the host's byte order; an odd last byte is padded with zero.
/// Sums of pieces of even length may be added. Up to 2^16 pieces of 64 KiB cannot overflow.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    let (longs, rest) = bytes.as_chunks();
    // Two lanes of 32 bits each, which the compiler vectorises.
    let (mut low, mut high) = (0, 0);
    for long in longs {
        let long = u64::from_ne_bytes(*long);
        low += long & 0xffff_ffff;
        high += long >> 32;
    }
    let (words, odd) = rest.as_chunks();
    let words = words
        .iter()
        .map(|word| u64::from(u16::from_ne_bytes(*word)));
    low + high + words.sum::<u64>() + odd.first().map_or(0, |odd| word([*odd, 0]))
}

/// Returns a big-endian word of a packet as [`sum`] counts it.
pub(super) fn word(bytes: [u8; 2]) -> u64 {
    u16::from_ne_bytes(bytes).into()
}

/// Folds a sum to 16 bits with end-around carry, in packet byte order. For bytes with their own
/// valid checksum the result is [`RIGHT`].
pub(super) const fn fold(sum: u64) -> [u8; 2] {
    let mut sum = sum;
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    (sum as u16).to_ne_bytes()
}

/// Result of [`fold`] for bytes with a valid checksum.
pub(super) const RIGHT: [u8; 2] = [0xff; 2];

/// Returns the checksum for a sum: its ones' complement.
pub(super) const fn finish(sum: u64) -> [u8; 2] {
    let [a, b] = fold(sum);
    [!a, !b]
}

/// Works as [`finish`], but replaces zero by its other form, because zero means "no checksum" in
/// UDP. The kernel does so for all protocols.
pub(super) const fn finish_transport(sum: u64) -> [u8; 2] {
    match finish(sum) {
        [0, 0] => [0xff; 2],
        sum => sum,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::io::vnet::testing::naive_checksum;

    proptest! {
        #[test]
        fn it_is_the_internet_checksum(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(finish(sum(&bytes)), naive_checksum(&bytes).to_be_bytes());
        }

        #[test]
        fn even_pieces_add_up(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            cut in 0_usize..150,
        ) {
            let (a, b) = bytes.split_at((cut * 2).min(bytes.len() & !1));
            prop_assert_eq!(fold(sum(a) + sum(b)), fold(sum(&bytes)));
        }
    }

    #[test]
    fn the_longest_and_largest_does_not_overflow() {
        let ones = vec![0xff; 65_535];
        assert_eq!(finish(sum(&ones)), naive_checksum(&ones).to_be_bytes());
        assert_eq!(finish_transport(sum(&[0xff, 0xff])), [0xff, 0xff]);
    }
}
