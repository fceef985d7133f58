//! Node keys: Ed25519 with tinc's 96-byte private form, and the key agreement on the same curve.
//!
//! tinc keeps the *expanded* private key, not the seed, so signing uses the low-level interface.
//! Source: wire/tinc-1.1.md sections 1.2, 1.3 and 2.3; rejections: T07 of proto/threat-model.md.

use std::{
    fmt::{self, Write as _},
    str::FromStr,
};

use curve25519_dalek::{
    MontgomeryPoint,
    edwards::{CompressedEdwardsY, EdwardsPoint},
    scalar::clamp_integer,
};
use ed25519_dalek::{
    Signature, VerifyingKey,
    hazmat::{ExpandedSecretKey, raw_sign},
};
use sha2::{Digest, Sha256, Sha512};
use zeroize::Zeroizing;

use meshd_wire::base64;

use crate::Rng;

/// Length of a public key in tinc's base64, in characters.
pub const PUBLIC_TEXT: usize = 43;
/// Length of a signature, in bytes.
pub const SIGNATURE: usize = 64;

const PRIVATE_LABEL: &str = "ED25519 PRIVATE KEY";
const PUBLIC_LABEL: &str = "ED25519 PUBLIC KEY";

/// Reason why a key was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not 43 characters of base64.
    #[error("an Ed25519 public key has 43 characters of A-Z a-z 0-9 + /")]
    NotBase64,
    /// Not a point on the curve, or not in its canonical form.
    #[error("not an Ed25519 public key: no canonical point on the curve")]
    NotAPoint,
    /// A point under which every signature is valid.
    #[error("a weak Ed25519 public key (point of small order): make a new pair")]
    SmallOrder,
    /// A point outside the prime-order group, which no real key pair has.
    #[error("a malformed Ed25519 public key (point with torsion): make a new pair")]
    Torsion,
    /// The private scalar is not clamped, unlike that of every key generator.
    #[error("a malformed Ed25519 private key (scalar not clamped): make a new pair")]
    NotClamped,
    /// The public half does not match. A signature with such a file would reveal the private key.
    #[error("the public half in the private key file does not belong to the private half")]
    Mismatch,
    /// The text has no such block.
    #[error("no line \"-----BEGIN {0}-----\" in it")]
    NoPem(&'static str),
    /// The block has no end line.
    #[error("no line \"-----END {0}-----\" in it: the file is cut short")]
    CutShort(&'static str),
    /// The block does not contain what it should.
    #[error("the {0} block does not hold {1} bytes of base64")]
    BadPem(&'static str, usize),
}

/// Public key of a node: 32 bytes, a canonical Edwards point, not of small order.
///
/// [`Self::is_torsion_free`] takes ten times as long as the other checks, and a node reads a key of
/// each host file at its start. So a key of a file is checked for torsion where it is used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Checks that `bytes` are a valid public key. Errors: see [`KeyError`].
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, KeyError> {
        let key = Self::of_file(bytes)?;
        match key.is_torsion_free() {
            true => Ok(key),
            false => Err(KeyError::Torsion),
        }
    }

    /// Checks all but torsion.
    fn of_file(bytes: [u8; 32]) -> Result<Self, KeyError> {
        let point = decompress(&bytes).filter(|_| is_canonical(&bytes));
        let point = point.ok_or(KeyError::NotAPoint)?;
        match point.is_small_order() {
            true => Err(KeyError::SmallOrder),
            false => Ok(Self(bytes)),
        }
    }

    /// Returns true if the point is in the group of prime order. A key pair of any generator has
    /// such a point. No signature is valid under another one.
    #[must_use]
    pub fn is_torsion_free(&self) -> bool {
        decompress(&self.0).is_some_and(|point| point.is_torsion_free())
    }

    /// Reads the key of a host file's `Ed25519PublicKey`: [`PUBLIC_TEXT`] characters. The key is
    /// not checked for torsion.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        if text.len() != PUBLIC_TEXT {
            return Err(KeyError::NotBase64);
        }
        let bytes = base64::decode(text).ok_or(KeyError::NotBase64)?;
        Self::of_file(bytes.try_into().map_err(|_| KeyError::NotBase64)?)
    }

    /// Reads the key in a PEM block `ED25519 PUBLIC KEY`, as some host files have it. Text before
    /// the block is skipped. The key is not checked for torsion.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        Self::of_file(*pem_content(text, PUBLIC_LABEL)?)
    }

    /// Returns the 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns true if `signature` is this key's signature of `message`.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8; SIGNATURE]) -> bool {
        let valid = VerifyingKey::from_bytes(&self.0).is_ok_and(|key| {
            key.verify_strict(message, &Signature::from_bytes(signature))
                .is_ok()
        });
        valid && self.is_torsion_free()
    }

    /// Returns the same key for X25519: the Montgomery form of the point (proto/native-link.md
    /// section 1). The result is never of small order, because the point is not.
    #[must_use]
    pub fn x25519_public(&self) -> [u8; 32] {
        let point = decompress(&self.0).expect("a sound key is a point");
        point.to_montgomery().to_bytes()
    }

    /// Returns a short form for display: `SHA256:` and tinc's base64 of SHA-256 of the 32 bytes.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        format!("SHA256:{}", base64::encode(&Sha256::digest(self.0)))
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::from_base64(text)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&base64::encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Private key of a node: expanded scalar and nonce prefix (64 bytes), and the public key made from
/// them.
#[derive(Clone)]
pub struct PrivateKey {
    expanded: Zeroizing<[u8; 64]>,
    public: PublicKey,
}

impl PrivateKey {
    /// Generates a new key.
    #[must_use]
    pub fn generate(rng: &mut Rng) -> Self {
        Self::from_seed(&Zeroizing::new(rng.bytes()))
    }

    /// Makes the key of a 32-byte seed, expanded as in RFC 8032. tinc's files do not hold the seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let expanded = expand(seed);
        Self {
            public: PublicKey(public_half(&expanded).compress().0),
            expanded,
        }
    }

    /// Reads the content of tinc's key file: scalar 32, nonce prefix 32, public key 32. The public
    /// half is computed again and must match: a signature with another one leaks the scalar.
    pub fn from_bytes(content: &[u8; 96]) -> Result<Self, KeyError> {
        let (expanded, public) = content
            .split_first_chunk::<64>()
            .expect("96 is more than 64");
        let expanded = Zeroizing::new(*expanded);
        if clamp_integer(*scalar_of(&expanded)) != *scalar_of(&expanded) {
            return Err(KeyError::NotClamped);
        }
        let computed = public_half(&expanded).compress().0;
        if computed[..] != *public {
            return Err(KeyError::Mismatch);
        }
        Ok(Self {
            public: PublicKey::from_bytes(computed)?,
            expanded,
        })
    }

    /// Reads `ed25519_key.priv`. Text before the block is skipped, such as old keys that were
    /// commented out.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        Self::from_bytes(&*pem_content(text, PRIVATE_LABEL)?)
    }

    /// Returns the text of `ed25519_key.priv`; wiped from memory when dropped.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        let content = self.to_bytes();
        let mut pem = Zeroizing::new(String::with_capacity(256));
        pem.push_str("-----BEGIN ED25519 PRIVATE KEY-----\n");
        for half in content.chunks(48) {
            pem.push_str(&Zeroizing::new(base64::encode(half)));
            pem.push('\n');
        }
        pem.push_str("-----END ED25519 PRIVATE KEY-----\n");
        pem
    }

    /// Returns the content of tinc's key file, as in [`Self::from_bytes`].
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 96]> {
        let mut content = Zeroizing::new([0; 96]);
        content[..64].copy_from_slice(&*self.expanded);
        content[64..].copy_from_slice(&self.public.0);
        content
    }

    /// Returns the public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Returns the same key for X25519: the clamped scalar (proto/native-link.md section 1).
    #[must_use]
    pub fn x25519_secret(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(*scalar_of(&self.expanded))
    }

    /// Signs `message`.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE] {
        let secret = ExpandedSecretKey::from_bytes(&self.expanded);
        let public = VerifyingKey::from(&secret);
        raw_sign::<Sha512>(&secret, message, &public).to_bytes()
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "private half of {}", self.public)
    }
}

/// Ephemeral half of one side in a key agreement.
pub struct Ephemeral {
    scalar: Zeroizing<[u8; 32]>,
    public: [u8; 32],
}

impl Ephemeral {
    /// Makes the half of a 32-byte random seed, expanded like a private key.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self::from_expanded(&expand(seed))
    }

    /// Makes the half of an expanded seed: clamped scalar 32, and 32 bytes that are not used here.
    #[must_use]
    pub fn from_expanded(expanded: &[u8; 64]) -> Self {
        Self {
            public: public_half(expanded).compress().0,
            scalar: Zeroizing::new(*scalar_of(expanded)),
        }
    }

    /// Returns the public half, which is sent to the other side: a compressed Edwards point.
    #[must_use]
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// Returns the secret shared with the owner of `theirs`: X25519, never all zero.
    #[must_use]
    pub fn agree(&self, theirs: &EphemeralPublic) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(x25519_dalek::x25519(*self.scalar, theirs.0.to_bytes()))
    }
}

/// Public half of the other side in a key agreement: a point that always yields a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EphemeralPublic(MontgomeryPoint);

impl EphemeralPublic {
    /// Converts a compressed Edwards point to its Montgomery form, u = (1+y)/(1-y). `None` if it is
    /// no point of the curve, or a point of small order, with which the secret is always zero.
    #[must_use]
    pub fn parse(bytes: &[u8; 32]) -> Option<Self> {
        let point = decompress(bytes).filter(|point| !point.is_small_order())?;
        Some(Self(point.to_montgomery()))
    }
}

/// Expands a seed as in RFC 8032: SHA-512, the first half clamped.
fn expand(seed: &[u8; 32]) -> Zeroizing<[u8; 64]> {
    let mut expanded = Zeroizing::new([0; 64]);
    expanded.copy_from_slice(&Sha512::digest(seed));
    let clamped = Zeroizing::new(clamp_integer(*scalar_of(&expanded)));
    expanded[..32].copy_from_slice(&*clamped);
    expanded
}

fn scalar_of(expanded: &[u8; 64]) -> &[u8; 32] {
    expanded.first_chunk().expect("64 is more than 32")
}

fn public_half(expanded: &[u8; 64]) -> EdwardsPoint {
    EdwardsPoint::mul_base_clamped(*scalar_of(expanded))
}

/// Returns true if the y coordinate is below 2^255 - 19. The other form that is not canonical, a
/// sign of x = 0, is that of a point of small order.
fn is_canonical(bytes: &[u8; 32]) -> bool {
    let high = bytes[31] | 0x80 == 0xff && bytes[1..31].iter().all(|byte| *byte == 0xff);
    !high || bytes[0] < 0xed
}

fn decompress(bytes: &[u8; 32]) -> Option<EdwardsPoint> {
    CompressedEdwardsY(*bytes).decompress()
}

/// Returns the `N` bytes in the first PEM block with `label`; its lines may be broken anywhere.
fn pem_content<const N: usize>(
    text: &str,
    label: &'static str,
) -> Result<Zeroizing<[u8; N]>, KeyError> {
    let mut begin = String::new();
    write!(begin, "-----BEGIN {label}").expect("a string takes any text");
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&begin));
    lines.next().ok_or(KeyError::NoPem(label))?;

    let bad = KeyError::BadPem(label, N);
    // Allocated at full size, so no copy of a secret stays behind.
    let mut digits = Zeroizing::new(String::with_capacity(2 * N));
    for line in lines {
        if line.starts_with("-----END ") {
            let bytes = Zeroizing::new(base64::decode(&digits).ok_or(bad)?);
            let mut content = Zeroizing::new([0; N]);
            if bytes.len() != N {
                return Err(bad);
            }
            content.copy_from_slice(&bytes);
            return Ok(content);
        }
        let line = line.trim();
        if digits.len() + line.len() > 2 * N {
            return Err(bad);
        }
        digits.push_str(line);
    }
    Err(KeyError::CutShort(label))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(seed: u8) -> PrivateKey {
        PrivateKey::from_seed(&[seed; 32])
    }

    #[test]
    fn rfc8032_test_1_signs_and_verifies() {
        let seed = hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let key = PrivateKey::from_seed(&seed);
        let public = hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        assert_eq!(*key.public().as_bytes(), public);
        let signature = key.sign(b"");
        assert_eq!(
            signature[..32],
            hex::<32>("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155")
        );
        assert!(key.public().verify(b"", &signature));
        assert!(!key.public().verify(b"x", &signature));
    }

    /// T07: points that no valid key pair has.
    #[test]
    fn unsound_public_keys_are_refused() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(PublicKey::from_bytes(identity), Err(KeyError::SmallOrder));
        assert_eq!(PublicKey::from_bytes([0; 32]), Err(KeyError::SmallOrder));
        for torsion in &curve25519_dalek::constants::EIGHT_TORSION {
            let small = torsion.compress().0;
            assert_eq!(PublicKey::from_bytes(small), Err(KeyError::SmallOrder));
        }
        let mixed = public_half(&expand(&[1; 32])) + curve25519_dalek::constants::EIGHT_TORSION[1];
        let mixed = mixed.compress().0;
        assert_eq!(PublicKey::from_bytes(mixed), Err(KeyError::Torsion));
        let listed: PublicKey = base64::encode(&mixed).parse().unwrap();
        assert!(!listed.is_torsion_free());
        assert!(key(1).public().is_torsion_free());
        // y = p + 1: the identity again, in a form that is not canonical.
        let mut beyond = [0xff; 32];
        (beyond[0], beyond[31]) = (0xee, 0x7f);
        assert_eq!(PublicKey::from_bytes(beyond), Err(KeyError::NotAPoint));
        // y = 2 is on the twist.
        let mut twist = [0; 32];
        twist[0] = 2;
        assert_eq!(PublicKey::from_bytes(twist), Err(KeyError::NotAPoint));
    }

    /// T07: with another public half every signature would leak the scalar.
    #[test]
    fn a_private_key_with_a_foreign_public_half_is_refused() {
        let mut content = key(1).to_bytes();
        content[64..].copy_from_slice(key(2).public().as_bytes());
        let refused = PrivateKey::from_bytes(&content).map(|key| key.public());
        assert_eq!(refused, Err(KeyError::Mismatch));
        let mut content = key(1).to_bytes();
        content[0] |= 1;
        let refused = PrivateKey::from_bytes(&content).map(|key| key.public());
        assert_eq!(refused, Err(KeyError::NotClamped));
    }

    #[test]
    fn key_file_with_history_is_read_from_the_live_block() {
        let old = key(1).to_pem().replace("-----BEGIN", "#-----BEGIN");
        let old: String = old
            .lines()
            .map(|l| format!("#{}\n", l.trim_start_matches('#')))
            .collect();
        let text = format!("some words\n{old}{}trailing\n", *key(2).to_pem());
        let read = PrivateKey::from_pem(&text).unwrap();
        assert_eq!(read.public(), key(2).public());
        let crlf = text.replace('\n', "\r\n");
        assert_eq!(
            PrivateKey::from_pem(&crlf).unwrap().public(),
            key(2).public()
        );
    }

    #[test]
    fn torn_key_files_are_refused() {
        let pem = key(1).to_pem();
        for cut in 0..pem.len() - "-----\n".len() - "ED25519 PRIVATE KEY".len() {
            assert!(PrivateKey::from_pem(&pem[..cut]).is_err(), "{cut}");
        }
        let mut lines: Vec<_> = pem.lines().collect();
        lines.remove(1);
        let error = PrivateKey::from_pem(&lines.join("\n")).unwrap_err();
        assert_eq!(error, KeyError::BadPem(PRIVATE_LABEL, 96));
    }

    /// tinc 1.1 reads lines of every length that is a multiple of four.
    #[test]
    fn a_block_may_be_wrapped_anywhere() {
        let (private, public) = (key(1).to_pem(), key(1).public().to_string());
        let public =
            format!("-----BEGIN {PUBLIC_LABEL}-----\n{public}\n-----END {PUBLIC_LABEL}-----\n");
        for width in 1..=140 {
            let wrapped = crate::rsa::tests::wrapped(&private, &[width]);
            let read = PrivateKey::from_pem(&wrapped).unwrap();
            assert_eq!(read.public(), key(1).public(), "{width}");
            let wrapped = crate::rsa::tests::wrapped(&public, &[width]);
            assert_eq!(
                PublicKey::from_pem(&wrapped),
                Ok(key(1).public()),
                "{width}"
            );
        }
        let endless = format!("-----BEGIN {PUBLIC_LABEL}-----\n{}", "A\n".repeat(10_000));
        assert_eq!(
            PublicKey::from_pem(&endless),
            Err(KeyError::BadPem(PUBLIC_LABEL, 32))
        );
    }

    #[test]
    fn secrets_stay_out_of_debug_output() {
        let shown = format!("{:?}", key(1));
        assert_eq!(shown, format!("private half of {}", key(1).public()));
    }

    #[test]
    fn an_agreement_without_contribution_is_refused() {
        for torsion in &curve25519_dalek::constants::EIGHT_TORSION {
            assert_eq!(EphemeralPublic::parse(&torsion.compress().0), None);
        }
    }

    proptest! {
        #[test]
        fn keys_round_trip(seed: [u8; 32], message: Vec<u8>) {
            let key = PrivateKey::from_seed(&seed);
            let again = PrivateKey::from_pem(&key.to_pem()).unwrap();
            let public: PublicKey = key.public().to_string().parse().unwrap();
            prop_assert_eq!(public, again.public());
            prop_assert!(public.verify(&message, &again.sign(&message)));
        }

        #[test]
        fn no_text_panics(text: String, bytes: [u8; 32]) {
            let _ = PublicKey::from_base64(&text);
            let _ = PrivateKey::from_pem(&format!("-----BEGIN ED25519 PRIVATE KEY\n{text}"));
            let _ = PublicKey::from_bytes(bytes);
        }

        #[test]
        fn both_sides_agree(a: [u8; 32], b: [u8; 32]) {
            let (a, b) = (Ephemeral::from_seed(&a), Ephemeral::from_seed(&b));
            let public = |half: &Ephemeral| EphemeralPublic::parse(half.public()).unwrap();
            prop_assert_eq!(a.agree(&public(&b)), b.agree(&public(&a)));
        }
    }

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap();
        bytes.try_into().unwrap()
    }
}
