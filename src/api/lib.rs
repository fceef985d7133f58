//! The control socket: requests and responses, one JSON object per line.

pub mod call;
pub mod change;
pub mod client;
pub mod codec;
pub mod proto;
pub mod report;
pub mod rows;
pub mod why;

use std::path::{Path, PathBuf};

/// Directory of control sockets and pid files.
pub const RUN_DIR: &str = "/run/meshd";

/// Returns the control socket of the daemon of `net`, or of the one that was started with `--pidfile`.
/// Without a pid file it is `NET.sock` or `meshd.sock` in [`RUN_DIR`]. Beside a pid file, `.meshd.sock`
/// replaces a final `.pid`, or is appended. tinc's own socket there is `.socket`.
#[must_use]
pub fn socket_path(net: Option<&str>, pidfile: Option<&Path>) -> PathBuf {
    let Some(pidfile) = pidfile else {
        let net = net.unwrap_or("meshd");
        return Path::new(RUN_DIR).join(format!("{net}.sock"));
    };
    let name = pidfile.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.strip_suffix(".pid").unwrap_or(&name);
    pidfile.with_file_name(format!("{stem}.meshd.sock"))
}

/// Returns the metrics socket that belongs to this control socket by default.
#[must_use]
pub fn metrics_path(socket: &Path) -> PathBuf {
    // Not `.sock`: that suffix marks a control socket.
    socket.with_extension("metrics")
}

/// Returns the pid file of the daemon of `net` without `--pidfile`.
#[must_use]
pub fn pid_path(net: Option<&str>) -> PathBuf {
    let net = net.unwrap_or("meshd");
    Path::new(RUN_DIR).join(format!("{net}.pid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_follow_the_net_or_the_pid_file() {
        let socket = |net, pidfile: Option<&str>| socket_path(net, pidfile.map(Path::new));
        assert_eq!(
            socket(Some("priv"), None),
            Path::new("/run/meshd/priv.sock")
        );
        assert_eq!(socket(None, None), Path::new("/run/meshd/meshd.sock"));
        assert_eq!(
            socket(Some("priv"), Some("/t/a.pid")),
            Path::new("/t/a.meshd.sock")
        );
        assert_eq!(socket(None, Some("/t/pid")), Path::new("/t/pid.meshd.sock"));
        assert_eq!(pid_path(Some("priv")), Path::new("/run/meshd/priv.pid"));
    }
}
