//! meshd by the name of tincd, as init scripts and ifupdown call it. Needs no privileges: the device is
//! DeviceType = dummy.
//!
//! Source: config/tinc.md sections 4.1 to 4.3.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "waits for a real daemon; helpers of tests fail like tests"
)]

use std::{
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use meshd::{
    config::keys,
    crypto::{PrivateKey, Rng},
};

/// A net with one node, and the program by its other name.
struct Net {
    dir: tempfile::TempDir,
}

impl Net {
    fn new(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("conf");
        fs::create_dir_all(conf.join("hosts")).unwrap();
        let text = format!(
            "Name = web_01\nDeviceType = dummy\nPort = 0\nBindToAddress = 127.0.0.1 0\n{more}"
        );
        fs::write(conf.join("tinc.conf"), text).unwrap();
        let key = PrivateKey::generate(&mut Rng::new([7; 32]));
        keys::write_private(&conf.join("ed25519_key.priv"), &key).unwrap();
        keys::write_public(&conf.join("hosts/web_01"), &key.public()).unwrap();
        symlink(env!("CARGO_BIN_EXE_meshctl"), dir.path().join("tincd")).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Calls it with its files and these options.
    fn tincd(&self, options: &[&str]) -> Output {
        let path = |name| self.path(name).display().to_string();
        Command::new(self.path("tincd"))
            .args(["-c", &path("conf"), "--pidfile", &path("pid")])
            .arg(format!("--logfile={}", path("log")))
            .args(options)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn pid(&self) -> Option<String> {
        let text = fs::read_to_string(self.path("pid")).ok()?;
        Some(text.split_whitespace().next()?.to_owned())
    }
}

impl Drop for Net {
    /// Whatever a failed test has left running.
    fn drop(&mut self) {
        if self.pid().is_some() {
            self.tincd(&["-kKILL"]);
        }
    }
}

fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "not so: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn said(output: &Output) -> (Option<i32>, String) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), text)
}

#[test]
fn it_goes_into_the_background_and_obeys_signals_by_k() {
    let net = Net::new("");
    fs::write(net.path("conf/tinc-up"), "#!/bin/sh\nsleep 1\n").unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(net.path("conf/tinc-up"), executable).unwrap();

    let (code, text) = said(&net.tincd(&["-d2"]));
    assert_eq!((code, text.as_str()), (Some(0), ""));
    let pid = net
        .pid()
        .expect("there before the command ends, as ifupdown wants it");
    // It leads its own session: nothing that ends the terminal's ends it.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session = stat.rsplit_once(") ").unwrap().1.split(' ').nth(3).unwrap();
    assert_eq!(session, pid);
    for (number, file) in [(0, "/dev/null"), (1, "/dev/null"), (2, "/dev/null")] {
        let target = fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap();
        assert_eq!(target.to_str(), Some(file), "{number}");
    }

    let (code, text) = said(&net.tincd(&[]));
    assert_eq!(code, Some(1));
    assert!(
        text.contains(&format!("A tincd is already running with pid {pid}")),
        "{text}"
    );
    assert_eq!(net.pid().as_ref(), Some(&pid), "the first one's file stays");

    assert_eq!(said(&net.tincd(&["-kUSR2"])), (Some(0), String::new()));
    wait("USR2 logs the graph", || net.log().contains("web_01"));
    assert_eq!(said(&net.tincd(&["-k"])), (Some(0), String::new()));
    wait("it stops and removes its pid file", || net.pid().is_none());
    wait("it is gone", || {
        !PathBuf::from(format!("/proc/{pid}")).exists()
    });

    let (code, text) = said(&net.tincd(&["-k"]));
    assert_eq!(
        (code, text.as_str()),
        (Some(1), "No other tincd is running.\n")
    );
    fs::write(net.path("pid"), "999999999\n").unwrap();
    let (code, text) = said(&net.tincd(&["-n", "priv", "-kHUP"]));
    assert_eq!(code, Some(0));
    assert!(
        text.contains("for net `priv' is no longer running"),
        "{text}"
    );
    assert_eq!(net.pid(), None);
}

#[test]
fn what_cannot_start_says_so_on_the_terminal() {
    let net = Net::new("Nonsense\n");
    fs::write(net.path("conf/hosts/web_01"), "Ed25519PublicKey = short\n").unwrap();
    let (code, text) = said(&net.tincd(&[]));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("hosts/web_01"), "{text}");
    assert_eq!(net.pid(), None);

    // Found only once it is in the background: the port is taken.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let net = Net::new("");
    let text = fs::read_to_string(net.path("conf/tinc.conf")).unwrap();
    let text = text.replace("127.0.0.1 0", &format!("127.0.0.1 {port}"));
    fs::write(net.path("conf/tinc.conf"), text).unwrap();
    let (code, text) = said(&net.tincd(&[]));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.starts_with("tincd: "), "{text}");
    assert_eq!(net.pid(), None);
}

#[test]
fn with_d_it_stays_in_the_foreground() {
    let net = Net::new("");
    let mut child = Command::new(net.path("tincd"))
        .args(["-D", "-c"])
        .arg(net.path("conf"))
        .arg("--pidfile")
        .arg(net.path("pid"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait("its pid file is there", || net.pid().is_some());
    assert_eq!(net.pid(), Some(child.id().to_string()));
    assert_eq!(net.tincd(&["-kTERM"]).status.code(), Some(0));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn its_version_says_which_tincd_it_stands_for() {
    let net = Net::new("");
    let output = net.tincd(&["--version"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("tinc version 1.0.36 (meshd "), "{text}");
}

#[test]
fn big_k_makes_an_rsa_key_without_asking() {
    let net = Net::new("");
    let host = net.path("conf/hosts/web_01");
    for (option, times) in [("-K1024", 0), ("--generate-keys=1031", 1)] {
        let (code, text) = said(&net.tincd(&[option]));
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("RSA key of 1024 bits"), "{text}");
        let text = fs::read_to_string(&host).unwrap();
        assert!(text.contains("\nEd25519PublicKey = ") || text.starts_with("Ed25519PublicKey"));
        assert_eq!(
            text.matches("\n-----BEGIN RSA PUBLIC KEY-----").count(),
            1,
            "{text}"
        );
        assert_eq!(
            text.matches("#-----BEGIN RSA PUBLIC KEY-----").count(),
            times,
            "{text}"
        );
    }
    let mode = fs::metadata(net.path("conf/rsa_key.priv")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&mode.permissions());
    assert_eq!(mode & 0o777, 0o600);
    // And it is one that a daemon takes, with a word about its length.
    let (code, text) = said(&net.tincd(&[]));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("is weak"), "{text}");
    assert_eq!(said(&net.tincd(&["-k"])), (Some(0), String::new()));
    let (code, text) = said(&net.tincd(&["-K512"]));
    assert_eq!(code, Some(1));
    assert!(text.contains("1024 to 8192"), "{text}");
}
