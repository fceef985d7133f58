//! Raw RSA for links of tinc 1.0: a number of the modulus' length, no padding.
//!
//! Source: wire/tinc-1.0.md sections 1.4 and 1.5. The private operation is constant in time,
//! blinded and checked (T06 of proto/threat-model.md).

use std::fmt;

use data_encoding::{BASE64_NOPAD, HEXUPPER_PERMISSIVE};
use rsa::{
    BoxedUint, RsaPrivateKey, RsaPublicKey,
    hazmat::{rsa_decrypt_and_check, rsa_encrypt},
    pkcs1::{
        DecodeRsaPrivateKey, DecodeRsaPublicKey, EncodeRsaPrivateKey, EncodeRsaPublicKey,
        LineEnding,
    },
    pkcs8::{DecodePrivateKey, DecodePublicKey},
    traits::{PrivateKeyParts, PublicKeyParts},
};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::Rng;

/// Shortest accepted modulus, in bits. Source: T07 of proto/threat-model.md.
pub const MIN_BITS: u32 = 1024;
/// Longest modulus, in bits: its METAKEY has 2,048 digits. Source: wire/tinc-1.0.md section 1.4.
pub const MAX_BITS: u32 = 8192;
/// Length in bits below which a modulus counts as weak today.
pub const WEAK_BITS: u32 = 2048;
/// Exponent of keys written as `PublicKey = HEX`. Source: wire/tinc-1.0.md section 1.4.
const HEX_EXPONENT: u32 = 0xffff;

/// Reason why a key is not usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RsaError {
    /// The text contains no RSA key.
    #[error("holds no RSA key in PEM form")]
    NoPem,
    /// The text contains an RSA key that cannot be read.
    #[error("holds an RSA key that is damaged")]
    Damaged,
    /// Not the hexadecimal digits of a modulus or exponent.
    #[error("is no RSA key in hexadecimal digits")]
    NoHex,
    /// Shorter than [`MIN_BITS`] or longer than [`MAX_BITS`], an even modulus or exponent, or an exponent of 1.
    #[error(
        "is no RSA key that is fit for use: 1024 to 8192 bits, odd modulus, odd exponent of at least 3"
    )]
    Unfit,
    /// The halves of a private key do not match.
    #[error("is an RSA key whose halves do not belong together")]
    Mismatch,
}

/// Public RSA key of a node.
#[derive(Clone, PartialEq, Eq)]
pub struct RsaPublic(RsaPublicKey);

impl RsaPublic {
    /// Reads the first RSA public key in a text: PKCS#1 or SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// [`RsaError`] if there is none, or it is damaged or unfit.
    pub fn from_pem(text: &str) -> Result<Self, RsaError> {
        let (label, der) = block(text, &["RSA PUBLIC KEY", "PUBLIC KEY"])?;
        let key = match label {
            "RSA PUBLIC KEY" => RsaPublicKey::from_pkcs1_der(&der).ok(),
            _ => RsaPublicKey::from_public_key_der(&der).ok(),
        };
        Self::fit(key.ok_or(RsaError::Damaged)?)
    }

    /// Reads a key of the obsolete form `PublicKey = HEX`: the modulus, with the exponent 65535.
    ///
    /// # Errors
    /// [`RsaError`] if the text is no number, or the key is unfit.
    pub fn from_hex(text: &str) -> Result<Self, RsaError> {
        let key = RsaPublicKey::new(number(text)?, BoxedUint::from(HEX_EXPONENT));
        Self::fit(key.map_err(|_| RsaError::Unfit)?)
    }

    fn fit(key: RsaPublicKey) -> Result<Self, RsaError> {
        let odd = |n: &BoxedUint| n.to_be_bytes().last().is_some_and(|byte| byte % 2 == 1);
        let bits = key.n().bits();
        let fits = (MIN_BITS..=MAX_BITS).contains(&bits)
            && odd(key.n().as_ref())
            && odd(key.e())
            && *key.e() != BoxedUint::one();
        fits.then_some(Self(key)).ok_or(RsaError::Unfit)
    }

    /// Returns the length of the modulus in bytes: the length of everything that is made for this
    /// key.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.size()
    }

    /// Returns the length of the modulus in bits.
    #[must_use]
    pub fn bits(&self) -> u32 {
        self.0.n().bits()
    }

    /// Returns `message`^e, big endian, of [`Self::size`] bytes. `None` unless `message` has that
    /// length and is below the modulus.
    #[must_use]
    pub fn encrypt(&self, message: &[u8]) -> Option<Vec<u8>> {
        let message = integer(&self.0, message)?;
        let sealed = rsa_encrypt(&self.0, &message).ok()?;
        Some(bytes(&sealed, self.size()).to_vec())
    }
}

impl RsaPublic {
    /// Returns the key in the form of tinc 1.0: PKCS#1, PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let pem = self.0.to_pkcs1_pem(LineEnding::LF);
        pem.expect("a fit key can be written")
    }
}

impl fmt::Debug for RsaPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RSA public key of {} bits", self.bits())
    }
}

/// Our private key.
pub struct RsaPrivate(RsaPrivateKey);

impl RsaPrivate {
    /// Generates a key with a modulus of [`MIN_BITS`] to [`MAX_BITS`] bits and the exponent 65537.
    ///
    /// # Errors
    /// [`RsaError::Unfit`] for another length.
    pub fn generate(bits: u32, rng: &mut Rng) -> Result<Self, RsaError> {
        if !(MIN_BITS..=MAX_BITS).contains(&bits) {
            return Err(RsaError::Unfit);
        }
        let key = RsaPrivateKey::new(rng.crypto(), bits as usize);
        Self::fit(key.map_err(|_| RsaError::Unfit)?)
    }

    /// Returns the key in the form of tinc 1.0: PKCS#1, PEM.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        let pem = self.0.to_pkcs1_pem(LineEnding::LF);
        pem.expect("a fit key can be written")
    }

    /// Reads the first RSA private key in a text: PKCS#1 or PKCS#8, not encrypted.
    ///
    /// # Errors
    /// [`RsaError`] if there is none, it is damaged or unfit, or its halves do not match.
    pub fn from_pem(text: &str) -> Result<Self, RsaError> {
        let (label, der) = block(text, &["RSA PRIVATE KEY", "PRIVATE KEY"])?;
        let key = match label {
            "RSA PRIVATE KEY" => RsaPrivateKey::from_pkcs1_der(&der).ok(),
            _ => RsaPrivateKey::from_pkcs8_der(&der).ok(),
        };
        Self::fit(key.ok_or(RsaError::Damaged)?)
    }

    /// Reads a key of the obsolete form: `PrivateKey = HEX` is d, the modulus is that of
    /// `PublicKey`.
    ///
    /// # Errors
    /// [`RsaError`] if the text is no number, or the key is unfit or does not match the public key.
    pub fn from_hex(text: &str, public: &RsaPublic) -> Result<Self, RsaError> {
        let (n, e) = (public.0.n().as_ref().clone(), public.0.e().clone());
        let key = RsaPrivateKey::from_components(n, e, number(text)?, Vec::new());
        Self::fit(key.map_err(|_| RsaError::Mismatch)?)
    }

    fn fit(key: RsaPrivateKey) -> Result<Self, RsaError> {
        key.validate().map_err(|_| RsaError::Mismatch)?;
        RsaPublic::fit(key.to_public_key())?;
        Ok(Self(key))
    }

    /// Returns 32 bytes that only the holder of this key can know: a replacement for another
    /// private key.
    #[must_use]
    pub fn stand_in_seed(&self) -> [u8; 32] {
        let d = Zeroizing::new(self.0.d().to_be_bytes());
        let hash = Sha256::new()
            .chain_update(b"meshd stand-in")
            .chain_update(&d);
        hash.finalize().into()
    }

    /// Returns the public half.
    #[must_use]
    pub fn public(&self) -> RsaPublic {
        RsaPublic(self.0.to_public_key())
    }

    /// Inverts [`RsaPublic::encrypt`]. `rng` blinds the operation. `None` unless `sealed` has the
    /// length of the modulus and is below it.
    #[must_use]
    pub fn decrypt(&self, sealed: &[u8], rng: &mut Rng) -> Option<Zeroizing<Vec<u8>>> {
        let sealed = integer(&self.0, sealed)?;
        let message = rsa_decrypt_and_check(&self.0, Some(rng.crypto()), &sealed).ok()?;
        Some(bytes(&message, self.0.size()))
    }
}

impl fmt::Debug for RsaPrivate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RSA private key of {} bits", self.0.n().bits())
    }
}

/// Reads a number of exactly the modulus' length.
fn integer(key: &impl PublicKeyParts, bytes: &[u8]) -> Option<BoxedUint> {
    let number = BoxedUint::from_be_slice(bytes, key.n_bits_precision()).ok()?;
    (bytes.len() == key.size() && number < *key.n().as_ref()).then_some(number)
}

/// Returns the last `size` bytes of a number, big endian.
fn bytes(number: &BoxedUint, size: usize) -> Zeroizing<Vec<u8>> {
    let whole = Zeroizing::new(number.to_be_bytes());
    let mut bytes = Zeroizing::new(vec![0; size.saturating_sub(whole.len())]);
    bytes.extend_from_slice(&whole[whole.len().saturating_sub(size)..]);
    bytes
}

fn number(text: &str) -> Result<BoxedUint, RsaError> {
    let text = text.trim();
    let even = match text.len() % 2 {
        0 => text.to_owned(),
        _ => format!("0{text}"),
    };
    let bytes = Zeroizing::new(
        HEXUPPER_PERMISSIVE
            .decode(even.as_bytes())
            .map_err(|_| RsaError::NoHex)?,
    );
    let bits = u32::try_from(bytes.len() * 8).map_err(|_| RsaError::Unfit)?;
    match bits {
        1..=MAX_BITS => BoxedUint::from_be_slice(&bytes, bits).map_err(|_| RsaError::NoHex),
        _ => Err(RsaError::Unfit),
    }
}

/// Returns the bytes in the first PEM block with one of these labels; its lines may be broken
/// anywhere. Both tincs read keys with OpenSSL, which accepts lines of any length. Blanks, and text
/// behind `=`, are ignored. The rest of a host file is not PEM, nor are lines that start with `#`.
fn block<'l>(text: &str, labels: &[&'l str]) -> Result<(&'l str, Zeroizing<Vec<u8>>), RsaError> {
    let find = |label: &&'l str| {
        let begin = format!("-----BEGIN {label}-----");
        let mut places = text.match_indices(&begin).map(|(place, _)| place);
        let at_line = |place: &usize| {
            text[..*place]
                .bytes()
                .next_back()
                .is_none_or(|b| b == b'\n')
        };
        Some((places.find(at_line)? + begin.len(), *label))
    };
    let (start, label) = labels
        .iter()
        .filter_map(find)
        .min()
        .ok_or(RsaError::NoPem)?;
    let end = format!("-----END {label}-----");
    let length = text[start..].find(&end).ok_or(RsaError::NoPem)?;
    let text = &text[start..start + length];
    let mut digits = Zeroizing::new(String::with_capacity(length));
    digits.extend(
        text.chars()
            .filter(|c| !c.is_ascii_whitespace())
            .take_while(|c| *c != '='),
    );
    let bytes = BASE64_NOPAD.decode(digits.as_bytes());
    Ok((label, bytes.map_err(|_| RsaError::Damaged)?.into()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Makes a PEM block with lines of these lengths in turn.
    pub(crate) fn wrapped(pem: &str, widths: &[usize]) -> String {
        let lines: Vec<&str> = pem.lines().collect();
        let [begin, body @ .., end] = &lines[..] else {
            panic!("{pem}");
        };
        let (mut rest, mut widths) = (body.concat(), widths.iter().cycle());
        let mut out = format!("{begin}\n");
        while !rest.is_empty() {
            let width = rest.len().min(*widths.next().unwrap());
            out.extend([&rest[..width], "\n"]);
            rest.drain(..width);
        }
        out + end + "\n"
    }

    fn vectors() -> serde_json::Value {
        let text = include_str!("../../tests/vectors/tinc-1.0.json");
        serde_json::from_str(text).unwrap()
    }

    fn pem(half: &str) -> String {
        vectors()["rsa_keys"]["alpha"][half]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// Every form of a key reads as the same key.
    #[test]
    fn forms_of_a_key() {
        use rsa::pkcs8::{EncodePrivateKey, EncodePublicKey, LineEnding};
        let private = RsaPrivate::from_pem(&pem("private_pem")).unwrap();
        let public = private.public();
        let pkcs8 = private.0.to_pkcs8_pem(LineEnding::CRLF).unwrap();
        assert_eq!(RsaPrivate::from_pem(&pkcs8).unwrap().public(), public);
        let spki = public.0.to_public_key_pem(LineEnding::LF).unwrap();
        let host = format!("Address = 10.0.0.1\n{spki}\nSubnet = 10.0.0.0/8\n");
        assert_eq!(RsaPublic::from_pem(&host), Ok(public.clone()));
        let host = format!("Port = 7\r\n{}x", pem("public_pem").replace('\n', "\r\n"));
        assert_eq!(RsaPublic::from_pem(&host), Ok(public));
    }

    /// A tinc 1.0.36 and a 1.1 read all of these.
    #[test]
    fn a_block_may_be_wrapped_anywhere() {
        use rsa::pkcs8::{EncodePrivateKey, EncodePublicKey};
        let private = RsaPrivate::from_pem(&pem("private_pem")).unwrap();
        let public = private.public();
        let pkcs8 = private.0.to_pkcs8_pem(LineEnding::LF).unwrap();
        let spki = public.0.to_public_key_pem(LineEnding::LF).unwrap();
        let widths = [
            1, 4, 32, 60, 63, 64, 65, 66, 72, 76, 77, 79, 100, 128, 256, 10_000,
        ];
        let widths = widths.map(|width| vec![width]).into_iter();
        for widths in widths.chain([vec![64, 10, 77, 64, 3], vec![10, 64, 76], vec![20, 64, 64]]) {
            for text in [pem("public_pem"), spki.clone()] {
                let text = wrapped(&text, &widths);
                assert_eq!(RsaPublic::from_pem(&text), Ok(public.clone()), "{widths:?}");
                let host = format!(
                    "Port = 7\n{}Subnet = 10.0.0.1\n",
                    text.replace('\n', " \t\r\n")
                );
                assert_eq!(RsaPublic::from_pem(&host), Ok(public.clone()), "{widths:?}");
            }
            for text in [&pem("private_pem"), &*pkcs8] {
                let read = RsaPrivate::from_pem(&wrapped(text, &widths)).unwrap();
                assert_eq!(read.public(), public, "{widths:?}");
            }
        }
        let text = pem("public_pem");
        let lines: Vec<&str> = text.lines().collect();
        let at = |at: usize, line: &str| {
            let mut lines = lines.clone();
            lines.insert(at, line);
            lines.join("\n")
        };
        for blank in [1, 2, lines.len() - 1] {
            assert_eq!(
                RsaPublic::from_pem(&at(blank, "")),
                Ok(public.clone()),
                "{blank}"
            );
        }
        assert_eq!(
            RsaPublic::from_pem(&at(lines.len() - 1, "AAAA")).is_ok(),
            text.contains('=')
        );
        assert_eq!(RsaPublic::from_pem(&text.replace('=', "")), Ok(public));
        for (place, line) in [(1, "Proc-Type: 4,ENCRYPTED"), (2, "#x"), (2, "AAAA")] {
            assert_eq!(
                RsaPublic::from_pem(&at(place, line)),
                Err(RsaError::Damaged),
                "{line}"
            );
        }
    }

    #[test]
    fn a_new_key_is_fit_and_reads_as_it_was_written() {
        let mut rng = Rng::new([5; 32]);
        let key = RsaPrivate::generate(1024, &mut rng).unwrap();
        assert_eq!(key.public().bits(), 1024);
        let again = RsaPrivate::from_pem(&key.to_pem()).unwrap();
        assert_eq!(again.public(), key.public());
        assert_eq!(
            RsaPublic::from_pem(&key.public().to_pem()),
            Ok(key.public())
        );
        for bits in [512, 1023, 8193] {
            assert_eq!(
                RsaPrivate::generate(bits, &mut rng).unwrap_err(),
                RsaError::Unfit
            );
        }
    }

    #[test]
    fn numbers_in_hexadecimal_have_the_old_exponent() {
        let private = RsaPrivate::from_pem(&pem("private_pem")).unwrap();
        let hex = |n: &BoxedUint| HEXUPPER_PERMISSIVE.encode(&n.to_be_bytes());
        let public = RsaPublic::from_hex(&hex(private.0.n().as_ref())).unwrap();
        assert_eq!(public.0.n(), private.0.n());
        assert_eq!(*public.0.e(), BoxedUint::from(65_535_u32));
        assert_eq!(RsaPublic::from_hex("xyz"), Err(RsaError::NoHex));
        assert_eq!(RsaPublic::from_hex(""), Err(RsaError::Unfit));
        // d of another exponent.
        let d = hex(private.0.d());
        assert!(RsaPrivate::from_hex(&d, &public).is_err());
        let again = RsaPrivate::from_hex(&d, &private.public()).unwrap();
        assert_eq!(again.public(), private.public());
    }

    /// T07.
    #[test]
    fn unfit_keys_are_refused() {
        let odd = "C".repeat(255) + "1";
        assert!(RsaPublic::from_hex(&odd).is_ok());
        for text in [
            odd.replace("1", "2"),
            "C".repeat(127) + "1",
            "1".repeat(2050),
        ] {
            assert_eq!(RsaPublic::from_hex(&text), Err(RsaError::Unfit), "{text}");
        }
        assert_eq!(RsaPublic::from_pem("Port = 1\n"), Err(RsaError::NoPem));
        let torn = pem("public_pem").replace('M', "!");
        assert_eq!(RsaPublic::from_pem(&torn), Err(RsaError::Damaged));
        let half = pem("private_pem");
        assert_eq!(
            RsaPrivate::from_pem(&half[..half.len() / 2]).unwrap_err(),
            RsaError::NoPem
        );
    }

    #[test]
    fn only_numbers_below_the_modulus_are_taken() {
        let private = RsaPrivate::from_pem(&pem("private_pem")).unwrap();
        let public = private.public();
        let mut rng = Rng::new([3; 32]);
        for message in [vec![0xff; 256], vec![0; 255], vec![0; 257], Vec::new()] {
            assert_eq!(public.encrypt(&message), None);
            assert_eq!(private.decrypt(&message, &mut rng), None);
        }
        let mut message = vec![0x7f; 256];
        message[..2].fill(0);
        let sealed = public.encrypt(&message).unwrap();
        assert_eq!(*private.decrypt(&sealed, &mut rng).unwrap(), message);
    }
}
