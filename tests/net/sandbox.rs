//! Rights that the daemon has given up while it works, and rights that scripts still have (T50 to T52 of proto/threat-model.md).

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    node::{Kind::Meshd, Node, bring_up, on_one_wire},
    world::{World, run, wait_until},
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
    let shown = fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap();
    assert_eq!(shown.trim_end_matches('\0'), "meshd-scripts");
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
    // Asked to end with all others by a service manager, or whatever a daemon is asked, it still runs what is left to run.
    let pid = Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
    for signal in [
        Signal::TERM,
        Signal::INT,
        Signal::HUP,
        Signal::ALARM,
        Signal::USR1,
        Signal::USR2,
        Signal::QUIT,
    ] {
        kill_process(pid, signal).unwrap();
    }
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
    assert!(a.log().contains("the script process has ended"));
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
    assert_eq!(monitor(&b), None);
    // With `high` that process opens the log and removes files at the end, and starts nothing.
    let keeper = monitor(&a).expect("somebody keeps its files");
    wait_until(
        "it is in a sandbox too",
        Duration::from_secs(5),
        || match status(&format!("/proc/{keeper}/status"), "Seccomp:").as_str() {
            "2" => Ok(()),
            other => Err(other.to_owned()),
        },
    );
    wait_until("b has run its script", Duration::from_secs(5), || {
        match b.dir().join("mark").exists() {
            true => Ok(()),
            false => Err(String::new()),
        }
    });
    assert!(!a.dir().join("mark").exists());
    a.stop();
}

/// A set of capabilities of a process or thread, as bits.
fn capabilities(path: &str, set: &str) -> u64 {
    u64::from_str_radix(&status(path, set), 16).unwrap()
}

/// Root keeps what reads files of others, and for routes what sets them; in all sets, and packet threads nothing. Its scripts have
/// what the unit would give them.
#[test]
fn root_gives_up_its_rights() {
    const READ: u64 = 1 << 2;
    const NET_ADMIN: u64 = 1 << 12;
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [Meshd, Meshd]);
    set(&b, "InterfaceRoute = auto");
    // As a key of the user meshd: root reads it by that one right.
    let key = a.dir().join("ed25519_key.priv");
    chown(&key, Some(65534), None).unwrap();
    bring_up(&mut a, &mut b);
    // DAC_OVERRIDE, DAC_READ_SEARCH, SETGID, SETUID, NET_BIND_SERVICE, NET_ADMIN, NET_RAW.
    let unit: u64 = [1, 2, 6, 7, 10, 12, 13].map(|bit| 1 << bit).iter().sum();
    let given = unit & capabilities("/proc/self/status", "CapBnd:");
    for (node, kept) in [(&a, READ), (&b, READ | NET_ADMIN)] {
        for task in fs::read_dir(format!("/proc/{}/task", node.pid())).unwrap() {
            let path = task.unwrap().path();
            let name = fs::read_to_string(path.join("comm")).unwrap();
            let path = path.join("status").display().to_string();
            let wanted = match name.starts_with("meshd-w") {
                true => 0,
                false => kept,
            };
            for (set, wanted) in [
                ("CapPrm:", wanted),
                ("CapEff:", wanted),
                ("CapInh:", 0),
                ("CapAmb:", 0),
                ("CapBnd:", 0),
            ] {
                assert_eq!(capabilities(&path, set), wanted, "{set} of {name}");
            }
        }
        let scripts = format!("/proc/{}/status", monitor(node).unwrap());
        assert_eq!(status(&scripts, "NoNewPrivs:"), "1");
        for set in ["CapBnd:", "CapPrm:", "CapEff:"] {
            wait_until(
                "it has given up the rest",
                Duration::from_secs(5),
                || match capabilities(&scripts, set) {
                    some if some == given => Ok(()),
                    some => Err(format!("{set} {some:x}")),
                },
            );
        }
    }
    // A reload reads the key anew, and a host file that somebody else wrote.
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let host = a.dir().join("hosts/b");
    chown(&host, Some(65534), None).unwrap();
    fs::set_permissions(&host, fs::Permissions::from_mode(0o600)).unwrap();
    let reload = a.meshctl().arg("reload").output().unwrap();
    assert!(reload.status.success(), "{reload:?}");
    let check = a.meshctl().args(["status", "--json"]).output().unwrap();
    let check: serde_json::Value = serde_json::from_slice(&check.stdout).unwrap();
    assert_eq!(check["data"]["problems"], serde_json::json!([]));
    assert_eq!(check["data"]["refused_calls"], serde_json::json!({}));
    a.stop();
    b.stop();
}

/// `-R` and the sandbox, as root and as somebody else: scripts run in the new root, by a process that was started outside of it.
#[test]
fn another_root_has_a_sandbox_too() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [Meshd, Meshd]);
    a.options = vec!["-R"];
    b.options = vec!["-R", "-U", "nobody"];
    for node in [&a, &b] {
        furnish(node.dir());
        node.write_script("host-up", "echo $NODE $PWD $(id) >/spool/out\n");
        // Whoever it becomes reads its own tree.
        let own = node.options.len() > 1;
        run(Command::new("chown")
            .args(["-R", if own { "nobody" } else { "root" }])
            .arg(node.dir()));
    }
    bring_up(&mut a, &mut b);
    for (node, user) in [(&a, "uid=0"), (&b, "uid=65534")] {
        let path = format!("/proc/{}/status", node.pid());
        assert_eq!(status(&path, "Seccomp:"), "2");
        let log = node.log();
        assert!(
            !log.contains("runs without") && !log.contains("no Landlock"),
            "{log}"
        );
        assert_eq!(
            fs::read_link(format!("/proc/{}/root", node.pid())).unwrap(),
            node.dir()
        );
        let scripts = monitor(node).expect("somebody runs scripts");
        assert_eq!(status(&format!("/proc/{scripts}/status"), "Seccomp:"), "0");
        let other = if node.name == "a" { "b" } else { "a" };
        let out = node.dir().join("spool/out");
        wait_until(
            "host-up has run",
            Duration::from_secs(5),
            || match fs::read_to_string(&out).unwrap_or_default() {
                text if text.starts_with(&format!("{other} / {user}")) => Ok(()),
                text => Err(text),
            },
        );
        let reload = node.meshctl().arg("reload").output().unwrap();
        assert!(reload.status.success(), "{reload:?}");
    }
    a.stop();
    b.stop();
}

/// While tinc-up runs, with all rights and where it always did, the daemon has none left and no door is open. What runs after it
/// is the user's; a stop in the meantime is as ever.
#[test]
fn rights_are_given_up_beside_tinc_up() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [Meshd, Meshd]);
    a.options = vec!["-R", "-U", "nobody"];
    furnish(a.dir());
    let up = fs::read_to_string(a.dir().join("tinc-up")).unwrap();
    let who = "echo uid $(id -u) in $PWD\n";
    let wait = "echo $$ >number; while [ -e held ]; do sleep 0.05; done\n";
    fs::write(a.dir().join("tinc-up"), format!("{up}{who}{wait}")).unwrap();
    a.write_script("host-up", who);
    a.write_script("tinc-down", who);
    run(Command::new("chown").args(["-R", "nobody"]).arg(a.dir()));
    a.connect_to(&["b"]);
    let held = a.dir().join("held");
    fs::write(&held, "").unwrap();
    b.start();
    a.start();
    let given_up = |a: &Node| {
        let path = format!("/proc/{}/status", a.pid());
        wait_until(
            "rights are given up",
            Duration::from_secs(10),
            || match status(&path, "Seccomp:").as_str() {
                "2" => Ok(()),
                other => Err(other.to_owned()),
            },
        );
        assert!(status(&path, "Uid:").starts_with("65534\t65534\t65534"));
        assert_eq!(capabilities(&path, "CapPrm:"), 0);
        let root = fs::read_link(format!("/proc/{}/root", a.pid())).unwrap();
        assert_eq!(root, a.dir());
        assert!(!a.log().contains(" ready"), "{}", a.log());
    };
    given_up(&a);
    let scripts = monitor(&a).expect("somebody runs scripts");
    let path = format!("/proc/{scripts}/status");
    let all = capabilities("/proc/self/status", "CapEff:");
    assert_eq!(capabilities(&path, "CapEff:"), all);
    fs::remove_file(&held).unwrap();
    a.wait_reaches(&b);
    // It is told, and not waited for.
    wait_until("so has it", Duration::from_secs(5), || {
        match capabilities(&path, "CapEff:") {
            0 => Ok(()),
            some => Err(format!("{some:x}")),
        }
    });
    let (dir, log) = (a.dir().display().to_string(), a.log());
    assert!(
        log.contains(&format!("script=tinc-up line=uid 0 in {dir}")),
        "{log}"
    );
    wait_until("host-up has run", Duration::from_secs(5), || {
        match a.log() {
            log if log.contains("script=host-up line=uid 65534 in /\n") => Ok(()),
            log => Err(log),
        }
    });
    a.stop();
    assert!(a.log().contains("script=tinc-down line=uid 65534 in /\n"));

    fs::write(&held, "").unwrap();
    fs::remove_file(a.dir().join("log")).unwrap();
    a.start();
    given_up(&a);
    let number = fs::read_to_string(a.dir().join("number")).unwrap();
    a.stop();
    let log = a.log();
    assert!(
        log.contains(&format!("script=tinc-down line=uid 0 in {dir}")),
        "{log}"
    );
    wait_until(
        "tinc-up has ended too",
        Duration::from_secs(5),
        || match fs::read_to_string(format!("/proc/{}/stat", number.trim())) {
            Ok(stat) if !stat.contains(") Z ") => Err(stat),
            _ => Ok(()),
        },
    );
}

/// Puts into a directory what a script needs to run there.
fn furnish(dir: &Path) {
    let spool = dir.join("spool");
    fs::create_dir(&spool).unwrap();
    for program in ["/bin/sh", "/usr/bin/id"] {
        let libraries = run(Command::new("ldd").arg(program));
        let libraries = libraries
            .split_whitespace()
            .filter(|word| word.starts_with('/'));
        for file in libraries.chain([program]) {
            let place = dir.join(&file[1..]);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::copy(file, place).unwrap();
        }
    }
}

/// Actions that a mesh does not cause by itself: name look-ups, every signal, a log in a file, locked memory, priorities.
#[test]
fn what_is_asked_of_a_daemon_goes_on_in_its_sandbox() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [Meshd, Meshd]);
    let file = world.dir().join("a.log");
    a.options = vec![format!("--logfile={}", file.display()).leak(), "-L"];
    set(&a, "ProcessPriority = high");
    // The first name is ours, and refuses us; the second one has no name server to ask, or one that knows of none.
    let host = a.dir().join("hosts/b");
    let text = fs::read_to_string(&host).unwrap();
    let text = text.replace("Address = 10.77.1.", "#");
    fs::write(
        &host,
        format!("Address = localhost\nAddress = nowhere.invalid\n{text}"),
    )
    .unwrap();
    a.connect_to(&["b"]);
    a.start();
    wait_until(
        "a name is looked up",
        Duration::from_secs(10),
        || match fs::read_to_string(&file).unwrap() {
            log if log.contains("127.0.0.1:655") || log.contains("[::1]:655") => Ok(()),
            log => Err(log),
        },
    );
    b.connect_to(&["a"]);
    b.start();
    a.wait_reaches(&b);
    let asked = [
        Signal::HUP,
        Signal::USR1,
        Signal::USR2,
        Signal::WINCH,
        Signal::ALARM,
    ];
    for node in [&a, &b] {
        for signal in asked {
            node.signal(signal);
            thread::sleep(Duration::from_millis(300));
        }
        node.wait_reaches(if node.name == "a" { &b } else { &a });
        let said = node.meshctl().arg("metrics").output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout);
        assert!(
            said.contains("meshd_peer_up") && !said.contains("refused_calls_total{"),
            "{said}"
        );
    }
    a.stop();
    b.stop();
}
