use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use rustix::process::getpid;

use super::*;
use meshd_wire::NodeName;

use crate::hooks::run::Order;

fn write_script(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, format!("#!/bin/sh\n{text}")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn begin(dir: &Path) -> Begin {
    Begin {
        scripts: Scripts {
            base: dir.into(),
            net: None,
            name: NodeName::new("me").unwrap(),
            device: ("/dev/net/tun".into(), "mesh0".into()),
            debug: 0,
            interpreter: None,
            extension: String::new(),
            run: None,
        },
        user: None,
        chroot: false,
        nice: None,
        rising: None,
        own: Own::default(),
        confined: false,
    }
}

#[tokio::test]
async fn tinc_up_is_killed_when_the_daemon_says_so() {
    tinc_up_is_killed(true).await;
}

#[tokio::test]
async fn tinc_up_does_not_outlive_the_daemon() {
    tinc_up_is_killed(false).await;
}

/// The script process ends a tinc-up that the daemon started and cannot end.
async fn tinc_up_is_killed(by_word: bool) {
    let dir = tempfile::tempdir().unwrap();
    write_script(dir.path(), "tinc-up", "sleep 1000 &\necho begun\nwait\n");
    let mut begin = begin(dir.path());
    let order = Order {
        limit: Duration::from_millis(300),
        ..begin.scripts.order(&Call::Device { up: true })
    };
    let (sender, mut received) = mpsc::unbounded_channel();
    let events: EventSink = Arc::new(move |event| sender.send(event).unwrap_or_default());
    let mut script = run::begin(&order, &events, false).ok().unwrap();
    begin.rising = script.group();
    assert_eq!(received.recv().await, Some(ScriptEvent::Running));
    assert_eq!(
        received.recv().await,
        Some(ScriptEvent::Output("begun".into()))
    );
    assert!(script.wait().await.is_none());
    assert_eq!(
        received.recv().await,
        Some(ScriptEvent::TookLonger(order.limit))
    );

    let (socket, theirs) = UnixStream::pair().unwrap();
    let number = getpid();
    let obeying = tokio::spawn(obey(theirs, Some(number)));
    let (events, mut gone) = mpsc::channel(1);
    let monitor = Monitor::over(Prepared { socket, number }, &begin, events).unwrap();
    if by_word {
        monitor.kill();
    }
    // Its end is the daemon's end.
    let monitor = by_word.then_some(monitor);
    let status = script.wait().await.unwrap();
    assert_eq!(script.judge(status), Outcome::Failed);
    let ended = ScriptEvent::Ended("was killed by signal 9".into());
    assert_eq!(received.recv().await, Some(ended));
    drop(monitor);
    obeying.await.unwrap().unwrap();
    assert!(matches!(gone.recv().await, Some(Event::MonitorGone)));
}

/// The other end of the script process, as an attacker in the daemon would use it.
struct Wire {
    read: BufReader<tokio::net::unix::OwnedReadHalf>,
    write: OwnedWriteHalf,
}

impl Wire {
    fn to(begin: &Begin) -> Self {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(&line(begin).unwrap()).unwrap();
        tokio::spawn(obey(theirs, Some(getpid())));
        ours.set_nonblocking(true).unwrap();
        let (read, write) = tokio::net::UnixStream::from_std(ours).unwrap().into_split();
        Self {
            read: BufReader::new(read),
            write,
        }
    }

    async fn writes(&mut self, text: &[u8]) {
        self.write.write_all(text).await.unwrap();
    }

    async fn answer(&mut self) -> Answer {
        let mut text = Vec::new();
        assert_eq!(
            next_line(&mut self.read, 1 << 20, &mut text).await.unwrap(),
            Some(true)
        );
        serde_json::from_slice(&text).unwrap()
    }

    /// Returns the end of the script with this number, and skips other messages.
    async fn end_of(&mut self, id: u64) -> Outcome {
        loop {
            if let Answer::Ended(of, outcome) = self.answer().await
                && of == id
            {
                return outcome;
            }
        }
    }
}

#[tokio::test]
async fn nothing_but_a_script_of_the_list_runs_whatever_the_daemon_writes() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    write_script(dir.path(), "host-up", "echo $NODE >seen\n");
    write_script(
        dir.path(),
        "tinc-up",
        &format!("touch {}\n", mark.display()),
    );
    write_script(dir.path(), "evil", &format!("touch {}\n", mark.display()));
    let evil = dir.path().join("evil").display().to_string();
    let old = serde_json::json!({"Run": [1, {
        "script": "host-up", "path": evil, "dir": "/", "words": ["/bin/sh"], "env": [["PATH", "/tmp"]],
        "limit": {"secs": 9, "nanos": 0}
    }]});
    let begins = serde_json::to_string(&begin(Path::new("/tmp"))).unwrap();
    let mut lines: Vec<Vec<u8>> = [
        old.to_string().as_str(),
        begins.as_str(),
        r#"{"Watch":1}"#,
        r#"{"Watch":-1}"#,
        r#"{"Kill":1}"#,
        r#"{"Run":[2,{"Device":{"up":true}}]}"#,
        r#"{"Run":[3,{"HostFile":{"up":true,"node":"../evil","address":null}}]}"#,
        r#"{"Run":[3,{"Host":{"up":true,"node":"a\nb","address":null}}]}"#,
        r#"{"GiveUp":[{"user":"root"},null]}"#,
        "",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    lines.push(vec![0xff, 0, b'"']);
    lines.push(vec![b'x'; 3 * MAX_LINE]);
    let mut wire = Wire::to(&begin(dir.path()));
    for (count, line) in (1_u64..).zip(&lines) {
        wire.writes(&[line, &b"\n"[..]].concat()).await;
        if count.is_power_of_two() {
            let answer = wire.answer().await;
            assert!(matches!(answer, Answer::Refused(_)), "{answer:?}");
        }
    }
    // No process is watched: none is killed.
    wire.writes(b"\"Kill\"\n").await;
    wire.writes(b"{\"Run\":[7,{\"Host\":{\"up\":true,\"node\":\"b\",\"address\":null}}]}\n")
        .await;
    assert_eq!(wire.end_of(7).await, Outcome::Done);
    let seen = fs::read_to_string(dir.path().join("seen")).unwrap();
    assert_eq!(seen, "b\n");
    assert!(!mark.exists());
}

#[tokio::test]
async fn what_run_scripts_leaves_out_does_not_run_and_many_wait_for_nobody() {
    let dir = tempfile::tempdir().unwrap();
    write_script(
        dir.path(),
        "host-up",
        "while [ ! -e go ]; do sleep 0.02; done\n",
    );
    write_script(dir.path(), "host-down", "touch down\n");
    let mut begin = begin(dir.path());
    begin.scripts.run = Some(vec!["host-up".into()]);
    let mut wire = Wire::to(&begin);
    let ask = |id: u64, up: bool| {
        format!("{{\"Run\":[{id},{{\"Host\":{{\"up\":{up},\"node\":\"b\",\"address\":null}}}}]}}\n")
    };
    wire.writes(ask(1, false).as_bytes()).await;
    assert_eq!(wire.end_of(1).await, Outcome::Failed);
    let most = MAX_AT_ONCE as u64;
    for id in 2..=most + 2 {
        wire.writes(ask(id, true).as_bytes()).await;
    }
    // The last script exceeds the limit.
    assert_eq!(wire.end_of(most + 2).await, Outcome::Failed);
    fs::write(dir.path().join("go"), "").unwrap();
    assert_eq!(wire.end_of(2).await, Outcome::Done);
    assert!(!dir.path().join("down").exists());
}

#[test]
fn only_a_child_of_the_daemon_is_watched() {
    let mut child = std::process::Command::new("sleep");
    std::os::unix::process::CommandExt::process_group(&mut child, 0);
    let mut child = child.arg("30").spawn().unwrap();
    let number = child.id().cast_signed();
    assert!(Watched::child(number, Pid::INIT).is_none(), "another's");
    for other in [0, 1, -1, i32::MIN, getpid().as_raw_pid()] {
        assert!(Watched::child(other, getpid()).is_none(), "{other}");
    }
    let watched = Watched::child(number, getpid()).unwrap();
    let reused = Watched {
        started: watched.started + 1,
        ..watched
    };
    reused.kill();
    assert!(
        child.try_wait().unwrap().is_none(),
        "another process by now"
    );
    Watched::child(number, getpid()).unwrap().kill();
    assert!(!child.wait().unwrap().success());
}
