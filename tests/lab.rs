//! `meshctl lab` end to end: as root, as an ordinary user, and cut off in the middle.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Output, Stdio},
};

use meshd_testing::skip;
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;

const MESHCTL: &str = env!("CARGO_BIN_EXE_meshctl");

fn is_root() -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        skip("root", "this lab is root's");
    }
    is_root
}

fn check(output: &Output, nodes: usize) {
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!(
            "{error}: {text} {}",
            String::from_utf8_lossy(&output.stderr)
        )
    });
    let steps = report["steps"].as_array().unwrap();
    // The reason last: where a long panic is cut, its end is what is left.
    let failed: Vec<&Value> = steps.iter().filter(|step| step["ok"] != true).collect();
    assert!(failed.is_empty(), "{report:#}\n{failed:#?}");
    assert_eq!(report["schema"], "meshctl.lab/1");
    assert_eq!(report["ok"], true);
    assert!(output.status.success(), "{:?}", output.status);

    let names: Vec<&str> = steps
        .iter()
        .map(|step| step["name"].as_str().unwrap())
        .collect();
    let expected = [
        "world",
        "wire",
        "keys",
        "daemons",
        "ping",
        "tap",
        "transfer",
        "ciphertext",
        "silence",
        "peers",
        "teardown",
    ];
    assert_eq!(names, expected);
    assert_eq!(
        report["pings"].as_array().unwrap().len(),
        nodes * (nodes - 1)
    );
    assert!(report["transfer"]["bytes"].as_u64().unwrap() > 0);
    let tenant = &report["tenant"];
    assert!(tenant["control_seen"].as_u64().unwrap() > 0, "{tenant}");
    assert_eq!(tenant["secret_seen"], 0);
    assert_eq!(tenant["bytes_answered"], 0);
    let peers = report["peers"].as_object().unwrap();
    assert_eq!(peers.len(), nodes);
    assert!(
        peers
            .values()
            .all(|rows| rows.as_array().unwrap().len() == nodes - 1),
        "{peers:?}"
    );
}

#[test]
fn every_step_holds_as_root() {
    if !is_root() {
        return;
    }
    check(
        &Command::new(MESHCTL)
            .args(["lab", "--json"])
            .output()
            .unwrap(),
        3,
    );
}

#[test]
fn every_step_holds_with_another_number_of_droplets() {
    if !is_root() {
        return;
    }
    check(
        &Command::new(MESHCTL)
            .args(["lab", "--json", "--nodes", "5"])
            .output()
            .unwrap(),
        5,
    );
}

/// Run by root in a mount namespace of its own, where `/dev/net/tun` is open to all (as udev makes
/// it on most machines), and handed down to an ordinary user.
const AS_USER: &str = "set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 lab-test /mnt
mknod -m 666 /mnt/tun c 10 200
touch /dev/net/tun
mount --bind /mnt/tun /dev/net/tun
cp \"$1\" /mnt/meshctl
cd /
exec setpriv --reuid 65534 --regid 65534 --clear-groups /mnt/meshctl lab --json";

#[test]
fn every_step_holds_as_an_ordinary_user() {
    let output = if geteuid().is_root() {
        Command::new("unshare")
            .args(["-m", "sh", "-c", AS_USER, "sh", MESHCTL])
            .output()
            .unwrap()
    } else if fs::OpenOptions::new()
        .write(true)
        .read(true)
        .open("/dev/net/tun")
        .is_err()
    {
        return skip("tun", "/dev/net/tun is not open to ordinary users");
    } else {
        Command::new(MESHCTL)
            .args(["lab", "--json"])
            .output()
            .unwrap()
    };
    check(&output, 3);
}

/// Starts a lab and returns when its daemons run.
fn start_and_wait_for_daemons() -> Child {
    let mut lab = Command::new(MESHCTL)
        .args(["lab", "--keep"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(lab.stdout.take().unwrap()).lines();
    let mut seen = Vec::new();
    for line in lines.map_while(Result::ok) {
        seen.push(line);
        if seen
            .last()
            .is_some_and(|line| line.contains("daemons start"))
        {
            assert!(seen.iter().all(|line| line.starts_with('✓')), "{seen:#?}");
            // Reading ends here and closes the pipe: the lab must bear that.
            return lab;
        }
    }
    panic!("the lab ended with {:?}: {seen:#?}", lab.wait());
}

/// Processes whose command line names the files of the lab started by process `outside`.
fn processes_of(outside: u32) -> Vec<String> {
    let directory = format!("meshd-lab-{outside}/");
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    processes
        .filter_map(|process| fs::read_to_string(process.path().join("cmdline")).ok())
        .filter(|words| words.contains(&directory))
        .collect()
}

#[test]
fn nothing_is_left_after_ctrl_c() {
    if !is_root() {
        return;
    }
    let mut lab = start_and_wait_for_daemons();
    assert_eq!(processes_of(lab.id()).len(), 3);
    kill_process(Pid::from_child(&lab), Signal::INT).unwrap();
    assert_eq!(lab.wait().unwrap().code(), Some(130));
    assert_eq!(processes_of(lab.id()), Vec::<String>::new());
    assert!(!fs::exists(format!("/run/meshd-lab-{}", lab.id())).unwrap());
}

#[test]
fn nothing_is_left_when_the_lab_is_killed() {
    if !is_root() {
        return;
    }
    let mut lab = start_and_wait_for_daemons();
    assert_eq!(processes_of(lab.id()).len(), 3);
    lab.kill().unwrap();
    lab.wait().unwrap();
    // The kernel ends the others in its own time; a lab that leaves one behind hangs here.
    while !processes_of(lab.id()).is_empty() {
        std::thread::yield_now();
    }
}
