//! Compression of packets: zlib (levels 1 to 9), LZO (10 and 11), and for tinc 1.1 LZ4 (12).
//!
//! Source: wire/tinc-1.0.md section 3.2, wire/tinc-1.1.md section 4.7. LZO is only decompressed;
//! packets that we send in LZO are not made smaller.

use std::sync::PoisonError;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use meshd_sync::Mutex;

use crate::lzo;

/// Highest level.
pub const MAX_LEVEL: u8 = LZ4;
/// Highest level of tinc 1.0.
pub const MAX_LEGACY: u8 = 11;
/// First level of LZO.
const LZO: u8 = 10;
/// Level of LZ4: a block without its length.
const LZ4: u8 = 12;

/// Compressor for packets to one node.
pub struct Packer {
    level: u8,
    /// The state is large, so it is made once and not for every packet.
    zlib: Option<Mutex<Compress>>,
}

impl Packer {
    /// Makes a compressor for level 1 to [`MAX_LEVEL`]; `None` for other levels.
    #[must_use]
    pub fn new(level: u8) -> Option<Self> {
        let zlib = |level: u8| Mutex::new(Compress::new(Compression::new(level.into()), true));
        (1..=MAX_LEVEL).contains(&level).then(|| Self {
            level,
            zlib: (level < LZO).then(|| zlib(level)),
        })
    }

    /// Returns the level.
    #[must_use]
    pub const fn level(&self) -> u8 {
        self.level
    }

    /// Compresses one packet.
    #[must_use]
    pub fn pack(&self, data: &[u8]) -> Vec<u8> {
        let zlib = match &self.zlib {
            Some(zlib) => zlib,
            None if self.level == LZ4 => return lz4_flex::block::compress(data),
            None => return lzo::store(data),
        };
        let mut zlib = zlib.lock().unwrap_or_else(PoisonError::into_inner);
        zlib.reset();
        // zlib's bound for incompressible data, rounded up.
        let mut out = Vec::with_capacity(data.len() + data.len() / 100 + 64);
        let done = zlib.compress_vec(data, &mut out, FlushCompress::Finish);
        debug_assert!(matches!(done, Ok(Status::StreamEnd)));
        out
    }
}

/// Decompresses a packet of at most `most` bytes, compressed with `level`. `None` if it is longer
/// or damaged.
#[must_use]
pub fn unpack(level: u8, data: &[u8], most: usize) -> Option<Vec<u8>> {
    if level == LZ4 {
        return lz4_flex::block::decompress(data, most).ok();
    }
    if level >= LZO {
        return lzo::load(data, most);
    }
    let mut out = Vec::with_capacity(most);
    let mut zlib = Decompress::new(true);
    let done = zlib.decompress_vec(data, &mut out, FlushDecompress::Finish);
    matches!(done, Ok(Status::StreamEnd)).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_undone() {
        let text = b"as long as it is broad, ".repeat(60);
        for level in 1..=MAX_LEVEL {
            let packed = Packer::new(level).unwrap();
            for _ in 0..2 {
                let packed = packed.pack(&text);
                assert_eq!(
                    packed.len() < text.len(),
                    level < LZO || level == LZ4,
                    "{level}"
                );
                assert_eq!(unpack(level, &packed, 1661).as_deref(), Some(&text[..]));
                assert_eq!(unpack(level, &packed, text.len() - 1), None, "{level}");
                assert_eq!(unpack(level, &packed[..packed.len() - 1], 1661), None);
            }
        }
        assert!(Packer::new(0).is_none() && Packer::new(13).is_none());
    }

    /// T35: the decompressed size of a packet is bounded.
    #[test]
    fn bombs_are_not_unpacked() {
        let zlib = Packer::new(9).unwrap().pack(&vec![0; 1 << 20]);
        assert_eq!(unpack(9, &zlib, 1661), None);
        let bomb = lzokay_native::compress(&vec![0; 300_000]).unwrap();
        assert_eq!(unpack(10, &bomb, 1661), None);
        let lz4 = Packer::new(12).unwrap().pack(&vec![0; 1 << 20]);
        assert_eq!(unpack(12, &lz4, 1661), None);
    }
}
