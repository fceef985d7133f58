//! Variables of tinc 1.0's legacy protocol: RSA keys, cipher, digest, MAC and compression.
//!
//! Source: config/tinc.md section 2, wire/tinc-1.0.md sections 1.4 and 8.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use meshd_crypto::{
    compress::{MAX_LEGACY, MAX_LEVEL},
    rsa::{RsaError, RsaPrivate, RsaPublic, WEAK_BITS},
    suite::{Cipher, Digest},
};
use meshd_proto::tunnel::legacy::Suite;

use crate::{
    Problem, files, keys,
    merged::{Entry, Tree},
    reader::Reader,
};

/// Default of PrivateKeyFile in tinc.
pub(super) const PRIVATE_KEY: &str = "rsa_key.priv";

/// Reads a node's RSA key: the number, else the named file, else the block in the host file. An invalid one is a
/// problem, and an error if `needed`: if the node has no other key.
pub(super) fn public_key(
    tree: &Tree,
    base: &Path,
    relative: &Path,
    own_text: &[u8],
    needed: bool,
    problems: &mut Vec<Problem>,
) -> Option<RsaPublic> {
    let of_file = |text: &[u8]| RsaPublic::from_pem(&String::from_utf8_lossy(text));
    let (found, place) = if let Some(entry) = tree.first("PublicKey") {
        let key = RsaPublic::from_hex(&entry.value).map_err(|error| format!("PublicKey {error}"));
        (key, entry.clone())
    } else if let Some(entry) = tree.first("PublicKeyFile") {
        let key = files::read_text(&base.join(&entry.value))
            .map_err(|error| format!("{}: {error}", entry.value))
            .and_then(|text| of_file(&text).map_err(|error| format!("{} {error}", entry.value)));
        (key, entry.clone())
    } else {
        let place = Entry {
            file: relative.into(),
            ..Entry::default()
        };
        match of_file(own_text) {
            Err(RsaError::NoPem) => return None,
            found => (found.map_err(|error| error.to_string()), place),
        }
    };
    match found {
        Ok(key) => {
            if key.bits() < WEAK_BITS {
                let text = format!(
                    "its RSA key of {} bits is weak; make a longer one",
                    key.bits()
                );
                problems.push(place.warning(text));
            }
            Some(key)
        }
        Err(text) if needed => {
            problems.push(place.error(text));
            None
        }
        Err(text) => {
            problems.push(place.warning(format!("{text}; the key is not used")));
            None
        }
    }
}

/// Returns the name of our private key file, and true if the configuration names it.
pub(super) fn private_key_file(tree: &Tree) -> (PathBuf, bool) {
    match tree.first("PrivateKeyFile") {
        Some(entry) => (PathBuf::from(&entry.value), true),
        None => (PRIVATE_KEY.into(), false),
    }
}

/// Reads our RSA private key: the number, which needs the public number beside it, or the file.
pub(super) fn private_key(
    tree: &Tree,
    path: &Path,
    relative: &Path,
    problems: &mut Vec<Problem>,
) -> Option<RsaPrivate> {
    if let Some(entry) = tree.first("PrivateKey") {
        let public = tree
            .first("PublicKey")
            .map(|entry| RsaPublic::from_hex(&entry.value));
        let key = match public {
            Some(public) => public
                .and_then(|public| RsaPrivate::from_hex(&entry.value, &public))
                .map_err(|error| format!("PrivateKey {error}")),
            None => Err("PrivateKey needs its PublicKey in our host file".into()),
        };
        return key.map_err(|text| problems.push(entry.error(text))).ok();
    }
    let text = Zeroizing::new(keys::read_private_text(
        path,
        relative,
        tree.is_toml(),
        problems,
    )?);
    match RsaPrivate::from_pem(&String::from_utf8_lossy(&text)) {
        Ok(key) => Some(key),
        Err(error) => {
            let text = format!("{error}; restore the file, or make a new key");
            problems.push(Problem::error(relative, 0, text));
            None
        }
    }
}

/// Reads the suite of packets to this node.
pub(super) fn suite(reader: &mut Reader<'_>) -> Suite {
    let usual = Suite::default_of_tinc();
    let cipher = reader.one("Cipher", |name| {
        or_none(name, Cipher::by_name).ok_or_else(|| {
            format!(
                "meshd does not support Cipher = {name}, or its keystream repeats; use aes-256-cbc, \
                 or see the manual for others"
            )
        })
    });
    let digest = reader.one("Digest", |name| {
        or_none(name, Digest::by_name)
            .ok_or_else(|| format!("meshd does not support Digest = {name}; use sha256 or sha512"))
    });
    let cipher = cipher.unwrap_or(usual.cipher);
    let digest = digest.unwrap_or(usual.digest);
    let size = digest.map_or(0, |digest| digest.size);
    let most = i32::try_from(size).unwrap_or(0);
    // Without a digest any length is valid, as in tinc: there is no MAC.
    let most = if digest.is_none() { i32::MAX } else { most };
    let mac = reader.number_if("MACLength", 0, most);
    let mac = mac.map_or(usual.mac, |mac| mac.unsigned_abs() as usize);
    let level = reader.number("Compression", 0, MAX_LEVEL.into());
    if let (true, Some(entry)) = (level > MAX_LEGACY.into(), reader.tree.first("Compression")) {
        // Observed with 1.1~pre18: it drops the key, and after a minute the link.
        let text = "Compression = 12 is LZ4: a tinc 1.1 without LZ4, such as Debian's, refuses our keys; use 1 to 9";
        reader.problems.push(entry.warning(text));
    }
    Suite {
        cipher,
        digest,
        mac: mac.min(size),
        compression: u8::try_from(level).unwrap_or(0),
    }
}

/// Returns true if the host file allows packets without a MAC.
pub(super) fn null_digest(reader: &mut Reader<'_>) -> bool {
    let digest = reader.tree.first("Digest");
    digest.is_some_and(|entry| entry.value.eq_ignore_ascii_case("none"))
        || reader.int("MACLength") == Some(0)
}

#[expect(clippy::option_option, reason = "no cipher is not an unknown cipher")]
fn or_none<T>(name: &str, find: impl Fn(&str) -> Option<&'static T>) -> Option<Option<&'static T>> {
    match name.eq_ignore_ascii_case("none") {
        true => Some(None),
        false => find(name).map(Some),
    }
}
