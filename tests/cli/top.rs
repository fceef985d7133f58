//! `meshctl top` as text, and its arguments.

use std::{
    fs,
    io::{Read as _, Write},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use meshd::api::{
    call::Request,
    proto::{ErrorCode, Response},
};

use crate::{
    daemon::{Daemon, healthy, refuse},
    ended, meshctl,
};

/// Ten packets of 100 bytes and two PINGs more at each look, which are a second apart for the daemon.
fn busy(request: Request) -> Option<Response> {
    static LOOKS: AtomicU64 = AtomicU64::new(0);
    let mut response = healthy(request)?;
    match &mut response {
        Response::Peers(rows) => {
            let n = LOOKS.fetch_add(1, Ordering::Relaxed);
            (rows[0].rx_packets, rows[0].rx_bytes) = (10 * n, 1000 * n);
        }
        Response::Status(status) => {
            let n = LOOKS.load(Ordering::Relaxed);
            status.uptime_seconds = n as f64;
            status.messages.insert("PING".into(), [2 * n, n]);
        }
        _ => {}
    }
    Some(response)
}

const FAST: [&str; 3] = ["top", "--interval", "100ms"];

#[test]
fn frames_have_rates_and_the_same_columns() {
    let daemon = Daemon::new(busy);
    let (code, out, err) = daemon.run(&[&FAST[..], &["--batch", "-c", "2"]].concat());
    assert_eq!((code, err.as_str()), (0, ""));
    let heads = out
        .lines()
        .filter(|line| line.starts_with("priv  web_01  up"));
    assert_eq!(heads.count(), 2, "{out}");
    for (begin, count) in [("NAME", 2), ("MESSAGE", 2), ("REASON", 2), ("THREAD ", 2)] {
        let lines: Vec<_> = out.lines().filter(|line| line.starts_with(begin)).collect();
        assert_eq!(lines.len(), count, "{out}");
    }
    let db: Vec<_> = out
        .lines()
        .filter(|line| line.starts_with("db_01"))
        .collect();
    let words: Vec<_> = db[1].split_whitespace().collect();
    assert!(words.ends_with(&["8.0k", "0", "10", "0", "12d"]), "{out}");
    let ping = out.lines().filter(|line| line.starts_with("PING"));
    let words: Vec<_> = ping.map(|line| line.split_whitespace().nth(2)).collect();
    assert_eq!(words, [Some("1.0"); 2], "{out}");
    assert!(!out.contains('\x1b'));

    let (_, out, _) = daemon.run(&[&FAST[..], &["-c", "2", "--view", "peers", "--json"]].concat());
    let lines: Vec<serde_json::Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["schema"], "meshctl.top/1");
    let peers = &lines[1]["data"][0];
    assert_eq!(peers["view"], "peers");
    let db = peers["rows"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["name"] == "db_01");
    assert_eq!(db.unwrap()["rx_bits_per_second"], 8000.0);
}

#[test]
fn without_a_terminal_it_is_text_and_says_so() {
    let daemon = Daemon::new(healthy);
    let socket = daemon.socket();
    let mut command = meshctl(&["--socket", socket.to_str().unwrap()]);
    let mut child = command
        .args(FAST)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    thread::park_timeout(Duration::from_secs(2));
    // Who has read enough ends it.
    drop(child.stdout.take());
    let (code, _, err) = ended(child.wait_with_output().unwrap());
    assert_eq!(code, 0);
    assert_eq!(
        err,
        "meshctl: standard output is not a terminal: printing text, as with --batch\n"
    );
}

/// A daemon that answers once, is away, and comes back.
fn away(request: Request) -> Option<Response> {
    static LOOKS: AtomicU64 = AtomicU64::new(0);
    if matches!(request, Request::Peers(_)) && LOOKS.fetch_add(1, Ordering::Relaxed) == 1 {
        return Some(refuse(ErrorCode::Busy, "the daemon is stopping"));
    }
    healthy(request)
}

#[test]
fn a_daemon_that_is_away_is_a_line_and_asked_again() {
    let daemon = Daemon::new(away);
    let all = [&FAST[..], &["-c", "2", "--view", "peers"]].concat();
    let (code, out, _) = daemon.run(&all);
    assert_eq!(code, 0);
    let mut lines = out.lines();
    assert_eq!(lines.next(), Some("the daemon is stopping; trying again"));
    assert!(lines.next().unwrap().starts_with("priv  web_01"), "{out}");
}

#[test]
fn a_daemon_that_never_was_and_bad_arguments_are_errors() {
    let (code, _, err) = crate::run(&["--socket", "/nonexistent/socket", "top", "-c", "1"]);
    assert_eq!(code, 3, "{err}");
    for bad in [
        ["--interval", "1ms"],
        ["--interval", "soon"],
        ["-c", "0"],
        ["--view", "all"],
    ] {
        assert_eq!(crate::run(&[&["top"][..], &bad].concat()).0, 2, "{bad:?}");
    }
}

/// `meshctl top` on a terminal of its own, by util-linux's script(1).
struct OnTerminal {
    script: Child,
    /// All that it has written.
    shown: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

impl OnTerminal {
    /// Started, and the terminal taken.
    fn start(daemon: &Daemon) -> Self {
        Self::of_width(daemon, 120)
    }

    fn of_width(daemon: &Daemon, width: u16) -> Self {
        let line = format!(
            "stty rows 20 columns {width}; exec {} --socket {} top --interval 100ms",
            env!("CARGO_BIN_EXE_meshctl"),
            daemon.socket().display()
        );
        Self::of(&line)
    }

    fn of(line: &str) -> Self {
        let mut script = Command::new("script")
            .args(["-qec", line, "/dev/null"])
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = script.stdout.take().unwrap();
        let shown = Arc::new(Mutex::new(String::new()));
        let text = Arc::clone(&shown);
        let reader = thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(length @ 1..) = out.read(&mut part) {
                text.lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&part[..length]));
            }
        });
        let this = Self {
            script,
            shown,
            reader,
        };
        this.wait(ENTERED);
        this
    }

    fn wait(&self, text: &str) {
        let start = Instant::now();
        loop {
            let shown = self.shown.lock().unwrap().clone();
            if shown.contains(text) {
                return;
            }
            let waits = start.elapsed() < Duration::from_secs(30);
            assert!(waits, "no {text:?} in {shown}");
            thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// The process that is on it.
    fn child(&self) -> Pid {
        let script = self.script.id();
        let children = format!("/proc/{script}/task/{script}/children");
        let child = fs::read_to_string(children).unwrap();
        Pid::from_raw(child.trim().parse().unwrap()).unwrap()
    }

    fn press(&mut self, key: &str) {
        let input = self.script.stdin.as_mut().unwrap();
        input.write_all(key.as_bytes()).unwrap();
        input.flush().unwrap();
    }

    /// Checks that it ends well and gives the terminal back.
    fn assert_ends(mut self) {
        let code = self.script.wait().unwrap().code();
        self.reader.join().unwrap();
        let shown = self.shown.lock().unwrap();
        assert_eq!(code, Some(0), "{shown}");
        assert!(shown.contains(LEFT), "{shown}");
    }
}

const ENTERED: &str = "\x1b[?1049h";
const LEFT: &str = "\x1b[?1049l";

#[test]
fn the_terminal_shows_views_and_is_given_back() {
    let daemon = Daemon::new(healthy);
    let mut top = OnTerminal::start(&daemon);
    top.wait("cache_1");
    top.press("2");
    top.wait("MESSAGE");
    top.press("q");
    top.assert_ends();
    // By a signal as well.
    let top = OnTerminal::start(&daemon);
    kill_process(top.child(), Signal::TERM).unwrap();
    top.assert_ends();
}

/// A terminal that goes away takes `top` with it, and so does a signal then.
#[test]
fn it_ends_when_its_terminal_goes_away() {
    let daemon = Daemon::new(healthy);
    let code = daemon.dir.path().join("code");
    let line = format!(
        "stty rows 20 columns 120; trap '' HUP; {} --socket {} top --interval 100ms; echo $? >{}",
        env!("CARGO_BIN_EXE_meshctl"),
        daemon.socket().display(),
        code.display()
    );
    let mut top = OnTerminal::of(&line);
    top.wait("cache_1");
    // Nobody else holds the other side.
    top.script.kill().unwrap();
    top.script.wait().unwrap();
    top.reader.join().unwrap();
    let start = Instant::now();
    let ended = loop {
        match fs::read_to_string(&code) {
            Ok(text) if text.ends_with('\n') => break text,
            _ => assert!(start.elapsed() < Duration::from_secs(30), "top goes on"),
        }
        thread::park_timeout(Duration::from_millis(20));
    };
    assert_eq!(ended, "0\n");
}

/// Names and numbers are whole in every width, and two headings never alike.
#[test]
fn no_cell_is_cut_on_a_narrow_terminal() {
    let daemon = Daemon::new(healthy);
    for width in [60, 80, 100] {
        let mut top = OnTerminal::of_width(&daemon, width);
        for name in ["db_01", "cache_1", "web_09", "0.4ms"] {
            top.wait(name);
        }
        top.press("q");
        top.assert_ends();
    }
}

/// `peers` fits the terminal; what is dropped is whole columns, and a note has a line of its own.
#[test]
fn peers_fit_the_terminal() {
    let daemon = Daemon::new(healthy);
    let shown = |width: usize| -> String {
        let line = format!(
            "stty rows 20 columns {width}; exec {} --socket {} --color never peers",
            env!("CARGO_BIN_EXE_meshctl"),
            daemon.socket().display()
        );
        let output = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().replace('\r', "")
    };
    let wide = shown(400);
    let words: Vec<&str> = wide.split_whitespace().collect();
    for width in (60..=120).step_by(5) {
        let text = shown(width);
        for line in text.lines() {
            assert!(line.chars().count() <= width, "{width}: {text}");
        }
        for word in text.split_whitespace() {
            assert!(words.contains(&word), "{width}: {word:?} in {text}");
        }
        for whole in [
            "db_01", "cache_1", "web_09", "old_03", "udp", "via", "down", "web_09",
        ] {
            assert!(
                text.split_whitespace().any(|word| word == whole),
                "{width}: {whole} not in {text}"
            );
        }
    }
    // Into a pipe nothing is left out.
    let (_, out, _) = daemon.run(&["peers"]);
    assert_eq!(out.split_whitespace().collect::<Vec<_>>(), words);
}
