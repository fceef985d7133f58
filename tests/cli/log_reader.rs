//! A log whose reader hangs: a pipe that nobody empties.

use std::{
    fs,
    io::Read,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use meshd::config::keys;
use rustix::process::{Pid, Signal, kill_process};

use crate::{ended, key, meshctl};

/// Bytes that the pipe holds: a page, so that it is full soon.
const ROOM: usize = 4096;
/// How long what takes no time may take on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(30);

fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(start.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_daemon_whose_log_nobody_reads_answers_and_stops() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path();
    fs::create_dir(base.join("hosts")).unwrap();
    let conf = "Name = web_01\nDeviceType = dummy\nBindToAddress = 127.0.0.1 0\nMetricsListen = no\nPort = 0\n";
    fs::write(base.join("tinc.conf"), conf).unwrap();
    keys::write_private(&base.join("ed25519_key.priv"), &key(1)).unwrap();
    let host = format!("Ed25519PublicKey = {}\n", key(1).public());
    fs::write(base.join("hosts/web_01"), host).unwrap();
    let (mut read, write) = std::io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&write, ROOM).unwrap();
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_meshd"))
        .args(["-c", base.to_str().unwrap(), "-D", "--pidfile"])
        .arg(base.join("pid"))
        .env("MESHD_SANDBOX", "kill")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(write)
        .spawn()
        .unwrap();
    let pid = Pid::from_child(&daemon);
    let status = || {
        let (base, file) = (base.to_str().unwrap(), base.join("pid"));
        let asked = ["-c", base, "--pidfile", file.to_str().unwrap(), "status"];
        ended(meshctl(&asked).output().unwrap()).0
    };
    wait("it is up", || (status() == 0).then_some(()));
    for _ in 0..300 {
        kill_process(pid, Signal::USR1).unwrap();
        thread::sleep(Duration::from_millis(2));
    }
    let answers = status();
    kill_process(pid, Signal::TERM).unwrap();
    let start = Instant::now();
    let stopped = loop {
        match daemon.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if start.elapsed() > PATIENCE => break None,
            None => thread::sleep(Duration::from_millis(20)),
        }
    };
    let _ = daemon.kill();
    let _ = daemon.wait();
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert!(text.len() > ROOM / 2, "the pipe was not full: {text}");
    assert_eq!(answers, 0, "status beside a full pipe");
    assert!(
        stopped.is_some_and(|status| status.success()),
        "{stopped:?}"
    );
    assert!(text.contains("meshd starting"), "{text}");
}
