//! What the daemon has given up while it works, and what scripts still have (T50 to T52 of security.md).

use std::{fs, thread, time::Duration};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    node::{Kind::Meshd, Node, bring_up, on_one_wire},
    world::{World, wait_until},
};

/// A line of /proc/PID/status without its name.
fn status(path: &str, name: &str) -> String {
    let text = fs::read_to_string(path).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_default().trim().to_owned()
}

/// The process that runs the node's scripts.
fn monitor(node: &Node) -> Option<u32> {
    let id = node.pid();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    let mut children = children.split_whitespace().map(|id| id.parse().unwrap());
    children.find(|id| {
        let comm = fs::read_to_string(format!("/proc/{id}/comm"));
        comm.is_ok_and(|comm| comm.trim() == "meshd-scripts")
    })
}

fn set(node: &Node, line: &str) {
    let file = node.dir().join("tinc.conf");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}{line}\n")).unwrap();
}

/// No thread can start a program, the other process can; scripts have rights and environment as ever.
#[test]
fn scripts_are_run_from_outside_of_the_sandbox() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [Meshd, Meshd]);
    let out = world.dir().join("out");
    let print = format!(
        "{{ env | sort; pwd; grep Seccomp: /proc/self/status; ip link set $INTERFACE alias set && echo may; }} >{}\n",
        out.display()
    );
    a.write_script("host-up", &print);
    a.write_script("host-down", "echo a line; exit 3\n");
    bring_up(&mut a, &mut b);
    for task in fs::read_dir(format!("/proc/{}/task", a.pid())).unwrap() {
        let path = task.unwrap().path().join("status").display().to_string();
        assert_eq!(status(&path, "Seccomp:"), "2", "{path}");
    }
    let id = monitor(&a).expect("somebody runs scripts");
    assert_eq!(status(&format!("/proc/{id}/status"), "Seccomp:"), "0");
    let (name, dir) = ("NAME=a", a.dir().display().to_string());
    let expected = format!(
        "DEBUG=3\nDEVICE=/dev/net/tun\nINTERFACE=mesh0\n{name}\nNODE=b\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\nPWD={dir}\n\
         REMOTEADDRESS=10.77.1.{}\nREMOTEPORT=655\n{dir}\nSeccomp:\t0\nmay\n",
        b.host.index
    );
    // The shell itself adds PWD, and `_` where it has it.
    let seen = || -> String {
        let text = fs::read_to_string(&out).unwrap_or_default();
        let lines = text.lines().filter(|line| !line.starts_with("_="));
        lines.map(|line| format!("{line}\n")).collect()
    };
    wait_until("host-up has run", Duration::from_secs(5), || match seen() {
        text if text == expected => Ok(()),
        text => Err(text),
    });
    // Asked to end with all others by a service manager, it still runs what is left to run.
    let pid = Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    thread::sleep(Duration::from_millis(300));
    a.stop();
    let log = a.log();
    assert!(log.contains("script=host-down line=a line"), "{log}");
    assert!(
        log.contains("exited with non-zero status 3 script=host-down"),
        "{log}"
    );
    // Whoever starts orphans here may leave it a zombie.
    wait_until(
        "it has ended with the daemon",
        Duration::from_secs(5),
        || match fs::read_to_string(format!("/proc/{id}/stat")) {
            Ok(stat) if !stat.contains(") Z ") => Err(stat),
            _ => Ok(()),
        },
    );
}

/// Without it no script would run any more, so the daemon ends, to be started anew.
#[test]
fn the_daemon_ends_with_what_runs_its_scripts() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [Meshd, Meshd]);
    bring_up(&mut a, &mut b);
    let pid = Pid::from_raw(i32::try_from(monitor(&a).unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    wait_until(
        "the daemon has ended",
        Duration::from_secs(10),
        || match a.ended() {
            Some(status) if !status.success() => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
    assert!(a.log().contains("the process that runs scripts has ended"));
}

/// `Sandbox = high` runs no script but tinc-up; `off` is as it was before there was one.
#[test]
fn levels_of_the_sandbox() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [Meshd, Meshd]);
    for (node, level) in [(&a, "high"), (&b, "off")] {
        set(node, &format!("Sandbox = {level}"));
        let mark = world.dir().join(&node.name).join("mark");
        node.write_script("host-up", &format!("touch {}\n", mark.display()));
    }
    bring_up(&mut a, &mut b);
    let seccomp = |node: &Node| status(&format!("/proc/{}/status", node.pid()), "Seccomp:");
    assert_eq!((seccomp(&a), seccomp(&b)), ("2".to_owned(), "0".to_owned()));
    assert_eq!((monitor(&a), monitor(&b)), (None, None));
    wait_until("b has run its script", Duration::from_secs(5), || {
        match b.dir().join("mark").exists() {
            true => Ok(()),
            false => Err(String::new()),
        }
    });
    assert!(!a.dir().join("mark").exists());
    a.stop();
}
