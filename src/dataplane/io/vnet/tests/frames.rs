//! Packets behind Ethernet headers.

use super::*;

/// Two bridges may use equal addresses and ports: their frames belong to different flows.
#[test]
fn frames_with_other_ethernet_headers_are_not_joined() {
    let packets = built(&flow(&Parts::default(), 2), Complete);
    for link in &LINK[1..] {
        for at in 0..link.len() - 2 {
            let mut frames: Vec<_> = packets
                .iter()
                .map(|(packet, sums)| (framed(link, packet), *sums))
                .collect();
            assert_eq!(join_at(link.len(), true, &frames).len(), 1);
            frames[1].0[at] ^= 1;
            let want: Vec<_> = frames
                .iter()
                .map(|(frame, _)| (Header::default(), frame.clone()))
                .collect();
            assert_eq!(join_at(link.len(), true, &frames), want);
        }
    }
}

/// A frame without IP is written at once, even if packets wait.
#[test]
fn frames_without_ip_wait_for_nothing() {
    let link = LINK[1];
    let mut frames: Vec<_> = built(&flow(&Parts::default(), 2), Complete)
        .into_iter()
        .map(|(packet, sums)| (framed(link, &packet), sums, link.len()))
        .collect();
    let arp = framed(&[0xff; 12], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frames.insert(1, (arp.clone(), Complete, arp.len()));
    let (mut coalescer, mut written) = (Coalescer::new(true), Vec::new());
    for (frame, sums, ip) in &frames {
        coalescer.push(frame, *ip, *sums, |_, frame| written.push(frame.to_vec()));
    }
    assert_eq!(written, [arp]);
    coalescer.flush(|_, frame| written.push(frame.to_vec()));
    assert_eq!(written.len(), 2);
}
