//! `meshctl top`: rates per second, on a terminal or as text for logs.
//!
//! Source: cli/meshctl.md section 4.3.

mod draw;
mod rows;
pub mod state;

use std::{
    io::{self, IsTerminal},
    mem::ManuallyDrop,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use ratatui::{
    DefaultTerminal,
    crossterm::{
        cursor::Show,
        event::{self, Event, KeyEvent, KeyEventKind},
        execute,
    },
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use serde_json::{Map, Value};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use meshd_api::call;
use meshd_os::clock;

use crate::{
    Exit, Failure, Outcome,
    args::Format,
    context::Context,
    output::{self, Frame},
};

use draw::Picture;
use rows::Shot;
use state::{State, View};

/// Longest delay until a key, signal or answer has an effect.
const TURN: Duration = Duration::from_millis(100);

/// Options of the command line.
pub(super) struct TopOptions {
    /// Print text, one frame after another.
    pub(super) batch: bool,
    /// Number of frames of text.
    pub(super) count: Option<u32>,
    /// Time between two answers.
    pub(super) interval: Duration,
    /// The first view; in text the only one.
    pub(super) view: Option<View>,
}

pub(super) fn run(context: &Context, wanted: &TopOptions) -> Outcome {
    // A missing daemon, or a missing permission, is reported as for every other command.
    let first = ask(context)?;
    let text = wanted.batch || wanted.count.is_some() || context.format != Format::Table;
    if text {
        return batch(context, wanted, first);
    }
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    if dumb || !output::to_terminal() || !io::stdin().is_terminal() {
        output::complain("standard output is not a terminal: printing text, as with --batch");
        return batch(context, wanted, first);
    }
    interactive(context, wanted, first)
}

/// Asks the daemon for one sample.
fn ask(context: &Context) -> Result<Shot, Failure> {
    let mut client = context.connect()?;
    let peers = client.ask(call::Peers {})?.response;
    let answer = client.ask(call::Status {})?;
    Ok(Shot {
        net: answer.net,
        node: answer.node,
        time: answer.time,
        peers,
        status: *answer.response,
    })
}

/// Waits for the rest of an interval that began at `start`.
fn pause(interval: Duration, start: Instant) {
    let left = || interval.saturating_sub(clock::now().saturating_duration_since(start));
    while !left().is_zero() {
        thread::park_timeout(left());
    }
}

#[derive(Serialize)]
struct Data<'a> {
    view: &'a str,
    rows: Vec<Map<String, Value>>,
}

fn batch(context: &Context, wanted: &TopOptions, first: Shot) -> Outcome {
    let one = wanted.view.map(|view| [view]);
    let views = one.as_ref().map_or(&View::ALL[..], |one| one);
    let mut last = first;
    let mut printed = 0;
    while wanted.count.is_none_or(|count| printed < count) {
        let start = clock::now();
        pause(wanted.interval, start);
        printed += 1;
        match ask(context) {
            Ok(now) => {
                frame(context, views, &last, &now)?;
                last = now;
            }
            // On standard output, in place of the frame.
            Err(failure) if context.format == Format::Table => {
                output::print(|out| writeln!(out, "{}", lost_daemon(&failure)))?;
            }
            Err(failure) => output::complain(&lost_daemon(&failure)),
        }
    }
    Ok(Exit::Fine)
}

fn lost_daemon(failure: &Failure) -> String {
    let first = failure.text.split(';').next().unwrap_or_default();
    format!("{first}; trying again")
}

/// Prints one frame of text: the head, then each view under its name.
fn frame(context: &Context, views: &[View], before: &Shot, now: &Shot) -> Result<(), Failure> {
    let screens = views.iter().map(|view| {
        let state = State {
            view: *view,
            ..State::default()
        };
        (view.word(), rows::screen(&state, Some(before), now))
    });
    let screens: Vec<_> = screens.collect();
    let (net, node) = (now.net.as_deref(), Some(now.node.as_str()));
    let frame = Frame {
        net,
        node,
        time: &now.time,
    };
    if context.format == Format::Json {
        let data = screens.iter().map(|(view, screen)| Data {
            view,
            rows: screen.values(),
        });
        let data: Vec<_> = data.collect();
        return output::json("top", &frame, &data).map(drop);
    }
    output::print(|out| {
        if let Some((_, screen)) = screens
            .first()
            .filter(|_| context.header && context.format == Format::Table)
        {
            writeln!(out, "{}", screen.head)?;
        }
        for (view, screen) in &screens {
            match context.format {
                Format::Tsv => {
                    writeln!(out, "{view}\t{}", now.time)?;
                    screen.raw().tsv(out, context.header)?;
                }
                _ => screen.human().text(out, context.header, false)?,
            }
            writeln!(out)?;
        }
        Ok(())
    })
}

/// Asks repeatedly on a thread, so that a slow daemon does not block the terminal.
fn follow(context: Context, interval: Duration) -> mpsc::Receiver<Result<Shot, Failure>> {
    let (answers, receiver) = mpsc::channel();
    thread::spawn(move || {
        loop {
            let start = clock::now();
            pause(interval, start);
            if answers.send(ask(&context)).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Restores the terminal at the end. After a panic, ratatui's hook does the same.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        // The terminal may have closed: then there is nothing to restore.
        let _ = ratatui::try_restore();
        let _ = execute!(io::stdout(), Show);
    }
}

/// Reads keys until the receiver is dropped. It runs on its own thread: reading from a closed terminal never ends.
fn keys() -> mpsc::Receiver<KeyEvent> {
    let (pressed, receiver) = mpsc::channel();
    thread::spawn(move || {
        while let Ok(event) = event::read() {
            let Event::Key(key) = event else { continue };
            if pressed.send(key).is_err() {
                return;
            }
        }
    });
    receiver
}

/// True if the terminal on standard input was closed.
fn hung_up() -> bool {
    let input = io::stdin();
    let mut polled = [PollFd::new(&input, PollFlags::empty())];
    let closed = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
    poll(&mut polled, Some(&Timespec::default())).is_ok() && polled[0].revents().intersects(closed)
}

fn interactive(context: &Context, wanted: &TopOptions, first: Shot) -> Outcome {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        // A second signal ends the process if the terminal blocks.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&ended))?;
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    let terminal = ratatui::try_init();
    let _restored = Restored;
    let answers = follow(context.clone(), wanted.interval);
    turn(context, wanted, (terminal?, first), &answers, &ended)
}

fn turn(
    context: &Context,
    wanted: &TopOptions,
    (terminal, first): (DefaultTerminal, Shot),
    answers: &mpsc::Receiver<Result<Shot, Failure>>,
    ended: &AtomicBool,
) -> Outcome {
    let mut state = State {
        view: wanted.view.unwrap_or_default(),
        ..State::default()
    };
    // Its drop panics if neither the terminal nor standard error accepts output; `Restored` does the same work.
    let mut terminal = ManuallyDrop::new(terminal);
    let (mut before, mut now, mut trouble) = (None, first, None);
    let keys = keys();
    while !state.quit && !ended.load(Ordering::Relaxed) && !hung_up() {
        match answers.try_recv() {
            Ok(Ok(shot)) => {
                before = Some(std::mem::replace(&mut now, shot));
                trouble = None;
            }
            Ok(Err(failure)) => trouble = Some(lost_daemon(&failure)),
            Err(_) => {}
        }
        let screen = rows::screen(&state, before.as_ref(), &now);
        state.first = state.first.min(screen.rows.len());
        let picture = Picture {
            state: &state,
            screen: Some(&screen),
            trouble: trouble.as_deref(),
            color: context.color,
        };
        match terminal.draw(|frame| picture.draw(frame)) {
            // The terminal went away after the loop looked.
            Err(_) if hung_up() => break,
            drawn => drawn.map(drop)?,
        }
        match keys.recv_timeout(TURN) {
            Ok(key) if key.kind != KeyEventKind::Release => state.key(key),
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    Ok(Exit::Fine)
}
