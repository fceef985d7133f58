//! Ethernet frames: the fields that switching needs.
//!
//! Source: IEEE 802.3, 802.1Q; config/tinc.md section 6.7.

/// Length of the Ethernet header without tags, in bytes.
pub const HEADER: usize = 14;
/// Length of a tag of 802.1Q or 802.1ad, in bytes.
pub const TAG: usize = 4;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Most tags that are parsed.
const TAGS: usize = 2;
/// EtherType of IPv4.
pub const TYPE_V4: u16 = 0x0800;
/// EtherType of IPv6.
pub const TYPE_V6: u16 = 0x86dd;

/// A frame that has at least its header.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a>(&'a [u8]);

impl<'a> Frame<'a> {
    /// Parses a frame; `None` if it is shorter than its header.
    #[must_use]
    pub const fn parse(bytes: &'a [u8]) -> Option<Self> {
        match bytes.len() < HEADER {
            true => None,
            false => Some(Self(bytes)),
        }
    }

    /// Returns the destination address.
    #[must_use]
    pub fn destination(&self) -> Mac {
        self.mac(0)
    }

    /// Returns the source address.
    #[must_use]
    pub fn source(&self) -> Mac {
        self.mac(6)
    }

    /// Returns the word behind the addresses: the EtherType, or the type of a tag.
    #[must_use]
    pub fn first_type(&self) -> u16 {
        self.word(HEADER - 2)
    }

    /// Returns the EtherType behind the tags.
    #[must_use]
    pub fn ether_type(&self) -> u16 {
        self.word(self.payload_at() - 2)
    }

    /// Returns the start of the data behind the tags, of which at most two are parsed.
    #[must_use]
    pub fn payload_at(&self) -> usize {
        let mut at = HEADER;
        while at < HEADER + TAGS * TAG
            && matches!(self.word(at - 2), 0x8100 | 0x88a8 | 0x9100)
            && self.0.len() >= at + TAG
        {
            at += TAG;
        }
        at
    }

    /// Returns the start of the IP packet, if the frame has one.
    #[must_use]
    pub fn ip_at(&self) -> Option<usize> {
        let at = self.payload_at();
        matches!(self.word(at - 2), TYPE_V4 | TYPE_V6).then_some(at)
    }

    fn mac(&self, at: usize) -> Mac {
        *self.0[at..].first_chunk().expect("a whole header")
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }
}

/// Returns the Ethernet header for a bare IP packet: no addresses, and the EtherType of its
/// version. Source: wire/tinc-1.0.md section 4.1.
#[must_use]
pub fn made_up(packet: &[u8]) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    let ether_type = match packet.first().map(|first| first >> 4) {
        Some(6) => TYPE_V6,
        _ => TYPE_V4,
    };
    header[HEADER - 2..].copy_from_slice(&ether_type.to_be_bytes());
    header
}

/// Returns the start of the IP packet in a frame; behind the end of the frame if there is none.
#[must_use]
pub fn ip_at(frame: &[u8]) -> usize {
    let at = Frame::parse(frame).and_then(|frame| frame.ip_at());
    at.unwrap_or(frame.len())
}

/// Returns true for a group address: multicast or broadcast.
#[must_use]
pub const fn is_group(mac: Mac) -> bool {
    mac[0] & 1 != 0
}

/// Returns the header, with tags, of an answer to a frame whose payload starts at `payload`: the
/// addresses are swapped.
#[must_use]
pub fn answer(frame: &[u8], payload: usize) -> Vec<u8> {
    let mut header = frame[..payload].to_vec();
    header[..12].rotate_left(6);
    header
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(tags: &[u16], ether_type: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        for tag in tags {
            frame.extend(tag.to_be_bytes());
            frame.extend([0, 7]);
        }
        frame.extend(ether_type.to_be_bytes());
        frame.extend(payload);
        frame
    }

    #[test]
    fn fields_behind_any_number_of_tags() {
        for (tags, at) in [(&[][..], 14), (&[0x8100], 18), (&[0x88a8, 0x8100], 22)] {
            let bytes = frame(tags, 0x86dd, &[0x60; 40]);
            let view = Frame::parse(&bytes).unwrap();
            assert_eq!(view.destination(), [1, 2, 3, 4, 5, 6]);
            assert_eq!(view.source(), [7, 8, 9, 10, 11, 12]);
            assert_eq!((view.payload_at(), view.ether_type()), (at, 0x86dd));
            assert_eq!((view.ip_at(), ip_at(&bytes)), (Some(at), at));
            let header = answer(&bytes, at);
            assert_eq!(header[..12], [7, 8, 9, 10, 11, 12, 1, 2, 3, 4, 5, 6]);
            assert_eq!(header[12..], bytes[12..at]);
        }
        // Fields behind more tags are not parsed.
        assert_eq!(ip_at(&frame(&[0x8100; 3], 0x0800, &[0x45; 20])), 46);
        assert_eq!(ip_at(&frame(&[], 0x0806, &[0; 28])), 42);
        assert_eq!(ip_at(&[0; 13]), 13);
        assert!(is_group([0xff; 6]) && is_group([0x33, 0x33, 0, 0, 0, 1]));
        assert!(!is_group([2, 0, 0, 0, 0, 1]));
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_place_for_ip(bytes in prop::collection::vec(any::<u8>(), 0..40), tag in any::<bool>()) {
            let mut bytes = bytes;
            if let (true, Some(place)) = (tag, bytes.get_mut(12..14)) {
                place.copy_from_slice(&[0x81, 0]);
            }
            prop_assert!(ip_at(&bytes) <= bytes.len());
        }
    }
}
