//! `meshctl keygen`: makes a key pair in the files that the daemon and other nodes expect.

use meshd_os::users;
use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
};

use rustix::fs::FlockOperation;
use serde::Serialize;

use meshd_config::{host_path, keys};
use meshd_crypto::{PrivateKey, PublicKey, Rng};
use meshd_os::{clock, random};

use crate::{
    Exit, Failure, Outcome,
    args::Format,
    context::Context,
    output::{self, Frame},
};

/// The user of `meshd@.service`. The group `meshd` must not read keys: monitoring users are in that group.
const DAEMON: &str = "meshd";

#[derive(Serialize)]
struct Pair {
    private_key_file: String,
    public_key_file: String,
    public_key: String,
    /// The step that was done.
    done: Done,
}

/// Result of keygen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Done {
    /// The key existed and was kept.
    Kept,
    /// A new key was made.
    Made,
    /// A new key was made and the old one was disabled.
    Replaced,
    /// An incomplete pair was completed.
    Completed,
}

/// Treatment of an existing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExistingKey {
    /// Refuse with an error.
    Refuse,
    /// Print the public key, and write only missing parts.
    Keep,
    /// Make a new key.
    Replace,
}

/// Files of the pair.
struct Files {
    private: PathBuf,
    public: PathBuf,
}

/// Writes the private key, and the public key into our host file, or into `ed25519_key.pub` if no name is set. As root,
/// gives the private key to the daemon's user. Replaces an existing key only on request, and comments it out. Always
/// completes the work of an interrupted run first.
pub(super) fn run(
    context: &Context,
    out: Option<PathBuf>,
    print_host: bool,
    existing: ExistingKey,
) -> Outcome {
    if let Some(out) = &out {
        fs::create_dir_all(out).map_err(|e| write_error(out, &e))?;
    }
    let source = context.source(out)?;
    let name = meshd_config::own_name(&source).ok();
    let files = Files {
        private: meshd_config::private_path(&source),
        public: match &name {
            Some(name) => source.base.join(host_path(&source, name)),
            None => source.base.join("ed25519_key.pub"),
        },
    };
    let published = name
        .as_ref()
        .and_then(|_| meshd_config::own_public(&source));
    let (key, done) = pair(&files, existing, published)?;
    let Files { private, public } = &files;
    match done {
        Done::Kept | Done::Made => {}
        Done::Completed => output::complain(&format!(
            "the key pair was incomplete: its public key is now in {}; copy that file to all nodes",
            public.display()
        )),
        Done::Replaced => output::complain(&format!(
            "the old key is commented out in {0} and {1}, and stays in use until the daemon restarts. Give all nodes {1} before \
             that. To go back, delete the new key in both files and take the # off the old one",
            private.display(),
            public.display()
        )),
    }
    let pair = Pair {
        private_key_file: private.display().to_string(),
        public_key_file: public.display().to_string(),
        public_key: key.public().to_string(),
        done,
    };
    if context.format == Format::Json {
        let time = clock::rfc3339(clock::wall());
        let node = name.as_ref().map(|name| name.as_str());
        let frame = Frame {
            net: source.net.as_deref(),
            node,
            time: &time,
        };
        return output::json("keygen", &frame, &pair);
    }
    output::print(|out| match print_host {
        true => writeln!(out, "{}", keys::public_line(public, &key.public())),
        false => writeln!(out, "{}\n{}", pair.private_key_file, pair.public_key_file),
    })?;
    Ok(Exit::Fine)
}

/// Makes or completes the pair, and returns the step that was done. `published` is the public key in our files.
fn pair(
    files: &Files,
    existing: ExistingKey,
    published: Option<PublicKey>,
) -> Result<(PrivateKey, Done), Failure> {
    let Files { private, public } = files;
    // The lock excludes other writers, so leftover files come from an interrupted run.
    let _lock = lock(private);
    let draft = keys::unfinished(private);
    for path in [private, public, &draft] {
        keys::forget_drafts(path);
    }
    match keys::read_private_file(&draft) {
        Ok(Some(key)) => {
            finish(files, |private, public| {
                keys::complete_pair(private, public, &key)
            })?;
            return Ok((key, Done::Completed));
        }
        Ok(None) => {}
        Err(error) => return Err(read_error(&draft, &error)),
    }
    let key = match keys::read_private_file(private) {
        Err(error) if existing != ExistingKey::Replace => return Err(read_error(private, &error)),
        Err(_) | Ok(None) => None,
        Ok(Some(key)) => Some(key),
    };
    match (key, existing) {
        (Some(key), ExistingKey::Keep | ExistingKey::Refuse)
            if published.is_none() && !shows(public, &key) =>
        {
            finish(files, |_, public| keys::write_public(public, &key.public()))?;
            Ok((key, Done::Completed))
        }
        (Some(key), ExistingKey::Keep) => Ok((key, Done::Kept)),
        (Some(_), ExistingKey::Refuse) => {
            let text = format!(
                "{} holds a key already, so nothing was written; `meshctl keygen --keep` prints the public key, \
                 `meshctl keygen --replace` makes another one",
                private.display()
            );
            Err(Failure::new(Exit::Refused, text))
        }
        (old, _) => {
            let key = make()?;
            let disabled = finish(files, |private, public| {
                keys::write_pair(private, public, &key)
            })?;
            match disabled || old.is_some() {
                true => Ok((key, Done::Replaced)),
                false => Ok((key, Done::Made)),
            }
        }
    }
}

/// True if a file other than a host file holds the public key.
fn shows(public: &Path, key: &PrivateKey) -> bool {
    let text = fs::read_to_string(public).unwrap_or_default();
    let line = keys::public_line(public, &key.public());
    text.lines().any(|there| there == line)
}

/// Locks the directory while the returned file lives. `None` if the directory does not exist.
fn lock(private: &Path) -> Option<fs::File> {
    let dir = fs::File::open(private.parent()?).ok()?;
    rustix::fs::flock(&dir, FlockOperation::LockExclusive).ok()?;
    Some(dir)
}

/// Writes into both files.
fn finish(
    files: &Files,
    write: impl FnOnce(&Path, &Path) -> std::io::Result<bool>,
) -> Result<bool, Failure> {
    let Files { private, public } = files;
    for dir in [private, public]
        .into_iter()
        .filter_map(|file| file.parent())
    {
        fs::create_dir_all(dir).map_err(|e| write_error(dir, &e))?;
    }
    let disabled = write(private, public).map_err(|e| write_error(private, &e))?;
    if let Some(daemon) = users::user_id(DAEMON) {
        // Only root can give the key to the daemon's user. Other users keep it.
        let _ = chown(private, Some(daemon), None);
    }
    Ok(disabled)
}

fn make() -> Result<PrivateKey, Failure> {
    let seed = random::seed().map_err(|error| {
        let text = format!("cannot get random numbers from the system: {error}; check `dmesg`");
        Failure::new(Exit::Negative, text)
    })?;
    Ok(PrivateKey::generate(&mut Rng::new(seed)))
}

fn read_error(path: &Path, error: &std::io::Error) -> Failure {
    let text = format!(
        "cannot read {}: {error}; restore it, or `meshctl keygen --replace` makes another key",
        path.display()
    );
    Failure::new(exit(error), text)
}

fn exit(error: &std::io::Error) -> Exit {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => Exit::Permission,
        _ => Exit::Negative,
    }
}

fn write_error(path: &Path, error: &std::io::Error) -> Failure {
    let text = format!(
        "cannot write {}: {error}; name another directory: `meshctl keygen --out DIR`",
        path.display()
    );
    Failure::new(exit(error), text)
}
