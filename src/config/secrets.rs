//! Our secrets: reads them, and compares their public halves with our host file.
//!
//! Source: config/tinc.md section 1.7.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{Access, access},
    io::Errno,
};
use zeroize::Zeroizing;

use meshd_crypto::{PrivateKey, noise::StaticSecret, rsa::RsaPrivate};
use meshd_wire::NodeName;

use crate::{Config, Problem, Source, host, keys, legacy, merged::Tree};

/// Default of Ed25519PrivateKeyFile in tinc.
pub(super) const ED25519_KEY: &str = "ed25519_key.priv";

/// Our secrets.
pub(super) struct Secrets {
    pub(super) key: Arc<PrivateKey>,
    /// True if `key` is not a placeholder.
    pub(super) sptps: bool,
    pub(super) rsa: Option<Arc<RsaPrivate>>,
    pub(super) native: Arc<StaticSecret>,
    pub(super) psk: Zeroizing<[u8; 32]>,
}

/// Reads our secrets; `None` if one that is needed is missing or unreadable.
pub(super) fn secrets(
    source: &Source,
    tree: &Tree,
    last: Option<&Config>,
    experimental: Option<bool>,
    problems: &mut Vec<Problem>,
) -> Option<Secrets> {
    let named = |variable| tree.first(variable).map(|e| PathBuf::from(&e.value));
    let last = last.map(|last| &last.settings);
    let rsa = own_rsa(
        source,
        tree,
        last.and_then(|last| last.rsa.as_ref()),
        problems,
    )?;
    let relative = ed25519_file(tree);
    // A directory of tinc 1.0 has no such file. Then meshd acts as a 1.0, as tinc 1.1 does.
    let missing = experimental.is_none() && !source.base.join(&relative).exists();
    let sptps = experimental != Some(false) && !(missing && rsa.is_some());
    if missing && !sptps {
        let text = "no such file, so this node speaks only the legacy protocol of tinc 1.0; `meshctl keygen` makes a key";
        problems.push(Problem::warning(&relative, 0, text));
    }
    if keys::unfinished(&source.base.join(&relative)).exists() {
        let text = "a new key pair is incomplete; `meshctl keygen` completes it";
        problems.push(Problem::warning(&relative, 0, text));
    }
    let key = match (sptps, &rsa) {
        (true, _) => read_or_keep(source, &relative, last.map(|last| &last.key), |path| {
            keys::read_private(path, &relative, tree.is_toml(), problems).map(Arc::new)
        }),
        // A placeholder that never leaves the daemon. It is as secret as the RSA key, and equal at every reload.
        (false, Some(rsa)) => Some(Arc::new(PrivateKey::from_seed(&rsa.stand_in_seed()))),
        (false, None) => {
            let text = "ExperimentalProtocol = no needs rsa_key.priv, which does not exist; remove the line, or restore that file";
            problems.extend(
                tree.first("ExperimentalProtocol")
                    .map(|entry| entry.error(text)),
            );
            None
        }
    };
    let native = named("NativePrivateKeyFile").map(|relative| {
        read_or_keep(source, &relative, last.map(|last| &last.secret), |path| {
            let secret = keys::read_secret(path, &relative, problems)?;
            Some(Arc::new(StaticSecret::from_bytes(secret)))
        })
    });
    let psk = named("PresharedKeyFile").map(|relative| {
        read_or_keep(source, &relative, last.map(|last| &last.psk), |path| {
            keys::read_secret(path, &relative, problems)
        })
    });
    let key = key?;
    Some(Secrets {
        sptps,
        rsa,
        native: native.unwrap_or_else(|| Some(Arc::new(StaticSecret::of(&key))))?,
        psk: psk.unwrap_or_else(|| Some(Zeroizing::default()))?,
        key,
    })
}

/// Reads our RSA key, if it exists. Outer `None`: it exists and is invalid.
#[expect(
    clippy::option_option,
    reason = "no RSA key is legal, a bad one is not"
)]
fn own_rsa(
    source: &Source,
    tree: &Tree,
    last: Option<&Arc<RsaPrivate>>,
    problems: &mut Vec<Problem>,
) -> Option<Option<Arc<RsaPrivate>>> {
    let (relative, named) = legacy::private_key_file(tree);
    let wanted = named || tree.first("PrivateKey").is_some();
    if !wanted && !source.base.join(&relative).exists() {
        return Some(None);
    }
    let key = read_or_keep(source, &relative, last, |path| {
        legacy::private_key(tree, path, &relative, problems).map(Arc::new)
    });
    key.map(Some)
}

/// Warns if our host file has other public keys than ours, because other nodes then refuse us.
pub(super) fn check_own_keys(
    source: &Source,
    name: &NodeName,
    secrets: &Secrets,
    tree: &Tree,
    problems: &mut Vec<Problem>,
) {
    check_own_rsa(source, name, secrets, tree, problems);
    if secrets.sptps {
        check_own_key(source, name, &secrets.key, tree, problems);
        check_native_key(source, name, &secrets.native, tree, problems);
    }
}

/// Warns if the RSA key in our host file is not ours, because other nodes then refuse us in legacy.
fn check_own_rsa(
    source: &Source,
    name: &NodeName,
    secrets: &Secrets,
    tree: &Tree,
    problems: &mut Vec<Problem>,
) {
    let Some(private) = &secrets.rsa else { return };
    let relative = host::host_path(source, name);
    let text = host::pem_text(source, &relative);
    let public = legacy::public_key(tree, &source.base, &relative, &text, false, problems);
    let text = match public {
        Some(key) if key == private.public() => return,
        Some(_) => {
            "its RSA public key does not match our private key, so other nodes refuse this node in legacy"
        }
        // Only a node without another key needs an RSA key there.
        None if secrets.sptps => return,
        None => "it has no RSA public key, so other nodes cannot verify this node",
    };
    problems.push(Problem::warning(&relative, 0, text));
}

/// Reads a secret file, or keeps its value from the start: after -U, a reload may lack the permission to read it.
fn read_or_keep<T: Clone>(
    source: &Source,
    relative: &Path,
    last: Option<&T>,
    read: impl FnOnce(&Path) -> Option<T>,
) -> Option<T> {
    let path = source.base.join(relative);
    match last {
        Some(last) if access(&path, Access::READ_OK) == Err(Errno::ACCESS) => Some(last.clone()),
        _ => read(&path),
    }
}

/// Warns if the public key in our host file is not ours, because other nodes then refuse us.
fn check_own_key(
    source: &Source,
    name: &NodeName,
    private: &PrivateKey,
    tree: &Tree,
    problems: &mut Vec<Problem>,
) {
    let relative = host::host_path(source, name);
    let text = host::pem_text(source, &relative);
    let mut found = Vec::new();
    let public = host::key(tree, &source.base, &relative, &text, &mut found);
    // Other nodes use our own host file: its key problems do not stop us.
    problems.extend(found.into_iter().map(|problem| Problem {
        error: false,
        ..problem
    }));
    let text = match public {
        Some(Some(key)) if key == private.public() => return,
        Some(Some(_)) => {
            "its Ed25519PublicKey does not match our private key, so other nodes refuse this node"
        }
        _ => "it has no Ed25519PublicKey, so other nodes cannot verify this node",
    };
    let text = format!("{text}; it should be {}", private.public());
    problems.push(Problem::warning(&relative, 0, text));
}

/// Warns if our host file shows another native key, because other nodes then refuse our native links.
fn check_native_key(
    source: &Source,
    name: &NodeName,
    secret: &StaticSecret,
    tree: &Tree,
    problems: &mut Vec<Problem>,
) {
    let ours = secret.public();
    let matches = tree
        .first("NativePublicKey")
        .map(|entry| keys::native_key(&entry.value) == Ok(ours));
    let text = match (matches, tree.first("NativePrivateKeyFile").is_some()) {
        (Some(true), _) | (None, false) => return,
        (Some(false), true) => {
            format!("its NativePublicKey does not match our key; it should be {ours}")
        }
        (Some(false), false) => {
            "its NativePublicKey has no NativePrivateKeyFile; remove the line".into()
        }
        (None, true) => format!("it has no NativePublicKey; it should be {ours}"),
    };
    problems.push(Problem::warning(&host::host_path(source, name), 0, text));
}

/// Returns the file of our Ed25519 key.
pub(super) fn ed25519_file(tree: &Tree) -> PathBuf {
    let named = tree.first("Ed25519PrivateKeyFile");
    named.map_or_else(|| ED25519_KEY.into(), |entry| (&entry.value).into())
}
