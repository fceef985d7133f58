//! Models of the state that packet threads and the driver share, in every order: see
//! [`meshd_sync`].

use std::sync::Arc;

use super::{testing, *};
use meshd_crypto::seal::Aead;
use meshd_sync::model;

/// Concurrent claims of two threads, with the first number that each thread got.
fn claims(key: &Arc<TxKey>, counts: [u32; 2]) -> Vec<(u64, u32)> {
    let threads = counts.map(|count| {
        let key = Arc::clone(key);
        model::spawn(move || key.claim(count).map(|first| (first, count)))
    });
    let mut got: Vec<_> = threads
        .into_iter()
        .filter_map(|t| t.join().unwrap())
        .collect();
    got.sort_unstable();
    got
}

/// Asserts that no two ranges overlap and that none ends above `limit`.
fn are_apart(ranges: &[(u64, u32)], limit: u64) {
    let ends = ranges
        .iter()
        .map(|(first, count)| first + u64::from(*count));
    let next = ranges
        .iter()
        .map(|(first, _)| *first)
        .skip(1)
        .chain([limit]);
    assert!(ends.zip(next).all(|(end, next)| end <= next), "{ranges:?}");
}

#[test]
fn sptps_numbers_are_claimed_once_and_end_at_the_limit() {
    const LIMIT: u64 = (1 << 32) - (1 << 13);
    for (left, granted) in [(5, 2), (3, 1), (0, 0)] {
        model::check(move || {
            let [(key, _), _] = testing::sptps([1, 2], 0);
            key.fast_forward(LIMIT - left);
            let ranges = claims(&key, [3, 2]);
            assert_eq!(ranges.len(), granted);
            are_apart(&ranges, LIMIT);
            // A refused claim has taken none of the numbers reserved for handshakes.
            assert!(key.claimed() <= LIMIT);
        });
    }
}

#[test]
fn native_numbers_are_claimed_once_and_end_at_the_limit() {
    const LIMIT: u64 = 1 << 28;
    for (left, most) in [(5, 2), (3, 1), (0, 0)] {
        model::check(move || {
            let (key, _) = testing::native(Aead::Aes256Gcm, 1, 7);
            key.fast_forward(LIMIT - left);
            let ranges = claims(&key, [3, 2]);
            assert!(ranges.len() <= most);
            are_apart(&ranges, LIMIT);
        });
    }
}

fn sealed(key: &TxKey, number: u64) -> Vec<u8> {
    let mut datagram = vec![0; key.overhead() + 1];
    key.seal(number, 0, &mut datagram);
    datagram
}

/// Two threads get the same datagram, one of them in a run. Either of them may open it.
fn opened_once(tx: &TxKey, rx: &Arc<RxKey>) {
    let (first, second) = (sealed(tx, 0), sealed(tx, 1));
    let key = Arc::clone(rx);
    let mut run = [first.clone(), second.clone()];
    let other = model::spawn(move || {
        let mut window = key.window();
        run.each_mut()
            .map(|datagram| key.open_in(&mut window, datagram).is_ok())
    });
    let ours = [second, first].map(|mut datagram| rx.open(&mut datagram).is_ok());
    let theirs = other.join().unwrap();
    assert!(ours[0] ^ theirs[1], "number 1: {ours:?} {theirs:?}");
    assert!(ours[1] ^ theirs[0], "number 0: {ours:?} {theirs:?}");
    assert!(rx.is_used());
}

#[test]
fn a_number_is_accepted_once() {
    model::check(|| {
        let [(tx, rx), _] = testing::sptps([1, 2], 64);
        opened_once(&tx, &rx);
    });
    for aead in [Aead::Aes256Gcm, Aead::ChaCha20Poly1305] {
        model::check(move || {
            let (tx, rx) = testing::native(aead, 1, 7);
            opened_once(&tx, &rx);
        });
    }
}

/// One worker has the old key, another the new one, and the driver opens a handshake record. All
/// keys of a session share one sequence of numbers.
#[test]
fn the_keys_of_a_session_share_its_window() {
    model::check(|| {
        let [(old, old_rx), (new, new_rx)] = testing::sptps([1, 2], 64);
        let numbers = [&old, &new].map(|key| key.claim(1).unwrap());
        assert_eq!(numbers, [0, 1]);
        let [first, second] = [sealed(&old, 0), sealed(&new, 1)];
        let keys = vec![Arc::clone(&new_rx), Arc::clone(&old_rx)];
        let received = [first.clone(), second.clone()];
        let worker = model::spawn(move || {
            received.map(|mut datagram| open(&keys, &mut datagram).map(|opened| opened.seq))
        });
        let handshake = old_rx.open_handshake(&mut first.clone());
        assert_eq!(handshake.map(|opened| opened.seq), Ok(0));
        let (mut first, mut second) = (first, second);
        let late = [old_rx.open(&mut first), new_rx.open(&mut second)];
        let early = worker.join().unwrap();
        // The handshake marks number 0: a later datagram with this number is a replay.
        assert_eq!(late[0], Err(OpenError::Replayed));
        assert!(early[0].is_ok() || early[0] == Err(OpenError::Replayed));
        assert!(early[1].is_ok() ^ late[1].is_ok());
    });
}
