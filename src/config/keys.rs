//! Key files: reads them with a check of their mode; `write` writes them.
//!
//! Source: config/tinc.md section 1.7.

mod write;

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path};

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use zeroize::Zeroizing;

use meshd_crypto::{
    PrivateKey, PublicKey, ed25519::KeyError, noise::StaticPublic, rsa::RsaPrivate,
};

pub use write::{
    complete_pair, forget_drafts, public_line, unfinished, write_pair, write_private, write_public,
    write_rsa,
};

use crate::{Problem, files};

/// Returns the text of a private key file. A file mode that is too open causes a warning. `relative` is the name of the
/// file in messages.
pub(super) fn read_private_text(
    path: &Path,
    relative: &Path,
    strict: bool,
    problems: &mut Vec<Problem>,
) -> Option<Vec<u8>> {
    let bytes = match files::read_text(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let hint = hint(&error);
            problems.push(Problem::error(relative, 0, format!("{error}{hint}")));
            return None;
        }
    };
    let mode = fs::metadata(path).map_or(0, |m| m.permissions().mode());
    if mode & 0o077 != 0 {
        let text = format!(
            "other users may read it (mode {:03o}); chmod 600 it",
            mode & 0o777
        );
        problems.push(Problem {
            error: strict,
            ..Problem::warning(relative, 0, text)
        });
    }
    Some(bytes)
}

/// Returns the remedy for an unreadable private key.
fn hint(error: &files::FileError) -> &'static str {
    match error {
        files::FileError::Missing => "; `meshctl keygen` makes a key",
        files::FileError::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            "; meshd@.service runs as the user meshd: `chown meshd` it"
        }
        _ => "",
    }
}

/// Reads our private key; see [`read_private_text`].
pub(super) fn read_private(
    path: &Path,
    relative: &Path,
    strict: bool,
    problems: &mut Vec<Problem>,
) -> Option<PrivateKey> {
    let bytes = read_private_text(path, relative, strict, problems)?;
    match PrivateKey::from_pem(&String::from_utf8_lossy(&bytes)) {
        Ok(key) => Some(key),
        Err(error) => {
            let text = format!(
                "{error}; restore the file, or make a new key by `meshctl keygen --replace`"
            );
            problems.push(Problem::error(relative, 0, text));
            None
        }
    }
}

/// Reads 32 secret bytes as text: 64 hex digits, or base64 as `openssl rand -base64 32` and `wg genpsk` print it. A
/// file that other users may read is an error, unlike with tinc's key files. `relative` is its name in messages.
pub(super) fn read_secret(
    path: &Path,
    relative: &Path,
    problems: &mut Vec<Problem>,
) -> Option<Zeroizing<[u8; 32]>> {
    let read = files::read_text(path).map(Zeroizing::new);
    let mode = fs::metadata(path).map_or(0, |m| m.permissions().mode());
    let error = match read {
        // Only the operator can make such a file.
        Err(files::FileError::Missing) => files::FileError::Missing.to_string(),
        Err(error) => format!("{error}{}", hint(&error)),
        Ok(_) if mode & 0o077 != 0 => format!(
            "other users may read it (mode {:03o}); chmod 600 it, and make a new one",
            mode & 0o777
        ),
        Ok(text) => match secret(&text) {
            Some(secret) => return Some(secret),
            None => "the file does not hold 32 bytes as 44 characters of base64 or 64 hex digits; \
                     `openssl rand -base64 32` makes some"
                .into(),
        },
    };
    problems.push(Problem::error(relative, 0, error));
    None
}

fn secret(text: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let text = text.trim_ascii();
    let form = if text.len() == 64 {
        HEXLOWER_PERMISSIVE
    } else {
        BASE64
    };
    let bytes = Zeroizing::new(form.decode(text).ok()?);
    let mut secret = Zeroizing::new([0; 32]);
    if bytes.len() != secret.len() || bytes.iter().all(|byte| *byte == 0) {
        return None;
    }
    secret.copy_from_slice(&bytes);
    Some(secret)
}

/// Returns the public key in the first block `ED25519 PUBLIC KEY` of a file; `None` without such a block.
pub(super) fn public_block(bytes: &[u8]) -> Option<Result<PublicKey, String>> {
    match PublicKey::from_pem(&String::from_utf8_lossy(bytes)) {
        Err(KeyError::NoPem(_)) => None,
        found => Some(found.map_err(|error| error.to_string())),
    }
}

/// Parses the public key of a host file's line.
pub(super) fn public_key(text: &str) -> Result<PublicKey, String> {
    PublicKey::from_base64(text).map_err(|error| format!("Ed25519PublicKey: {error}"))
}

/// Parses the next public key of a host file's line.
pub(super) fn next_key(text: &str) -> Result<PublicKey, String> {
    PublicKey::from_base64(text).map_err(|error| format!("Ed25519PublicKeyNext: {error}"))
}

/// Parses the native key of a host file's line.
pub(super) fn native_key(text: &str) -> Result<StaticPublic, String> {
    StaticPublic::from_base64(text).ok_or_else(|| {
        "NativePublicKey is not an X25519 key of 43 characters from A-Z a-z 0-9 + /".into()
    })
}

/// Returns the private key in the file `path`; `None` if the file is missing or holds only comments.
pub fn read_private_file(path: &Path) -> io::Result<Option<PrivateKey>> {
    let bytes = match files::read_text(path) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(files::FileError::Missing) => return Ok(None),
        Err(files::FileError::Io(error)) => return Err(error),
        Err(error) => return Err(io::Error::other(error)),
    };
    let text = String::from_utf8_lossy(&bytes);
    let has_content = |line: &str| !line.trim().is_empty() && !line.starts_with('#');
    if !text.lines().any(has_content) {
        return Ok(None);
    }
    let key = PrivateKey::from_pem(&text).map_err(io::Error::other)?;
    Ok(Some(key))
}

/// True if the file holds an active RSA private key.
#[must_use]
pub fn has_rsa(path: &Path) -> bool {
    let text = files::read_text(path).map(Zeroizing::new);
    text.is_ok_and(|text| RsaPrivate::from_pem(&String::from_utf8_lossy(&text)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_crypto::{Rng, rsa::RsaPublic};

    fn key(seed: u8) -> PrivateKey {
        PrivateKey::generate(&mut Rng::new([seed; 32]))
    }

    #[test]
    fn a_new_key_disables_the_old_one_and_keeps_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("a");
        fs::write(
            &host,
            "Address = 10.0.0.1\ned25519publickey=old\nPort = 7\n",
        )
        .unwrap();
        assert!(write_public(&host, &key(1).public()).unwrap());
        let text = fs::read_to_string(&host).unwrap();
        let line = format!("Ed25519PublicKey = {}\n", key(1).public());
        assert_eq!(
            text,
            format!("Address = 10.0.0.1\n#ed25519publickey=old\nPort = 7\n{line}")
        );

        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        write_public(&dir.path().join("link"), &key(2).public()).unwrap();
        assert!(dir.path().join("link").is_symlink());
        assert!(
            fs::read_to_string(&host)
                .unwrap()
                .contains(&key(2).public().to_string())
        );

        let private = dir.path().join("ed25519_key.priv");
        assert!(!write_private(&private, &key(1)).unwrap());
        assert!(write_private(&private, &key(2)).unwrap());
        assert_eq!(
            fs::metadata(&private).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let mut problems = Vec::new();
        let read = read_private(&private, &private, false, &mut problems).unwrap();
        assert_eq!(read.public(), key(2).public());
        assert_eq!(problems, []);
    }

    #[test]
    fn rsa_keys_and_ed25519_keys_leave_each_other_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (host, private) = (dir.path().join("a"), dir.path().join("rsa_key.priv"));
        fs::write(&host, "Port = 7\nPublicKey = C0FFEE\n").unwrap();
        write_public(&host, &key(1).public()).unwrap();
        let mut rng = Rng::new([1; 32]);
        let [old, new] = [(); 2].map(|()| RsaPrivate::generate(1024, &mut rng).unwrap());
        assert!(write_rsa(&private, &host, &old).unwrap());
        assert!(write_rsa(&private, &host, &new).unwrap());
        let text = fs::read_to_string(&host).unwrap();
        assert!(
            text.starts_with("Port = 7\n#PublicKey = C0FFEE\nEd25519PublicKey = "),
            "{text}"
        );
        assert_eq!(RsaPublic::from_pem(&text), Ok(new.public()));
        assert_eq!(text.matches("\n#-----BEGIN").count(), 1);
        let text = fs::read_to_string(&private).unwrap();
        assert_eq!(RsaPrivate::from_pem(&text).unwrap().public(), new.public());
        write_public(&host, &key(2).public()).unwrap();
        assert_eq!(
            RsaPublic::from_pem(&fs::read_to_string(&host).unwrap()),
            Ok(new.public())
        );
    }

    #[test]
    fn a_key_that_others_may_read_is_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        write_private(&path, &key(1)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let mut problems = Vec::new();
        assert!(read_private(&path, Path::new("k"), false, &mut problems).is_some());
        assert_eq!(
            problems[0].to_string(),
            "k: other users may read it (mode 640); chmod 600 it"
        );
        assert!(!problems[0].error);
    }

    #[test]
    fn a_key_of_somebody_else_says_whose_it_should_be() {
        let denied = files::FileError::Io(io::ErrorKind::PermissionDenied.into());
        assert!(hint(&denied).contains("`chown meshd`"));
        assert_eq!(hint(&files::FileError::Binary), "");
    }

    #[test]
    fn a_public_block_holds_the_text_of_the_line() {
        let key = key(1).public();
        let block = format!(
            "x\n-----BEGIN ED25519 PUBLIC KEY-----\n{key}\n-----END ED25519 PUBLIC KEY-----\n"
        );
        assert_eq!(public_block(block.as_bytes()), Some(Ok(key)));
        assert_eq!(public_block(b"Port = 1\n"), None);
        assert!(matches!(
            public_block(b"-----BEGIN ED25519 PUBLIC KEY-----\nxyz\n"),
            Some(Err(_))
        ));
    }
}
