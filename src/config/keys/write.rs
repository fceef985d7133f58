//! Writes keys into files, with old keys commented out.
//!
//! Source: config/tinc.md section 1.7.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use meshd_crypto::{PrivateKey, PublicKey, rsa::RsaPrivate};
use meshd_os::files::write_durable;

use super::read_private_file;
use crate::{files, tincconf, toml};

/// Mode of a private key file, and of a temporary file for it.
const PRIVATE_MODE: u32 = 0o600;
/// Mode of a new host file.
const HOST_MODE: u32 = 0o644;

/// Returns the file in which a new private key waits until both halves are written. A later run completes the pair.
#[must_use]
pub fn unfinished(private: &Path) -> PathBuf {
    beside(private, ".unfinished")
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}

/// Writes a new pair into its two files, so that a later run can complete an interrupted write. Returns true if an
/// older private key was disabled.
pub fn write_pair(private: &Path, public: &Path, key: &PrivateKey) -> io::Result<bool> {
    write_durable(&unfinished(private), key.to_pem().as_bytes(), PRIVATE_MODE)?;
    complete_pair(private, public, key)
}

/// Completes the rest of [`write_pair`].
pub fn complete_pair(private: &Path, public: &Path, key: &PrivateKey) -> io::Result<bool> {
    let line = public_line(public, &key.public());
    if !existing(public)?.lines().any(|there| there == line) {
        write_public(public, &key.public())?;
    }
    // A private key in its file means that the older one is already disabled.
    let disabled = match read_private_file(private) {
        Ok(Some(there)) if there.public() == key.public() => false,
        _ => write_private(private, key)?,
    };
    fs::remove_file(unfinished(private))?;
    Ok(disabled)
}

/// Removes temporary files of an interrupted write of this file.
pub fn forget_drafts(path: &Path) {
    let Some((dir, name)) = path.parent().zip(path.file_name()) else {
        return;
    };
    let start = format!("{}.new", name.to_string_lossy());
    for name in files::names(dir).unwrap_or_default() {
        let number = name.strip_prefix(&start).unwrap_or("x");
        if number.bytes().all(|byte| byte.is_ascii_digit()) {
            let _ = fs::remove_file(dir.join(name));
        }
    }
}

/// Writes a private key into `path` (mode 0600). Returns true if an older one was disabled.
pub fn write_private(path: &Path, key: &PrivateKey) -> io::Result<bool> {
    replace_private(path, Kind::Ed25519, &key.to_pem())
}

/// Writes a public key into the host file `path`. Returns true if an older one was disabled.
pub fn write_public(path: &Path, key: &PublicKey) -> io::Result<bool> {
    match toml::is_toml(path) {
        true => put_first(path, "ed25519", &public_line(path, key)),
        false => replace_public(
            path,
            Kind::Ed25519,
            &format!("{}\n", public_line(path, key)),
        ),
    }
}

/// Returns the line with a node's public key, in the form that the file's name implies.
#[must_use]
pub fn public_line(path: &Path, key: &PublicKey) -> String {
    match toml::is_toml(path) {
        true => format!("ed25519 = \"{key}\""),
        false => format!("Ed25519PublicKey = {key}"),
    }
}

/// Writes an RSA key of tinc 1.0 into `private` (mode 0600), and its public half into `public`, a host file or a
/// separate file. Returns true if an older one was disabled.
pub fn write_rsa(private: &Path, public: &Path, key: &RsaPrivate) -> io::Result<bool> {
    let disabled = replace_private(private, Kind::Rsa, &key.to_pem())?;
    let pem = key.public().to_pem();
    let old = match toml::is_toml(public) {
        true => put_first(public, "rsa", &format!("rsa = '''\n{pem}'''"))?,
        false => replace_public(public, Kind::Rsa, &pem)?,
    };
    Ok(old || disabled)
}

fn replace_private(path: &Path, kind: Kind, pem: &str) -> io::Result<bool> {
    let path = &behind_links(path);
    let (old, disabled) = disable_keys(&existing(path)?, kind);
    let text = Zeroizing::new([old.as_str(), pem].concat());
    write_durable(path, text.as_bytes(), PRIVATE_MODE)?;
    Ok(disabled)
}

fn replace_public(path: &Path, kind: Kind, text: &str) -> io::Result<bool> {
    let path = &behind_links(path);
    let (old, disabled) = disable_keys(&existing(path)?, kind);
    let mode = fs::metadata(path).map_or(HOST_MODE, |m| m.permissions().mode() & 0o777);
    write_durable(path, format!("{old}{text}").as_bytes(), mode)?;
    Ok(disabled)
}

/// Writes a TOML key at the front, before any table, and comments out the key that it replaces. Returns true if there
/// was one.
fn put_first(path: &Path, name: &str, line: &str) -> io::Result<bool> {
    let path = &behind_links(path);
    let old = existing(path)?;
    let is_it = |line: &str| {
        let value = line.strip_prefix(name).map(str::trim_start);
        value.is_some_and(|value| value.starts_with('='))
    };
    let (mut text, mut found, mut open) = (format!("{line}\n"), false, false);
    for line in old.lines() {
        let starts = !open && is_it(line);
        found |= starts;
        let disabled = open || starts;
        // The only multi-line value of such a key is PEM text.
        let marks = line.matches("'''").count() + line.matches("\"\"\"").count();
        open = disabled && open != (marks % 2 == 1);
        text.push_str(if disabled { "# " } else { "" });
        text.push_str(line);
        text.push('\n');
    }
    let mode = fs::metadata(path).map_or(HOST_MODE, |m| m.permissions().mode() & 0o777);
    write_durable(path, text.as_bytes(), mode)?;
    Ok(found)
}

/// Returns the target of a symbolic link: the target is replaced, and the link stays.
fn behind_links(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.into())
}

fn existing(path: &Path) -> io::Result<String> {
    match files::read_text(path) {
        Ok(bytes) => String::from_utf8(bytes).map_err(io::Error::other),
        Err(files::FileError::Missing) => Ok(String::new()),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Kinds of keys in a text.
#[derive(Clone, Copy)]
enum Kind {
    Ed25519,
    Rsa,
}

impl Kind {
    /// Returns the labels of its PEM blocks.
    const fn blocks(self) -> &'static [&'static str] {
        match self {
            Self::Ed25519 => &["ED25519 PRIVATE KEY", "ED25519 PUBLIC KEY"],
            Self::Rsa => &[
                "RSA PRIVATE KEY",
                "RSA PUBLIC KEY",
                "PRIVATE KEY",
                "PUBLIC KEY",
            ],
        }
    }

    /// Returns the variable that holds a public key.
    const fn variable(self) -> &'static str {
        match self {
            Self::Ed25519 => "Ed25519PublicKey",
            Self::Rsa => "PublicKey",
        }
    }
}

/// Returns the text with `#` before every line of a key of this kind, as tinc 1.1 disables keys, and true if there was
/// one. The text ends with a newline unless empty.
fn disable_keys(text: &str, kind: Kind) -> (String, bool) {
    let (mut out, mut in_block, mut disabled) = (String::new(), false, false);
    for line in text.lines() {
        let label = line.strip_prefix("-----BEGIN ").unwrap_or_default();
        let label = label.trim_end().strip_suffix("-----").unwrap_or_default();
        in_block |= kind.blocks().contains(&label);
        let is_line = tincconf::split(line)
            .0
            .eq_ignore_ascii_case(kind.variable());
        if in_block || is_line {
            out.push('#');
            disabled = true;
        }
        in_block &= !line.starts_with("-----END");
        out.push_str(line);
        out.push('\n');
    }
    (out, disabled)
}
