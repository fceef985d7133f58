//! Strangers without a key: T11 and T36 of proto/threat-model.md.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    thread,
    time::{Duration, Instant},
};

use crate::{
    hostile::connect,
    node::{
        Kind::{Meshd, Tinc11},
        on_one_wire,
    },
    traffic::wait_ping,
    world::{Host, World, wait_until},
};

/// Answer to these bytes until the other side ends the connection or is silent for a while.
pub(crate) fn answer_to(from: &Host, to: &str, bytes: &[u8]) -> Vec<u8> {
    let Ok(mut stream) = connect(from, None, to) else {
        return Vec::new();
    };
    stream
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        answer.extend_from_slice(&buffer[..count]);
    }
    answer
}

/// Says something and hangs up.
pub(crate) fn say_and_go(from: &Host, to: &str, bytes: &[u8]) {
    if let Ok(mut stream) = connect(from, None, to) {
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// T11: whoever knows the cookie of the pid file gets nothing by TCP.
#[test]
fn t11_no_control_over_tcp() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b] = on_one_wire(&world, &wire, [Meshd, Tinc11]);
    b.connect_to(&["a"]);
    a.start();
    b.start();
    a.wait_reaches(&b);
    let pid_file = std::fs::read_to_string(a.dir().join("pid")).unwrap();
    let cookie = pid_file
        .split_whitespace()
        .nth(1)
        .map_or_else(|| "0123456789ABCDEF".repeat(4), str::to_owned);
    let address = wire.v4(a.host.index);
    for line in [
        format!("0 ^{cookie} 0\n18 3\n"),
        format!("0 ^{cookie} 17.7\n18 0\n"),
        "0 ^ 0\n18 0\n".to_owned(),
        "{\"v\":1,\"cmd\":\"stop\"}\n".to_owned(),
    ] {
        let answer = answer_to(&b.host, &address, line.as_bytes());
        assert_eq!(answer, b"", "an answer to {line:?}");
    }
    a.assert_runs();
    a.wait_reaches(&b);
}

/// T36: five thousand connections from two hundred addresses, none of which ever gets anywhere. An
/// honest peer still connects, and they cost little memory.
#[test]
fn t36_slow_loris() {
    let world = World::new();
    let wire = world.wire();
    let attacker = world.host("attacker", &[&wire]);
    for index in 50..250 {
        attacker.ip(&format!("address add {}/24 dev eth1", wire.v4(index)));
    }
    let [mut a, mut b] = on_one_wire(&world, &wire, [Meshd, Tinc11]);
    b.connect_to(&["a"]);
    a.start();
    let rss = a.rss();
    let kex = [&[0, 65, 128][..], &[0; 30]].concat();
    let openings: [&[u8]; 5] = [
        b"",
        b"0",
        b"0 b 17.7\n",
        &[b"0 b 17.7\n", &kex[..]].concat(),
        &[b"0 b 17.7\n", &[0xff, 0xff, 128][..]].concat(),
    ];
    let address = wire.v4(a.host.index);
    let held = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let held = usize::try_from(held.unwrap_or(1 << 20)).unwrap() / 2;
    let mut streams: Vec<TcpStream> = Vec::new();
    let mut peak = 0;
    let mut connected = None;
    for count in 0..5000_usize {
        let source = wire.v4(50 + u8::try_from(count % 200).unwrap());
        if let Ok(mut stream) = connect(&attacker, Some(&source), &address) {
            let _ = stream.write_all(openings[count % openings.len()]);
            streams.push(stream);
        }
        if streams.len() > held {
            streams.drain(..held / 4);
        }
        // One byte now and then from all that wait for more.
        if count % 500 == 0 {
            for stream in &mut streams {
                let _ = stream.write(b"x");
            }
            peak = peak.max(a.rss());
        }
        if count == 2500 {
            // In the midst of it an honest peer comes up.
            b.start();
            connected = Some(Instant::now());
        }
    }
    let took = connected.unwrap();
    wait_until(
        "the honest peer is connected",
        Duration::from_secs(20),
        || {
            let dump = b.try_dump()?;
            if dump.shared().reachable.contains("a") {
                Ok(())
            } else {
                Err(dump.to_string())
            }
        },
    );
    eprintln!("honest peer up {:?} after its start", took.elapsed());
    a.assert_runs();
    wait_ping(&b, &a.v4(), 56);
    // It can also come back while they are all there.
    b.kill();
    b.start();
    let restarted = Instant::now();
    wait_until("the honest peer is back", Duration::from_secs(5), || {
        let dump = b.try_dump()?;
        if dump.shared().reachable.contains("a") {
            Ok(())
        } else {
            Err(dump.to_string())
        }
    });
    eprintln!("back after {:?}", restarted.elapsed());
    let grown = peak.max(a.rss()).saturating_sub(rss);
    assert!(grown <= 16 << 10, "grown by {grown} KiB");
    // Ten seconds at most for anybody who does not get anywhere.
    thread::sleep(Duration::from_secs(11));
    let mut open = 0;
    for stream in &mut streams {
        stream.set_nonblocking(true).unwrap();
        let mut buffer = [0; 512];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    open += 1;
                    break;
                }
                Err(_) => break,
            }
        }
    }
    assert_eq!(open, 0, "connections are still open");
    b.wait_reaches(&a);
}
