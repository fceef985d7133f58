//! The watchdog is fed while every thread gets on, and no longer.

#![expect(
    unsafe_code,
    reason = "one thread of another process is stopped by ptrace"
)]

use std::{
    ffi::{c_int, c_long, c_uint},
    fs, io, thread,
    time::Duration,
};

use crate::{
    node::{Kind::Meshd, Node, bring_up, on_one_wire},
    world::{World, wait_until},
};

/// WatchdogSec: the daemon feeds twice in it.
const LIMIT: Duration = Duration::from_secs(4);

unsafe extern "C" {
    fn ptrace(request: c_uint, ...) -> c_long;
}

/// linux/ptrace.h
const SEIZE: c_uint = 0x4206;
const INTERRUPT: c_uint = 0x4207;
const DETACH: c_uint = 17;

/// One thread of a daemon that gets no further, until [`Self::release`]. Only the thread that holds it may let go.
struct Held(c_int);

impl Held {
    fn new(node: &Node, name: &str) -> Self {
        let tasks = format!("/proc/{}/task", node.pid());
        let mut tasks = fs::read_dir(tasks)
            .unwrap()
            .map(|task| task.unwrap().path());
        let named = |path: &std::path::PathBuf| {
            fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name)
        };
        let task = tasks.find(named).expect("a thread of this name");
        let id: c_int = task.file_name().unwrap().to_str().unwrap().parse().unwrap();
        for request in [SEIZE, INTERRUPT] {
            call(request, id);
        }
        wait_until("the thread is stopped", LIMIT, || {
            let stat = fs::read_to_string(task.join("stat")).unwrap();
            if stat.contains(") t ") {
                Ok(())
            } else {
                Err(stat)
            }
        });
        Self(id)
    }

    fn release(self) {
        call(DETACH, self.0);
    }
}

fn call(request: c_uint, thread: c_int) {
    let none = 0 as c_long;
    // SAFETY: none of these requests looks at its address or writes through its data.
    let done = unsafe { ptrace(request, thread, none, none) };
    assert_eq!(done, 0, "{request:#x}: {}", io::Error::last_os_error());
}

/// Processor time of all its threads so far, in ticks of 10 ms.
fn spent(node: &Node) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", node.pid())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split(' ').collect();
    [fields[11], fields[12]]
        .map(|field| field.parse::<u64>().unwrap())
        .iter()
        .sum()
}

#[test]
fn one_thread_that_stands_still_starves_it() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [Meshd, Meshd]);
    a.keep().watchdog = Some(LIMIT);
    // tinc's own tool does not know it.
    let file = a.dir().join("tinc.conf");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text + "Workers = 2\n").unwrap();
    bring_up(&mut a, &mut b);
    let fed_within = |node: &Node, time| {
        let before = node.keeper().fed();
        thread::sleep(time);
        node.keeper().fed() - before
    };
    let idle = spent(&a);
    assert!((4..=6).contains(&fed_within(&a, LIMIT * 5 / 2)));
    let idle = spent(&a) - idle;
    eprintln!("   idle: {idle} of 1000 ticks");
    assert!(idle <= 20, "{idle} ticks in ten idle seconds");
    for name in ["meshd-w1", "meshd-w0"] {
        let held = Held::new(&a, name);
        // What it did before may be told once more.
        thread::sleep(LIMIT * 3 / 4);
        assert_eq!(fed_within(&a, LIMIT * 2), 0, "while {name} stands still");
        held.release();
        thread::sleep(LIMIT);
        assert!(fed_within(&a, LIMIT) > 0, "after {name} has got on");
    }
    a.assert_runs();
}
