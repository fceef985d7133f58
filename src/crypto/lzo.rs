//! LZO1X for packets of tinc 1.0: a decoder with bounded output, and an encoder that writes only
//! literals, which every decoder accepts.
//!
//! Written from the description of the format in the documentation of Linux ("LZO stream format as
//! understood by Linux' LZO decompressor") and wire/tinc-1.0.md section 3.2. LZO's own code is GPL
//! and was not read.

/// Longest literal run that the first byte can encode.
const FIRST_RUN: usize = 238;
/// End of the stream: a match with distance zero in the far range.
const END: [u8; 3] = [0x11, 0, 0];

/// Encodes `data` as literals. Returns an empty vector for fewer than 4 bytes, which this form
/// cannot hold.
pub(super) fn store(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() + data.len() / 255 + 8);
    match data.len() {
        0..=3 => return out,
        // At most 255.
        length @ 4..=FIRST_RUN => out.push((length + 17) as u8),
        length => {
            let rest = length - 18;
            let zeros = (rest - 1) / 255;
            out.resize(1 + zeros, 0);
            out.push((rest - 255 * zeros) as u8);
        }
    }
    out.extend_from_slice(data);
    out.extend_from_slice(&END);
    out
}

/// Decodes a whole stream with at most `most` bytes of content. `None` if it is longer or no valid
/// stream.
pub(super) fn load(data: &[u8], most: usize) -> Option<Vec<u8>> {
    let mut decoder = Decoder {
        input: data,
        output: Vec::with_capacity(most),
        most,
    };
    decoder.run()?;
    Some(decoder.output)
}

struct Decoder<'a> {
    input: &'a [u8],
    output: Vec<u8>,
    most: usize,
}

/// Literals copied since the last instruction: the meaning of an instruction below 16 depends on
/// them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// None.
    None,
    /// One to three, behind a match.
    Few,
    /// A run of four or more.
    Run,
}

impl Decoder<'_> {
    fn run(&mut self) -> Option<()> {
        let mut state = State::None;
        if let Some(first) = self.input.first().copied().filter(|first| *first >= 18) {
            self.byte()?;
            state = self.literals(usize::from(first - 17))?;
        }
        loop {
            let byte = usize::from(self.byte()?);
            let (length, distance, after) = match byte {
                0..=15 if state == State::None => {
                    let length = 3 + self.length(byte, 15)?;
                    state = self.literals(length)?;
                    continue;
                }
                0..=15 => {
                    let (length, base) = match state {
                        State::Run => (3, 2049),
                        _ => (2, 1),
                    };
                    let high = usize::from(self.byte()?);
                    (length, (high << 2) + (byte >> 2) + base, byte & 3)
                }
                16..=31 => {
                    let length = 2 + self.length(byte & 7, 7)?;
                    let (distance, after) = self.far()?;
                    let distance = 16_384 + ((byte & 8) << 11) + distance;
                    if distance == 16_384 {
                        return (length == 3 && self.input.is_empty()).then_some(());
                    }
                    (length, distance, after)
                }
                32..=63 => {
                    let length = 2 + self.length(byte & 31, 31)?;
                    let (distance, after) = self.far()?;
                    (length, distance + 1, after)
                }
                64.. => {
                    let high = usize::from(self.byte()?);
                    let length = match byte {
                        64..=127 => 3 + (byte >> 5 & 1),
                        _ => 5 + (byte >> 5 & 3),
                    };
                    (length, (high << 3) + (byte >> 2 & 7) + 1, byte & 3)
                }
            };
            self.copy(length, distance)?;
            state = self.literals(after)?;
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.input.split_first()?;
        self.input = rest;
        Some(*first)
    }

    /// Reads a length of which the instruction holds `bits`; if these are zero, it is `base` plus
    /// the following bytes.
    fn length(&mut self, bits: usize, base: usize) -> Option<usize> {
        if bits != 0 {
            return Some(bits);
        }
        let mut length = base;
        loop {
            match self.byte()? {
                0 => length += 255,
                last => return Some(length + usize::from(last)),
            }
            if length > self.most {
                return None;
            }
        }
    }

    /// Reads two bytes: a distance, and the number of literals after the match.
    fn far(&mut self) -> Option<(usize, usize)> {
        let word = usize::from(u16::from_le_bytes([self.byte()?, self.byte()?]));
        Some((word >> 2, word & 3))
    }

    fn literals(&mut self, count: usize) -> Option<State> {
        let (literals, rest) = self.input.split_at_checked(count)?;
        if self.output.len() + count > self.most {
            return None;
        }
        self.output.extend_from_slice(literals);
        self.input = rest;
        Some(match count {
            0 => State::None,
            1..=3 => State::Few,
            _ => State::Run,
        })
    }

    fn copy(&mut self, length: usize, distance: usize) -> Option<()> {
        let start = self.output.len().checked_sub(distance)?;
        if self.output.len() + length > self.most {
            return None;
        }
        // A match may reach into its own output.
        for at in start..start + length {
            self.output.push(self.output[at]);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Text with near and far repetitions, as in packets.
    fn data() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..300),
            (any::<u8>(), 0..400_usize).prop_map(|(byte, count)| vec![byte; count]),
            (1..40_usize, 1..40_usize).prop_map(|(length, count)| {
                (0..length as u8).collect::<Vec<u8>>().repeat(count)
            }),
        ];
        proptest::collection::vec(piece, 1..30).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn what_another_implementation_packs_is_unpacked(
            data in data().prop_filter("it makes nothing of nothing", |data| !data.is_empty())
        ) {
            let packed = lzokay_native::compress(&data).unwrap();
            let limit = data.len();
            prop_assert_eq!(load(&packed, limit), Some(data));
            prop_assert_eq!(load(&packed, limit - 1), None);
        }

        #[test]
        fn stored_streams_are_read_by_both(data in proptest::collection::vec(any::<u8>(), 4..2000)) {
            let stored = store(&data);
            let mut reader = std::io::Cursor::new(&stored);
            let other = lzokay_native::decompress(&mut reader, Some(data.len())).unwrap();
            prop_assert_eq!(&other, &data);
            prop_assert_eq!(load(&stored, data.len()), Some(data));
        }

        #[test]
        fn rubbish_neither_panics_nor_grows(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(load(&data, 1661).is_none_or(|out| out.len() <= 1661));
        }
    }
}
