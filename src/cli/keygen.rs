//! `meshctl keygen`: a key pair where the daemon and the other nodes expect it.

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{
    cli::{
        Exit, Failure, Outcome,
        args::Format,
        context::Context,
        output::{self, Frame},
    },
    config::{self, host_path, keys},
    crypto::{PrivateKey, Rng},
    daemon::{clock, privileges},
    io::random,
};

/// Whom `meshd@.service` runs as. The group of this name does not do for keys: in it are those who may look.
const DAEMON: &str = "meshd";

#[derive(Serialize)]
struct Pair {
    private_key_file: String,
    public_key_file: String,
    public_key: String,
}

/// Writes `ed25519_key.priv`, and the public key into our host file, or into `ed25519_key.pub` where
/// there is no name yet. Older keys are commented out. Root gives the private key to the daemon's user.
/// With `keep`, a key that is there stays, and nothing is written.
pub(super) fn run(
    context: &Context,
    out: Option<PathBuf>,
    print_host: bool,
    keep: bool,
) -> Outcome {
    if let Some(out) = &out {
        fs::create_dir_all(out).map_err(|e| write_error(out, &e))?;
    }
    let source = context.source(out)?;
    let private = source.base.join("ed25519_key.priv");
    let name = config::own_name(&source).ok();
    let public = match &name {
        Some(name) => source.base.join(host_path(&source, name)),
        None => source.base.join("ed25519_key.pub"),
    };
    let kept = match keep {
        true => keys::kept_private(&private).map_err(|e| read_error(&private, &e))?,
        false => None,
    };
    let key = match kept {
        Some(key) => key,
        None => make(&private, &public)?,
    };
    let pair = Pair {
        private_key_file: private.display().to_string(),
        public_key_file: public.display().to_string(),
        public_key: key.public().to_string(),
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
        true => writeln!(out, "{}", keys::public_line(&public, &key.public())),
        false => writeln!(out, "{}\n{}", pair.private_key_file, pair.public_key_file),
    })?;
    Ok(Exit::Fine)
}

/// A new pair, in both files.
fn make(private: &Path, public: &Path) -> Result<PrivateKey, Failure> {
    let seed = random::seed().map_err(|error| {
        let text = format!("the system gives no randomness: {error}; look at `dmesg`");
        Failure::new(Exit::Negative, text)
    })?;
    let key = PrivateKey::generate(&mut Rng::new(seed));
    if let Some(dir) = public.parent() {
        fs::create_dir_all(dir).map_err(|e| write_error(public, &e))?;
    }
    let old = keys::write_private(private, &key).map_err(|e| write_error(private, &e))?;
    if let Some(daemon) = privileges::user_id(DAEMON) {
        // Who is not root makes keys for a daemon of their own.
        let _ = chown(private, Some(daemon), None);
    }
    keys::write_public(public, &key.public()).map_err(|e| write_error(public, &e))?;
    if old {
        output::complain("the old key is commented out; give all nodes the new one");
    }
    Ok(key)
}

fn read_error(path: &Path, error: &std::io::Error) -> Failure {
    let text = format!(
        "cannot read {}: {error}; without --keep a new key takes its place",
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
