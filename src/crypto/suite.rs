//! Ciphers and digests of tinc 1.0 by OpenSSL's names and numbers (NIDs).
//!
//! Some ciphers are left out. The keystream of OFB, CTR, ChaCha20 and chacha20-poly1305 repeats
//! from packet to packet under tinc's constant IV. ECB is insecure. ARIA, Camellia, CAST5, SM4, RIPEMD,
//! SHA-3 and SM3 have hardly any users, and each costs a crate. Packets to a node that wants one of
//! these go over its link. CFB stays: its first block
//! contains only the sequence number and zeros, and all other blocks depend on it. Source:
//! wire/tinc-1.0.md sections 3.1 and 8.

use std::fmt;

use aes::{Aes128, Aes192, Aes256};
use blowfish::Blowfish;
use cbc::cipher::{
    BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, InnerIvInit,
    KeyInit, array::Array,
};
use des::TdesEde3;
use hmac::{Mac as _, SimpleHmac, digest::common::BlockSizeUser};

/// Longest MAC in bytes.
pub const MAX_MAC: usize = 64;

/// A cipher for packets.
pub struct Cipher {
    /// OpenSSL's name.
    pub name: &'static str,
    /// Other names that a configuration may use.
    aliases: &'static [&'static str],
    /// OpenSSL's number (NID).
    pub nid: i32,
    /// Length of the key in bytes.
    pub key: usize,
    /// Block length for padding, in bytes; 1: no padding.
    pub block: usize,
    /// Length of the IV in bytes.
    pub iv: usize,
    /// Block length of the inner cipher, in bytes: another key is due after 2^(4 * this) blocks.
    pub inner: usize,
    make: fn(&[u8]) -> Box<dyn Mode>,
}

/// A cipher with its key. With padding it works on whole blocks.
pub trait Mode: Send + Sync {
    /// Encrypts in place; `data` is a multiple of the block length, and `iv` has the IV's length.
    fn encrypt(&self, iv: &[u8], data: &mut [u8]);
    /// Decrypts in place, likewise.
    fn decrypt(&self, iv: &[u8], data: &mut [u8]);
}

impl Cipher {
    /// Returns the cipher of a configured name, in any case. `None` for an unknown or unsafe
    /// cipher, and for "none".
    #[must_use]
    pub fn by_name(name: &str) -> Option<&'static Self> {
        let is = |known: &&str| known.eq_ignore_ascii_case(name);
        CIPHERS
            .iter()
            .find(|cipher| is(&cipher.name) || cipher.aliases.iter().any(&is))
    }

    /// Returns the cipher with a number.
    #[must_use]
    pub fn by_nid(nid: i32) -> Option<&'static Self> {
        CIPHERS.iter().find(|cipher| cipher.nid == nid)
    }

    /// Prepares the cipher with a key.
    ///
    /// # Panics
    /// If `key` has not [`Self::key`] bytes.
    #[must_use]
    pub fn with_key(&self, key: &[u8]) -> Box<dyn Mode> {
        (self.make)(key)
    }
}

impl PartialEq for Cipher {
    fn eq(&self, other: &Self) -> bool {
        self.nid == other.nid
    }
}

impl Eq for Cipher {}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

struct Cbc<C>(C);

impl<C> Mode for Cbc<C>
where
    C: BlockCipherEncrypt + BlockCipherDecrypt + Send + Sync,
{
    fn encrypt(&self, iv: &[u8], data: &mut [u8]) {
        let mut mode = cbc::Encryptor::inner_iv_slice_init(&self.0, iv).expect("the IV's length");
        mode.encrypt_blocks(Array::slice_as_chunks_mut(data).0);
    }

    fn decrypt(&self, iv: &[u8], data: &mut [u8]) {
        let mut mode = cbc::Decryptor::inner_iv_slice_init(&self.0, iv).expect("the IV's length");
        mode.decrypt_blocks(Array::slice_as_chunks_mut(data).0);
    }
}

struct Cfb<C>(C);

impl<C: BlockCipherEncrypt + Send + Sync> Mode for Cfb<C> {
    fn encrypt(&self, iv: &[u8], data: &mut [u8]) {
        let mode = cfb_mode::BufEncryptor::inner_iv_slice_init(&self.0, iv);
        mode.expect("the IV's length").encrypt(data);
    }

    fn decrypt(&self, iv: &[u8], data: &mut [u8]) {
        let mode = cfb_mode::BufDecryptor::inner_iv_slice_init(&self.0, iv);
        mode.expect("the IV's length").decrypt(data);
    }
}

fn keyed<C: KeyInit>(key: &[u8]) -> C {
    C::new_from_slice(key).expect("a key of the cipher's length")
}

fn cbc<C>(key: &[u8]) -> Box<dyn Mode>
where
    C: BlockCipherEncrypt + BlockCipherDecrypt + KeyInit + Send + Sync + 'static,
{
    Box::new(Cbc::<C>(keyed(key)))
}

fn cfb<C>(key: &[u8]) -> Box<dyn Mode>
where
    C: BlockCipherEncrypt + KeyInit + Send + Sync + 'static,
{
    Box::new(Cfb::<C>(keyed(key)))
}

type Make = fn(&[u8]) -> Box<dyn Mode>;

const fn in_blocks(
    name: &'static str,
    aliases: &'static [&'static str],
    nid: i32,
    key: usize,
    block: usize,
    make: Make,
) -> Cipher {
    Cipher {
        name,
        aliases,
        nid,
        key,
        block,
        iv: block,
        inner: block,
        make,
    }
}

const fn as_stream(name: &'static str, nid: i32, key: usize, make: Make) -> Cipher {
    Cipher {
        name,
        aliases: &[],
        nid,
        key,
        block: 1,
        iv: 16,
        inner: 16,
        make,
    }
}

/// Every cipher for packets.
pub static CIPHERS: [Cipher; 8] = [
    in_blocks("aes-128-cbc", &["aes128"], 419, 16, 16, cbc::<Aes128>),
    in_blocks("aes-192-cbc", &["aes192"], 423, 24, 16, cbc::<Aes192>),
    in_blocks("aes-256-cbc", &["aes256"], 427, 32, 16, cbc::<Aes256>),
    as_stream("aes-128-cfb", 421, 16, cfb::<Aes128>),
    as_stream("aes-192-cfb", 425, 24, cfb::<Aes192>),
    as_stream("aes-256-cfb", 429, 32, cfb::<Aes256>),
    in_blocks("des-ede3-cbc", &["des3"], 44, 24, 8, cbc::<TdesEde3>),
    in_blocks("bf-cbc", &["bf", "blowfish"], 91, 16, 8, cbc::<Blowfish>),
];

/// A digest: as HMAC for packets, by itself for CHAL_REPLY.
pub struct Digest {
    /// OpenSSL's name.
    pub name: &'static str,
    /// Other names that a configuration may use.
    aliases: &'static [&'static str],
    /// OpenSSL's number (NID).
    pub nid: i32,
    /// Length of the output in bytes.
    pub size: usize,
    hash: fn(&[u8]) -> Vec<u8>,
    hmac: fn(&[u8]) -> Box<dyn Mac>,
}

/// HMAC with its key.
pub trait Mac: Send + Sync {
    /// Returns the HMAC of `data`: as many bytes as the digest has, then zeros.
    fn tag(&self, data: &[u8]) -> [u8; MAX_MAC];
}

impl Digest {
    /// Returns the digest of a configured name, in any case; `None` for "none".
    #[must_use]
    pub fn by_name(name: &str) -> Option<&'static Self> {
        let is = |known: &&str| known.eq_ignore_ascii_case(name);
        DIGESTS
            .iter()
            .find(|digest| is(&digest.name) || digest.aliases.iter().any(&is))
    }

    /// Returns the digest with a number.
    #[must_use]
    pub fn by_nid(nid: i32) -> Option<&'static Self> {
        DIGESTS.iter().find(|digest| digest.nid == nid)
    }

    /// Returns the digest of `data`, of [`Self::size`] bytes.
    #[must_use]
    pub fn hash(&self, data: &[u8]) -> Vec<u8> {
        (self.hash)(data)
    }

    /// Prepares an HMAC with a key of any length.
    #[must_use]
    pub fn with_key(&self, key: &[u8]) -> Box<dyn Mac> {
        (self.hmac)(key)
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.nid == other.nid
    }
}

impl Eq for Digest {}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Requirements of HMAC on a digest.
trait Core: sha2::Digest + BlockSizeUser + Clone + Send + Sync {}

impl<D: sha2::Digest + BlockSizeUser + Clone + Send + Sync> Core for D {}

impl<D: Core> Mac for SimpleHmac<D> {
    fn tag(&self, data: &[u8]) -> [u8; MAX_MAC] {
        let tag = self.clone().chain_update(data).finalize().into_bytes();
        let mut padded = [0; MAX_MAC];
        padded[..tag.len()].copy_from_slice(&tag);
        padded
    }
}

fn hash<D: sha2::Digest>(data: &[u8]) -> Vec<u8> {
    D::digest(data).to_vec()
}

fn hmac<D: Core + 'static>(key: &[u8]) -> Box<dyn Mac> {
    let keyed = <SimpleHmac<D> as KeyInit>::new_from_slice(key);
    Box::new(keyed.expect("HMAC takes keys of any length"))
}

macro_rules! digest {
    ($name:literal, $aliases:expr, $nid:literal, $size:literal, $type:ty) => {
        Digest {
            name: $name,
            aliases: $aliases,
            nid: $nid,
            size: $size,
            hash: hash::<$type>,
            hmac: hmac::<$type>,
        }
    };
}

/// Every digest for packets.
pub static DIGESTS: [Digest; 10] = [
    digest!("md5", &[], 4, 16, md5::Md5),
    digest!("sha1", &["sha"], 64, 20, sha1::Sha1),
    digest!("sha224", &[], 675, 28, sha2::Sha224),
    digest!("sha256", &[], 672, 32, sha2::Sha256),
    digest!("sha384", &[], 673, 48, sha2::Sha384),
    digest!("sha512", &[], 674, 64, sha2::Sha512),
    digest!("sha512-224", &[], 1094, 28, sha2::Sha512_224),
    digest!("sha512-256", &[], 1095, 32, sha2::Sha512_256),
    digest!("blake2b512", &[], 1056, 64, blake2::Blake2b512),
    digest!("blake2s256", &[], 1057, 32, blake2::Blake2s256),
];
