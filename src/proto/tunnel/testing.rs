//! Keys without a handshake, for models.

use std::sync::Arc;

use zeroize::Zeroizing;

use meshd_crypto::{noise::SessionKeys, replay::ReplayWindow, seal::Aead};
use meshd_sync::Mutex;

use crate::tunnel::{
    RxKey, RxKind, TxKey, TxKind,
    native::Session,
    sptps::{Counter, Rx, Tx},
};

/// One direction of an SPTPS session: keys of two generations, which share numbers and a replay
/// window of `window` packets.
pub fn sptps(generations: [u8; 2], window: u32) -> [(Arc<TxKey>, Arc<RxKey>); 2] {
    let counter = Counter::new();
    let window = Arc::new(Mutex::new(ReplayWindow::new(window)));
    generations.map(|seed| {
        let key = || Zeroizing::new([seed; 32]);
        let tx = TxKind::Sptps(Tx::new(key(), counter.clone(), None));
        let rx = RxKind::Sptps(Rx::new(key(), window.clone(), 0));
        (Arc::new(TxKey(tx)), Arc::new(RxKey(rx)))
    })
}

/// One direction of a native session whose receiver uses `index`.
pub fn native(aead: Aead, seed: u8, index: u32) -> (Arc<TxKey>, Arc<RxKey>) {
    let keys = || SessionKeys {
        tx: Zeroizing::new([seed; 32]),
        rx: Zeroizing::new([seed; 32]),
    };
    let session = Session::new(aead, &keys(), index, index);
    (session.tx, session.rx)
}
