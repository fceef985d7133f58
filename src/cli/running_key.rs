//! Compares the key of the running daemon with the key in its file. The daemon keeps the key that it read at its start.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use meshd_api::{RUN_DIR, call, client::Client, proto::DaemonStatus};
use meshd_config::{Source, keys};
use meshd_crypto::PublicKey;
use meshd_proto::link::Dialect;

use crate::context::Context;

/// Longest wait for the daemon's answer. The caller does not depend on it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Returns the daemon that runs with this configuration directory, if it runs and we may ask it.
pub(super) fn daemon_of(context: &Context, base: &Path) -> Option<DaemonStatus> {
    let base = fs::canonicalize(base).ok()?;
    let mut sockets: Vec<PathBuf> = context.named_socket().into_iter().collect();
    if sockets.is_empty() {
        let all = fs::read_dir(RUN_DIR).into_iter().flatten().flatten();
        let all = all.map(|entry| entry.path());
        sockets.extend(all.filter(|path| path.extension().is_some_and(|end| end == "sock")));
    }
    sockets.iter().find_map(|socket| {
        let mut client = Client::connect(socket, PATIENCE).ok()?;
        let status = client.ask(call::Status {}).ok()?.response;
        let same = fs::canonicalize(&status.config).is_ok_and(|of| of == base);
        same.then_some(*status)
    })
}

/// Returns the file with another key than the running one, and the running key. If we cannot read the private key, the
/// public key of our host file counts.
pub(super) fn other_than_running(status: &DaemonStatus) -> Option<(PathBuf, PublicKey)> {
    let source = Source {
        base: PathBuf::from(&status.config),
        ..Source::default()
    };
    let is_no = || {
        let line = meshd_config::place_of(&source, None, "ExperimentalProtocol");
        line.is_some_and(|(_, _, value)| value.eq_ignore_ascii_case("no"))
    };
    let private = meshd_config::private_path(&source);
    let (file, key) = match keys::read_private_file(&private) {
        Ok(key) => (private, key?.public()),
        Err(_) => {
            let name = meshd_config::own_name(&source).ok()?;
            let file = source.base.join(meshd_config::host_path(&source, &name));
            (file, meshd_config::own_public(&source)?)
        }
    };
    let running = PublicKey::from_base64(&status.public_key).ok()?;
    // Without SPTPS the daemon uses a placeholder key that never leaves it.
    let stands_in = status.offers == Some(Dialect::Legacy) && is_no();
    if running == key || stands_in {
        return None;
    }
    Some((file, running))
}
