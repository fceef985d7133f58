//! Encrypted stream of a meta connection of tinc 1.0: AES in CFB mode with feedback of whole
//! blocks, one endless stream per direction. Source: wire/tinc-1.0.md section 1.5.

use aes::{Aes128, Aes192, Aes256};
use cfb_mode::{
    BufDecryptor, BufEncryptor,
    cipher::{BlockCipherEncrypt, BlockSizeUser, KeyInit, KeyIvInit, array::typenum::U16},
};

/// Length of the IV in bytes.
const IV: usize = 16;

/// A cipher of meta connections.
#[derive(Debug, PartialEq, Eq)]
pub struct StreamCipher {
    /// OpenSSL's number (NID).
    pub nid: i32,
    /// Length of the key in bytes.
    pub key: usize,
}

/// Ciphers that real daemons name: the key length of their packet cipher decides.
pub static STREAM_CIPHERS: [StreamCipher; 3] = [
    StreamCipher { nid: 421, key: 16 },
    StreamCipher { nid: 425, key: 24 },
    StreamCipher { nid: 429, key: 32 },
];

/// One direction of the stream.
pub struct Stream(Box<Apply>);

type Apply = dyn FnMut(&mut [u8]) + Send + Sync;

impl StreamCipher {
    /// Returns the cipher with a number.
    #[must_use]
    pub fn by_nid(nid: i32) -> Option<&'static Self> {
        STREAM_CIPHERS.iter().find(|cipher| cipher.nid == nid)
    }

    /// Returns the strongest cipher, which we use for sending.
    #[must_use]
    pub fn ours() -> &'static Self {
        &STREAM_CIPHERS[2]
    }

    /// Makes the sending stream from the secret of METAKEY: the key is its end, and the IV precedes
    /// the key.
    ///
    /// # Panics
    /// If `secret` is shorter than both; an RSA key of the least length is longer.
    #[must_use]
    pub fn encrypt(&self, secret: &[u8]) -> Stream {
        match self.key {
            16 => encrypt::<Aes128>(secret),
            24 => encrypt::<Aes192>(secret),
            _ => encrypt::<Aes256>(secret),
        }
    }

    /// Makes the receiving stream, likewise.
    ///
    /// # Panics
    /// As [`Self::encrypt`].
    #[must_use]
    pub fn decrypt(&self, secret: &[u8]) -> Stream {
        match self.key {
            16 => decrypt::<Aes128>(secret),
            24 => decrypt::<Aes192>(secret),
            _ => decrypt::<Aes256>(secret),
        }
    }
}

impl Stream {
    /// Encrypts or decrypts the next bytes in place.
    pub fn apply(&mut self, data: &mut [u8]) {
        (self.0)(data);
    }
}

trait Aes: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16> + KeyInit + Send + Sync {}

impl<C: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16> + KeyInit + Send + Sync> Aes for C {}

fn encrypt<C: Aes + 'static>(secret: &[u8]) -> Stream {
    let (key, iv) = parts(secret, C::key_size());
    let mut mode = BufEncryptor::<C>::new_from_slices(key, iv).expect("parts of these lengths");
    Stream(Box::new(move |data| mode.encrypt(data)))
}

fn decrypt<C: Aes + 'static>(secret: &[u8]) -> Stream {
    let (key, iv) = parts(secret, C::key_size());
    let mut mode = BufDecryptor::<C>::new_from_slices(key, iv).expect("parts of these lengths");
    Stream(Box::new(move |data| mode.decrypt(data)))
}

/// Returns key and IV.
fn parts(secret: &[u8], key: usize) -> (&[u8], &[u8]) {
    let (rest, key) = secret.split_at(secret.len() - key);
    (key, &rest[rest.len() - IV..])
}
